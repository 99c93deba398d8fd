"""A simulated Braze send: `python -m tests.bench.send [--policy "one worker"]`.

The same recipients are sent to straight through the emulated Amplitude, through a plain cache by URL, through the
service with one worker and with two and Redis, and after a preparation; each time with a new sandbox. Recommendations
cannot be pushed, so a message without them is sent cold and after Amplitude's webhooks. A message is personalised when
each of its calls was answered in time, even by "unknown". Prints a table for the README, then the promises, kept or
broken. Takes 25 minutes. Exit code 1: a promise was broken. 2: the generator was too late for the figures to count.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.braze import ALL, PUSHABLE, REC_ID, Recipient, Sender, Tally, ask_amplitude, ask_service, recipients
from tests.bench.load import PATIENCE, Connections, Observer, command_line, milliseconds, percentile, table
from tests.bench.prepare import Preparation, Stage, pushed, warmed
from tests.bench.processes import AUTHORIZATION, Report, SandboxProcess, Service
from tests.bench.quota_bound import Chance, at_an_even_pace, of_any_policy
from tests.support.redis_server import RedisServer

POINTS_BELOW_THE_BOUND = 2.0


@dataclass(frozen=True)
class Policy:
    """`workers` of the service, with Redis for several; none sends without the service."""

    workers: int = 0
    prepare: Preparation | None = None
    """Needs Redis, which keeps the result."""
    tags: tuple[str, ...] = ALL


POLICIES = {
    "straight": Policy(),
    "cache by URL": Policy(),
    "one worker": Policy(1),
    "two workers and Redis": Policy(2),
    **{f"warmed {minutes} min": Policy(2, warmed(minutes)) for minutes in (3, 6, 9)},
    "no recommendations": Policy(2, None, PUSHABLE),
    "no recommendations, pushed": Policy(2, pushed, PUSHABLE),
}


@dataclass(frozen=True)
class Result:
    """The outcome of a policy. `before` and `after`: Amplitude's calls before the send and during it."""

    name: str
    policy: Policy
    tally: Tally
    halts: int
    before: Report
    after: Report
    workers: int
    memory: int
    """The most bytes of the service's processes; 0 without a service."""
    observer: Observer
    prepared: set[str]
    """Users for whom the service had everything before the send."""

    @property
    def exposures(self) -> list[tuple[str, str]]:
        """Return all exposures, before the send and by it."""
        return self.before.exposures + self.after.exposures

    @property
    def late(self) -> int:
        """Return how many answers came too late for Braze, or not at all in its time."""
        return sum(seconds > PATIENCE for seconds in self.tally.times)

    @property
    def unrequested_exposures(self) -> int:
        """Return how many exposures no template requested."""
        return sum(user not in self.tally.asked or rec_id != REC_ID for user, rec_id in self.exposures)


def run(name: str, to: list[Recipient], options: argparse.Namespace) -> Result:
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
                users = [recipient.user for recipient in to]
                prepared = policy.prepare(Stage(sandbox, settings, users, options.per_minute, options.seed))
                before = sandbox.report()
                sandbox.reset(options.per_minute)
            service = running.enter_context(Service(sandbox, **settings))
            connections = Connections(service.port, f"Authorization: {AUTHORIZATION}")
            sender = Sender(ask_service(connections), policy.tags)
        else:
            connections = Connections(sandbox.port, f"Authorization: Api-Key {sandbox.secret_key}")
            sender = Sender(ask_amplitude(connections, cached=name == "cache by URL"), policy.tags)
        workers = len(service.workers()) if service else 0
        observer, memory = asyncio.run(_send(sender, to, options.seconds, service))
        report = sandbox.report()
    halts = sender.health.halts
    return Result(name, policy, sender.tally, halts, before, report, workers, memory, observer, prepared)


async def _send(sender: Sender, to: list[Recipient], seconds: float, service: Service | None) -> tuple[Observer, int]:
    memory = 0

    async def watch() -> None:
        nonlocal memory
        while service is not None:
            memory = max(memory, await asyncio.to_thread(service.memory))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    async with Observer() as observer:
        await sender.send(to, seconds)
    watching.cancel()
    return observer, memory


def column(result: Result, count: int) -> dict[str, str]:
    """Return a policy's figures by their names."""
    tally, after = result.tally, result.after
    exposed = Counter(result.exposures)
    unrequested = result.unrequested_exposures
    return {
        "personalised messages": _share(len(tally.first) + len(tally.retried), count),
        "… by the first try": _share(len(tally.first), count),
        "… by a retry": _share(len(tally.retried), count),
        "lost": _share(len(tally.lost), count),
        "calls to Amplitude": f"{len(after.calls):,}",
        "… in the worst 60 s": f"{after.worst_minute:,}",
        "… refused with 429": f"{after.statuses.get(429, 0):,}",
        "… before the send": f"{len(result.before.calls):,}",
        "exposures logged, of user and recommendation asked for": f"{len(exposed):,} of {len(tally.asked):,}"
        + (f" ({unrequested:,} never asked for)" if unrequested else ""),
        "… more than once": f"{exposed.total() - len(exposed):,}",
        "… for a message that was lost": f"{len({user for user, _ in exposed} & set(tally.lost)):,}",
        "answers by status": ", ".join(f"{status}: {times:,}" for status, times in sorted(tally.statuses.items())),
        "answer time p50": milliseconds(percentile(tally.times, 0.5)),
        "… p99": milliseconds(percentile(tally.times, 0.99)),
        "… max": milliseconds(max(tally.times)),
        "… over 2 s": f"{result.late:,}",
        "unhealthy-host events": f"{result.halts:,}",
        "memory of the service at most": f"{result.memory / 2**20:.0f} MiB" if result.memory else "",
        "generator": f"{result.observer}",
    }


def broken(result: Result, bound: int, options: argparse.Namespace) -> dict[str, bool]:
    """Return the service's promises, and whether each was broken."""
    tally, after, workers = result.tally, result.after, result.policy.workers
    other = sorted(set(tally.statuses) - {"200", "500"})
    promises = {
        f"it runs with {workers} worker{'s' * (workers > 1)}": result.workers != workers,
        "no 429": after.statuses.get(429, 0) > 0,
        f"at most {options.per_minute} calls in any 60 s": after.worst_minute > options.per_minute,
        "no answer over 2 s": result.late > 0,
        f"nothing but 200 and 500{f' ({other})' if other else ''}": bool(other),
        "no exposure that nobody asked for": result.unrequested_exposures > 0,
        "no exposure twice": len(result.exposures) > len(set(result.exposures)),
        "the host is never unhealthy": result.halts > 0,
    }
    if result.policy.prepare is None:
        below = 100 * (bound - len(tally.first) - len(tally.retried)) / options.recipients
        promise = f"personalised within {POINTS_BELOW_THE_BOUND:g} points of the bound ({below:.1f} below)"
        return promises | {promise: below > POINTS_BELOW_THE_BOUND}
    not_first = len(result.prepared - set(tally.first))
    called = len(result.prepared & {user for _, user in after.calls})
    return promises | {
        f"each of {len(result.prepared):,} prepared users is personalised at the first try ({not_first:,} are not)": (
            not_first > 0
        ),
        f"and costs no call in the send ({called:,} do)": called > 0,
    }


def _share(count: int, whole: int) -> str:
    return f"{100 * count / whole:.1f} % ({count:,})"


def main() -> int:
    """Run the policies one after the other, print a table and the promises, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--recipients", type=int, default=4000, help="of one message each")
    parser.add_argument("--seconds", type=float, default=60, help="in which all messages begin")
    parser.add_argument("--per-minute", type=int, default=600, help="Amplitude's quota")
    parser.add_argument("--latency", type=float, default=0.3, help="Amplitude's, in seconds")
    parser.add_argument("--backoff", type=float, default=1.6, help="seconds until the first retry, then doubled")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same recipients")
    parser.add_argument("--policy", choices=list(POLICIES), action="append", help="may be repeated (default: all)")
    options = parser.parse_args()
    count = options.recipients
    to = recipients(count, options.seconds, options.backoff, options.seed)
    chances = [Chance(recipient.at, recipient.last_try + PATIENCE - options.latency) for recipient in to]
    bound = of_any_policy(chances, options.per_minute)
    paced = at_an_even_pace(chances, options.per_minute, options.latency)
    results = []
    for name in options.policy or POLICIES:
        print(f"{name}:", file=sys.stderr, flush=True)
        results.append(run(name, to, options))
    print(
        f"{count:,} recipients, one message each, begun within {options.seconds:g} s; the last try that can help comes "
        f"after {max(chance.last for chance in chances):.0f} s. Amplitude allows {options.per_minute:,} calls a minute "
        f"and takes {options.latency:g} s for each. No policy could personalise more than {_share(bound, count)}; "
        f"evenly paced calls that know every try in advance, {_share(paced, count)}.\n"
    )
    columns = [column(result, count) for result in results]
    rows = [[name, *(figures[name] for figures in columns)] for name in columns[0]]
    print(table(["", *(result.name for result in results)], rows))
    of_service = [result for result in results if result.policy.workers]
    promises = {result.name: broken(result, bound, options) for result in of_service}
    for name, kept in promises.items():
        print(f"\nPromises, {name}:")
        for promise, is_broken in kept.items():
            print(f"- {'BROKEN' if is_broken else 'kept'}: {promise}")
    if any(result.observer.too_busy for result in of_service):
        print("\nThe generator was late: the machine was too busy for these figures to count.")
        return 2
    return 1 if any(any(kept.values()) for kept in promises.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
