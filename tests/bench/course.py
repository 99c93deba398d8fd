"""One run of a fault: when it began and ended, how callers fared, and which promises were broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.bench.load import PATIENCE, Observer, milliseconds
from tests.bench.processes import Seen
from tests.bench.steady import CACHED, Asked, Kind

PER_MINUTE = 600


@dataclass
class Course:
    """How one run went: when the fault began and ended, and from when on every answer must be whole."""

    name: str
    asked: list[Asked] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    whole_from: float = 0.0
    calls: int = 0
    """Calls to Amplitude while the fault lasted."""
    observer: Observer = field(default_factory=Observer)
    broken: list[str] = field(default_factory=list)

    def promise(self, kept: bool, text: str) -> None:
        """Note a promise that was not kept."""
        if not kept:
            self.broken.append(text)

    def during(self, *kinds: Kind) -> list[Asked]:
        """Return what was asked while the fault lasted, and until all had to be whole again."""
        return [one for one in self.asked if self.began <= one.began < self.whole_from and one.kind in kinds]

    @property
    def whole_again(self) -> float:
        """Return the seconds from the fault's end to the last request after it that was not answered in full."""
        return max(
            (one.began - self.ended for one in self.asked if one.began > self.ended and not one.whole), default=0
        )


def hold(
    course: Course,
    seen: Seen,
    words: set[str],
    *,
    refusals: bool = False,
    excused: Callable[[Asked], bool] = lambda one: False,
) -> None:
    """Hold the run to what is promised whatever breaks. Who is `excused` need not have been answered."""
    course.calls = sum(course.began <= moment < course.ended for moment, _ in seen.calls)
    before = [one for one in course.asked if one.began < course.began - PATIENCE]
    course.promise(all(one.whole for one in before), "answers were whole before the fault (else this tells nothing)")
    unanswered = [one for one in course.asked if isinstance(one.status, str) and not excused(one)]
    course.promise(not unanswered, f"every request is answered: {_counted(one.status for one in unanswered)}")
    answered = [one for one in course.asked if isinstance(one.status, int)]
    odd = [one.status for one in answered if one.status != 200 and not (one.kind == "retried" and one.status == 500)]
    course.promise(not odd, f"200, or with retry 500: {_counted(odd)}")
    kept = [one for one in answered if one.kind in ("cached", "renewed") and not one.ok]
    course.promise(not kept, f"who is in the cache is answered from it: {_counted(one.word for one in kept)}")
    wrong = [one.word for one in course.asked if one.word and one.word not in words]
    course.promise(not wrong, f"no word but {' and '.join(sorted(words))}: {_counted(wrong)}")
    late = [one.took for one in answered if one.took > PATIENCE]
    course.promise(not late, f"no answer over {PATIENCE:g} s: {len(late)}")
    unwhole = [one for one in course.asked if one.began >= course.whole_from and not one.whole]
    course.promise(
        not unwhole, f"whole again {course.whole_from - course.ended:.0f} s after the end: {len(unwhole)} were not"
    )
    course.promise(seen.worst_minute <= PER_MINUTE, f"{seen.worst_minute} calls in a minute")
    course.promise(refusals or not seen.statuses.get(429), f"no 429: {seen.statuses.get(429)}")


def hold_to_redis(course: Course, seen: Seen) -> None:
    """Hold the run to it that what is in Redis outlives a process."""
    again = {user for moment, user in seen.calls if moment > course.began and user in CACHED}
    course.promise(not again, f"what is in Redis outlives the process: {len(again)} users were fetched again")


def _counted(values: Iterable[object]) -> str:
    return ", ".join(f"{value}: {times}" for value, times in sorted(Counter(map(str, values)).items()))


HEAD = [
    "fault", "statuses, `default`", "statuses, `retry`", "unanswered", "answered though not in the cache",
    "calls while it lasted", "error words", "slowest", "whole again after", "generator late at p99",
]  # fmt: skip


def row(course: Course) -> list[str]:
    """Return a run's line of the table."""
    answers = [one for one in course.during("cached", "renewed", "missed", "retried") if isinstance(one.status, int)]
    missed = course.during("missed", "renewed")
    return [
        course.name,
        _counted(one.status for one in course.during("cached", "renewed", "missed") if isinstance(one.status, int)),
        _counted(one.status for one in course.during("retried") if isinstance(one.status, int)),
        _counted(one.status for one in course.asked if isinstance(one.status, str)),
        f"{sum(one.ok for one in missed)} of {len(missed)}",
        f"{course.calls}",
        _counted(one.word for one in course.during("missed", "renewed", "retried") if one.word),
        milliseconds(max((one.took for one in answers), default=0.0)),
        f"{course.whole_again:.1f} s",
        milliseconds(course.observer.lag) + (" (**too busy to tell**)" if course.observer.too_busy else ""),
    ]
