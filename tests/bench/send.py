"""A Braze send, simulated against the real service under its shipped configuration; beside it the same without it.

    .venv/bin/python -m tests.bench.send

Amplitude is the sandbox, with quota and latency. Recipients ask as Braze does (`braze.py`). The same load goes
straight to the sandbox, to it through a plain cache by URL, to the service with one worker, to the service with two
workers and Redis, and to the same after `warm` had so many minutes (`ahead.py`), each to a sandbox of its own. Since
recommendations cannot be pushed, a message without them is sent cold, and after Amplitude's webhooks pushed. A message
counts as personalised when each of its calls was answered in time, be it by "unknown". Prints a Markdown table
for the README, then each promise, kept or broken; how far personalised messages stay below what the quota allows is
judged by `bound.py`. The send lasts a little less than two minutes, first try to last, for a reason that is given
there.

Exit code 1: a promise was broken. 2: the machine was too busy to tell, so that the figures are of the generator.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.ahead import Ahead, Stage, pushed, warmed
from tests.bench.bound import Chance, at_an_even_pace, of_any_policy
from tests.bench.braze import Recipient, Sender, Tally, recipients
from tests.bench.load import PATIENCE, Connections, Observer, milliseconds, percentile, table
from tests.bench.options import command_line
from tests.bench.processes import SandboxProcess, Seen, Service
from tests.bench.tags import ALL, PUSHABLE, REC_ID, by_service, straight
from tests.conftest import SECRET
from tests.support.redis_server import RedisServer

POINTS_BELOW_THE_BOUND = 2.0


@dataclass(frozen=True)
class Policy:
    """`workers` of the service, with Redis where there are several; none is a send without the service."""

    workers: int = 0
    ahead: Ahead | None = None
    """What is done before the send. Needs Redis, where it is kept."""
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
    """What one policy came to."""

    policy: str
    tally: Tally
    seen: Seen
    halts: int
    workers: int
    memory: int
    """The most bytes that the service's processes held at once; 0 without a service."""
    observer: Observer
    bound: int
    known: set[str]
    """Of whom the service had everything before the send."""
    before: Seen
    """What Amplitude saw before the send."""

    @property
    def exposures(self) -> list[tuple[str, str]]:
        """Return all that were logged, before the send and by it."""
        return self.before.exposures + self.seen.exposures


def run(policy: str, options: argparse.Namespace) -> Result:
    """Run one policy and return what it came to."""
    to = recipients(options.recipients, options.seconds, options.backoff, options.seed)
    workers, ahead = POLICIES[policy].workers, POLICIES[policy].ahead
    with ExitStack() as running:
        sandbox = running.enter_context(SandboxProcess(per_minute=options.per_minute, latency=options.latency))
        service, known, before = None, set[str](), sandbox.seen()
        if workers:
            settings = {"AMPLITUDE_REQUESTS_PER_MINUTE": str(options.per_minute)}
            if workers > 1:
                redis = running.enter_context(RedisServer())
                settings |= {"REDIS_URL": redis.url, "WEB_CONCURRENCY": str(workers)}
            if ahead is not None:
                stage = Stage(sandbox, settings, [one.user for one in to], options.per_minute, options.seed)
                known, before = ahead(stage), sandbox.seen()
                sandbox.begin_anew(options.per_minute)
            service = running.enter_context(Service(sandbox, **settings))
            connections = Connections(service.port, f"X-API-Key: {SECRET}")
            executor = Sender(by_service(connections), POLICIES[policy].tags)
        else:
            connections = Connections(sandbox.port, f"Authorization: Api-Key {sandbox.secret_key}")
            executor = Sender(straight(connections, cached=policy == "cache by URL"), POLICIES[policy].tags)
        run_with = len(service.workers()) if service else 0
        observer, memory = asyncio.run(_sent(executor, to, options.seconds, connections, service))
        chances = [Chance(one.at, one.last_try + PATIENCE - options.latency) for one in to]
        bound = of_any_policy(chances, options.per_minute)
        tally, halts = executor.tally, executor.health.halts
        return Result(policy, tally, sandbox.seen(), halts, run_with, memory, observer, bound, known, before)


async def _sent(
    executor: Sender, to: list[Recipient], seconds: float, connections: Connections, service: Service | None
) -> tuple[Observer, int]:
    memory = 0

    async def watch() -> None:
        nonlocal memory
        while service is not None:
            memory = max(memory, await asyncio.to_thread(service.resident_bytes))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    async with Observer() as observer:
        await executor.send(to, seconds, _progress(len(to)))
    watching.cancel()
    connections.close()
    return observer, memory


def _progress(count: int) -> Callable[[int], None]:
    def tell(number: int) -> None:
        if number % max(1, count // 5) == 0:
            print(f"  {number} of {count} messages begun", file=sys.stderr, flush=True)

    return tell


def column(result: Result, recipients: int) -> dict[str, str]:
    """Return a policy's figures by their names."""
    tally, seen, times = result.tally, result.seen, result.tally.times
    exposed = Counter(result.exposures)
    in_vain = len({user for user, _ in exposed} & set(tally.lost))
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(tally.statuses.items()))
    return {
        "personalised messages": _share(len(tally.first) + len(tally.retried), recipients),
        "… by the first try": _share(len(tally.first), recipients),
        "… by a retry": _share(len(tally.retried), recipients),
        "lost": _share(len(tally.lost), recipients),
        "calls to Amplitude": f"{len(seen.calls):,}",
        "… in the worst 60 s": f"{seen.worst_minute:,}",
        "… refused with 429": f"{seen.statuses.get(429, 0):,}",
        "… before the send": f"{len(result.before.calls):,}",
        "exposures logged, of user and recommendation asked for": f"{exposed_of(result)} of {len(tally.asked):,}",
        "… more than once": f"{sum(exposed.values()) - len(exposed):,}",
        "… for a message that was lost": f"{in_vain:,}",
        "answers by status": statuses,
        "answer time p50": milliseconds(percentile(times, 0.5)),
        "… p99": milliseconds(percentile(times, 0.99)),
        "… max": milliseconds(max(times)),
        "… over 2 s": f"{over_patience(tally):,}",
        "unhealthy-host events": f"{result.halts:,}",
        "memory of the service at most": f"{result.memory / 2**20:.0f} MiB" if result.memory else "",
        "generator late at p99": milliseconds(result.observer.lag)
        + (" (**too busy to tell**)" if result.observer.too_busy else ""),
        "processors idle / stolen": f"{result.observer.idle:.0%} / {result.observer.stolen:.0%}",
    }


def exposed_of(result: Result) -> str:
    """Return how many pairs were exposed, and those that nobody asked for."""
    unasked = unasked_exposures(result)
    return f"{len(set(result.exposures)):,}" + (f" ({unasked:,} never asked for)" if unasked else "")


def unasked_exposures(result: Result) -> int:
    """Return how many exposures were logged that no template asked for."""
    return sum(user not in result.tally.asked or rec_id != REC_ID for user, rec_id in result.exposures)


def over_patience(tally: Tally) -> int:
    """Return how many answers came too late for Braze, or not at all in its time."""
    return sum(seconds > PATIENCE for seconds in tally.times)


def broken(result: Result, options: argparse.Namespace) -> dict[str, bool]:
    """Return the service's promises, and whether each was broken."""
    tally, seen = result.tally, result.seen
    below = 100 * (result.bound - len(tally.first) - len(tally.retried)) / options.recipients
    failures = {status for status in tally.statuses if status not in ("200", "500")}
    wanted = POLICIES[result.policy].workers
    promises = {
        f"it runs with {wanted} worker{'s' * (wanted > 1)}": result.workers != wanted,
        "no 429": seen.statuses.get(429, 0) > 0,
        f"at most {options.per_minute} calls in any 60 s": seen.worst_minute > options.per_minute,
        "no answer over 2 s": over_patience(tally) > 0,
        f"nothing but 200 and 500{f' ({sorted(failures)})' if failures else ''}": bool(failures),
        "no exposure that nobody asked for": unasked_exposures(result) > 0,
        "no exposure twice": len(result.exposures) > len(set(result.exposures)),
        "the host is never unhealthy": result.halts > 0,
    }
    if POLICIES[result.policy].ahead is None:
        promise = f"personalised within {POINTS_BELOW_THE_BOUND:g} points of the bound ({below:.1f} below)"
        return promises | {promise: below > POINTS_BELOW_THE_BOUND}
    late, called = result.known - set(tally.first), result.known & {user for _, user in seen.calls}
    return promises | {
        f"each of {len(result.known):,} prepared for is personalised at the first try ({len(late):,} are not)": bool(
            late
        ),
        f"and costs no call in the send ({len(called):,} do)": bool(called),
    }


def _share(count: int, whole: int) -> str:
    return f"{100 * count / whole:.1f} % ({count:,})"


def main() -> int:
    """Run the policies one after the other, print a table and the promises, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--recipients", type=int, default=4000, help="of one message each")
    parser.add_argument("--seconds", type=float, default=60, help="in which all messages are begun")
    parser.add_argument("--per-minute", type=int, default=600, help="Amplitude's quota")
    parser.add_argument("--latency", type=float, default=0.3, help="Amplitude's, in seconds")
    parser.add_argument("--backoff", type=float, default=1.6, help="seconds until the first retry, then doubled")
    parser.add_argument("--seed", type=int, default=1, help="the same one draws the same recipients")
    parser.add_argument(
        "--policy", choices=list(POLICIES), action="append", help="only this one; may be repeated (default: all)"
    )
    options = parser.parse_args()
    results = []
    for policy in options.policy or POLICIES:
        print(f"{policy}:", file=sys.stderr, flush=True)
        results.append(run(policy, options))
    _print(results, options)
    service = [result for result in results if POLICIES[result.policy].workers]
    if any(result.observer.too_busy for result in service):
        print("\nThe machine was too busy to tell: the generator's own loop was late.")
        return 2
    return 1 if any(any(broken(result, options).values()) for result in service) else 0


def _print(results: list[Result], options: argparse.Namespace) -> None:
    to = recipients(options.recipients, options.seconds, options.backoff, options.seed)
    chances = [Chance(one.at, one.last_try + PATIENCE - options.latency) for one in to]
    paced = at_an_even_pace(chances, options.per_minute, options.latency)
    lasts = max(one.last for one in chances)
    print(
        f"{options.recipients:,} recipients, one message each, begun within {options.seconds:g} s; the last try that "
        f"can help comes after {lasts:.0f} s. Amplitude allows {options.per_minute:,} calls a minute and takes "
        f"{options.latency:g} s for each. No policy at all could personalise more than "
        f"{_share(of_any_policy(chances, options.per_minute), options.recipients)}; one that paces its calls evenly, "
        f"and knows every try to come, {_share(paced, options.recipients)}.\n"
    )
    columns = [column(result, options.recipients) for result in results]
    rows = [[name, *(one[name] for one in columns)] for name in columns[0]]
    print(table(["", *(result.policy for result in results)], rows))
    for result in results:
        if POLICIES[result.policy].workers:
            print(f"\nPromises, {result.policy}:")
            for promise, is_broken in broken(result, options).items():
                print(f"- {'BROKEN' if is_broken else 'kept'}: {promise}")


if __name__ == "__main__":
    sys.exit(main())
