"""Progress of a warming run."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.cli.text import counted


@dataclass(slots=True)
class Count:
    """How many users are done, were fresh already, are unknown to Amplitude, could not be fetched, and calls made."""

    users: int
    done: int = 0
    fresh: int = 0
    unknown: int = 0
    failed: int = 0
    calls: int = 0
    why: dict[str, int] = field(default_factory=dict)
    """The error words of those that failed, and how often."""

    @property
    def through(self) -> int:
        """Return of how many the end is known."""
        return self.done + self.fresh + self.unknown + self.failed

    @property
    def left(self) -> int:
        """Return how many are still to come."""
        return self.users - self.through

    def line(self, seconds: float) -> str:
        """Return the progress after so many seconds, as one line."""
        rate = self.through / seconds if seconds > 0 else 0.0
        left = f"{self.left / rate / 60:.0f} min left" if rate > 0 else "no estimate yet"
        return (
            f"{self.through:,} of {self.users:,}: {self.done:,} done, {self.fresh:,} fresh already, "
            f"{self.unknown:,} unknown, {self.failed:,} failed; {counted(round(rate * 60), 'user')} a minute, {left}"
        )
