"""What the machine says of itself: whether somebody else uses it, and what a family of processes takes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

BUSY = 0.10
SPREAD = 0.30


@dataclass
class Quiet:
    """Collects signs that others used the machine, which no ratio can tell from a slower service."""

    busy: list[float] = field(default_factory=list)
    stolen: float = 0.0
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def listen(self, seconds: float = 0.5) -> None:
        """Look, while nothing of ours runs, at how busy the processors are all the same."""
        before = _ticks()
        time.sleep(seconds)
        after = _ticks()
        spent = [new - old for old, new in zip(before, after, strict=True)]
        total = sum(spent) or 1
        idle = spent[3] + spent[4]  # idle, and waiting for a disk
        self.busy.append(1 - idle / total)
        self.stolen = max(self.stolen, spent[7] / total if len(spent) > 7 else 0.0)

    def doubts(self, reference: Sequence[Sequence[float]]) -> list[str]:
        """Return why the figures may be the machine's and not the service's; `reference`: its rates, run by run."""
        found = []
        if self.load > 0.5:
            found.append(f"the load average was {self.load:.1f} before the first process was started")
        if (busy := median(self.busy)) > BUSY:
            found.append(
                f"between the runs, with nothing to do, the processors were {busy:.0%} busy (at most"
                f" {max(self.busy):.0%})"
            )
        if self.stolen > 0.02:
            found.append(f"{self.stolen:.0%} of the time was taken by the host")
        widest = max((max(rates) - min(rates)) / median(rates) for rates in reference)
        if widest > SPREAD:
            found.append(f"the Flask view alone differed by {widest:.0%} from round to round")
        return found


def _ticks() -> list[int]:
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already
    return [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def memory(parent: int) -> int:
    """Return the bytes that a process and its children take, what they share counted once."""
    family = [parent, *_children(parent)]
    return sum(_proportional(one) for one in family)


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    found = [int(one) for one in text.split()]
    return [*found, *(below for one in found for below in _children(one))]


def _proportional(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell the memory of a process")
