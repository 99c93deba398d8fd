"""Simulates a Braze send: `python -m tests.bench.send [--policy "one worker"]`.

Sends to the same recipients by several policies: direct calls to the emulated Amplitude, a plain cache by URL, the
service with one worker, the service with two workers and Redis, and the service after warming. Recommendations cannot
be pushed or exported, so messages without recommendations are sent after webhooks, after cohort downloads, and without
both. Each policy has a new sandbox.

A message is personalised if all of its calls were answered in time, some by "unknown user". Prints the table of
docs/benchmarks.md, then the kept and broken promises. Takes 25 minutes. The exit code is 1 if a promise was broken,
and 2 if the generator was too slow, so that the figures are invalid.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.braze import (
    ALL,
    PUSHABLE,
    REC_ID,
    Recipient,
    Sender,
    Tally,
    amplitude_caller,
    recipients,
    service_caller,
)
from tests.bench.load import TIMEOUT_SECONDS, Connections, Observer, command_line, milliseconds, percentile, table
from tests.bench.prepare import Preparation, Stage, exported, pushed, warmed
from tests.bench.processes import AUTHORIZATION, Report, SandboxProcess, Service
from tests.bench.quota_bound import UsefulTime, paced_bound, quota_bound
from tests.support.redis_server import RedisServer

POINTS_BELOW_THE_BOUND = 2.0


@dataclass(frozen=True)
class Policy:
    """A way to send. Several `workers` use Redis; without workers, the calls do not use the service."""

    workers: int = 0
    prepare: Preparation | None = None
    """Requires Redis, which stores the result."""
    tags: tuple[str, ...] = ALL


POLICIES = {
    "direct calls": Policy(),
    "cache by URL": Policy(),
    "one worker": Policy(1),
    "two workers and Redis": Policy(2),
    **{f"{minutes} minutes of warming": Policy(2, warmed(minutes)) for minutes in (3, 6, 9)},
    "no recommendations": Policy(2, None, PUSHABLE),
    "no recommendations, pushed": Policy(2, pushed, PUSHABLE),
    "no recommendations, exported": Policy(2, exported, PUSHABLE),
}


@dataclass(frozen=True)
class Result:
    """The outcome of a policy.

    before, after: the calls to Amplitude before the send, and during the send.
    """

    name: str
    policy: Policy
    tally: Tally
    halts: int
    before: Report
    after: Report
    workers: int
    memory: int
    """Maximum memory of the service in bytes; 0 without the service."""
    observer: Observer
    prepared: set[str]
    """Users whose data was complete in the service before the send."""

    @property
    def exposures(self) -> list[tuple[str, str]]:
        """Return all exposures, before and during the send."""
        return self.before.exposures + self.after.exposures

    @property
    def late(self) -> int:
        """Return the number of answers after Braze's time limit."""
        return sum(seconds > TIMEOUT_SECONDS for seconds in self.tally.times)

    @property
    def unrequested_exposures(self) -> int:
        """Return the number of exposures that no template requested."""
        return sum(user not in self.tally.requested or rec_id != REC_ID for user, rec_id in self.exposures)


def run(name: str, audience: list[Recipient], options: argparse.Namespace) -> Result:
    """Run one policy."""
    policy = POLICIES[name]
    with ExitStack() as running:
        sandbox = running.enter_context(SandboxProcess(per_minute=options.per_minute, latency=options.latency))
        service, prepared, before = None, set[str](), sandbox.report()
        if policy.workers:
            settings = {"AMPLITUDE_REQUESTS_PER_MINUTE": str(options.per_minute)}
            if policy.workers > 1:
                redis = running.enter_context(RedisServer())
                settings |= {"REDIS_URL": redis.url, "WEB_CONCURRENCY": str(policy.workers)}
            if policy.prepare:
                users = [recipient.user for recipient in audience]
                prepared = policy.prepare(Stage(sandbox, settings, users, options.per_minute, options.seed))
                before = sandbox.report()
                sandbox.reset(options.per_minute)
            service = running.enter_context(Service(sandbox, **settings))
            connections = Connections(service.port, f"Authorization: {AUTHORIZATION}")
            sender = Sender(service_caller(connections, exported=policy.prepare is exported), policy.tags)
        else:
            connections = Connections(sandbox.port, f"Authorization: Api-Key {sandbox.secret_key}")
            sender = Sender(amplitude_caller(connections, cached=name == "cache by URL"), policy.tags)
        workers = len(service.workers()) if service else 0
        observer, memory = asyncio.run(_send(sender, audience, options.seconds, service))
        report = sandbox.report()
    halts = sender.health.halts
    return Result(name, policy, sender.tally, halts, before, report, workers, memory, observer, prepared)


async def _send(
    sender: Sender, audience: list[Recipient], seconds: float, service: Service | None
) -> tuple[Observer, int]:
    memory = 0

    async def watch() -> None:
        nonlocal memory
        while service is not None:
            memory = max(memory, await asyncio.to_thread(service.memory))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    async with Observer() as observer:
        await sender.send(audience, seconds)
    watching.cancel()
    return observer, memory


def column(result: Result, count: int) -> dict[str, str]:
    """Return the figures of a policy by name."""
    tally, after = result.tally, result.after
    exposed = Counter(result.exposures)
    unrequested = result.unrequested_exposures
    wasted = {user for user, _ in exposed} & set(tally.not_personalised)
    return {
        "personalised messages": _share(len(tally.first_try) + len(tally.retry), count),
        "… at the first try": _share(len(tally.first_try), count),
        "… at a retry": _share(len(tally.retry), count),
        "messages not personalised": _share(len(tally.not_personalised), count),
        "calls to Amplitude": f"{len(after.calls):,}",
        "… in the worst 60 seconds": f"{after.worst_minute:,}",
        "… rejected with 429": f"{after.statuses.get(429, 0):,}",
        "… before the send": f"{len(result.before.calls):,}",
        "exposures logged, per user and requested recommendation": f"{len(exposed):,} of {len(tally.requested):,}"
        + (f" ({unrequested:,} not requested)" if unrequested else ""),
        "… logged more than once": f"{exposed.total() - len(exposed):,}",
        "… for a message that was not personalised": f"{len(wasted):,}",
        "answers by status": ", ".join(f"{status}: {times:,}" for status, times in sorted(tally.statuses.items())),
        "time to answer, p50": milliseconds(percentile(tally.times, 0.5)),
        "… p99": milliseconds(percentile(tally.times, 0.99)),
        "… maximum": milliseconds(max(tally.times)),
        "… over 2 s": f"{result.late:,}",
        "unhealthy-host events": f"{result.halts:,}",
        "maximum memory of the service": f"{result.memory / 2**20:.0f} MiB" if result.memory else "",
        "generator": f"{result.observer}",
    }


def broken(result: Result, bound: int, options: argparse.Namespace) -> dict[str, bool]:
    """Return the promises of the service; the value is true for a broken promise."""
    tally, after, workers = result.tally, result.after, result.policy.workers
    other = sorted(set(tally.statuses) - {"200", "500"})
    promises = {
        f"the service runs with {workers} worker{'s' * (workers > 1)}": result.workers != workers,
        "no 429": after.statuses.get(429, 0) > 0,
        f"at most {options.per_minute} calls in any 60 s": after.worst_minute > options.per_minute,
        "no answer over 2 s": result.late > 0,
        f"only statuses 200 and 500{f' (also: {other})' if other else ''}": bool(other),
        "no exposure without a request": result.unrequested_exposures > 0,
        "no exposure twice": len(result.exposures) > len(set(result.exposures)),
        "the host is never unhealthy": result.halts > 0,
    }
    if result.policy.prepare is None:
        below = 100 * (bound - len(tally.first_try) - len(tally.retry)) / options.recipients
        promise = f"personalised within {POINTS_BELOW_THE_BOUND:g} points of the bound ({below:.1f} below)"
        return promises | {promise: below > POINTS_BELOW_THE_BOUND}
    not_first = len(result.prepared - set(tally.first_try))
    called = len(result.prepared & {user for _, user in after.calls})
    return promises | {
        f"all {len(result.prepared):,} prepared users are personalised at the first try ({not_first:,} are not)": (
            not_first > 0
        ),
        f"prepared users cost no call during the send ({called:,} cost a call)": called > 0,
    }


def _share(count: int, whole: int) -> str:
    return f"{100 * count / whole:.1f} % ({count:,})"


def main() -> int:
    """Run the policies one after another, print a table and the promises, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--recipients", type=int, default=4000, help="number of recipients, with one message each")
    parser.add_argument("--seconds", type=float, default=60, help="duration in which all messages start")
    parser.add_argument("--per-minute", type=int, default=600, help="Amplitude's quota")
    parser.add_argument("--latency", type=float, default=0.3, help="latency of Amplitude, in seconds")
    parser.add_argument(
        "--backoff", type=float, default=1.6, help="seconds until the first retry; doubles for each further retry"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random waits")
    parser.add_argument("--policy", choices=list(POLICIES), action="append", help="may be repeated (default: all)")
    options = parser.parse_args()
    count = options.recipients
    audience = recipients(count, options.seconds, options.backoff, options.seed)
    times = [UsefulTime(recipient.at, recipient.last_try + TIMEOUT_SECONDS - options.latency) for recipient in audience]
    bound = quota_bound(times, options.per_minute)
    paced = paced_bound(times, options.per_minute, options.latency)
    results = []
    for name in options.policy or POLICIES:
        print(f"{name}:", file=sys.stderr, flush=True)
        results.append(run(name, audience, options))
    print(
        f"{count:,} recipients with one message each start within {options.seconds:g} s. The last useful try starts "
        f"after {max(time.last for time in times):.0f} s. Amplitude allows {options.per_minute:,} calls a minute "
        f"and takes {options.latency:g} s for each. No policy can personalise more than {_share(bound, count)}. "
        f"A policy with evenly spaced calls that knows every try in advance reaches {_share(paced, count)}.\n"
    )
    columns = [column(result, count) for result in results]
    rows = [[name, *(figures[name] for figures in columns)] for name in columns[0]]
    print(table(["", *(result.name for result in results)], rows))
    of_service = [result for result in results if result.policy.workers]
    promises = {result.name: broken(result, bound, options) for result in of_service}
    for name, states in promises.items():
        print(f"\nPromises, {name}:")
        for promise, is_broken in states.items():
            print(f"- {'BROKEN' if is_broken else 'kept'}: {promise}")
    if any(result.observer.too_busy for result in of_service):
        print("\nThe machine was too busy and the generator too slow, so these figures are invalid.")
        return 2
    return 1 if any(any(states.values()) for states in promises.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
