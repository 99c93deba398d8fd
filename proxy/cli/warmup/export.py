"""Fills the cache from a cohort download, which replaces one call per member."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event

from proxy.amplitude.cohort_export import CohortExport
from proxy.cli.formats import format_count, printable
from proxy.cli.user_ids import UserIds
from proxy.cli.warmup.audience import Audience, Values
from proxy.cli.warmup.delivery import Stopped, batches, deliver, push
from proxy.cli.warmup.destination import Destination
from proxy.cli.warmup.progress import Report, StoreProgress
from proxy.cli.warmup.property_types import TypeCounts
from proxy.cli.warmup.staged_cohort import stage_cohort
from proxy.liquid.types import Answer
from proxy.profile.encoding import compress
from proxy.profile.parts import Identity
from proxy.profile.record import EMPTY
from proxy.profile.updates import pack
from proxy.storage.lru import size_of
from proxy.webhooks.parse import read_users
from proxy.webhooks.property_updates import OPERATORS

_REPORT_SECONDS = 5.0
_SAMPLED_USERS = 1000
_CACHE_SHARE = 16 / 15
"""The cache keeps 1/16 of its memory for ready bodies."""
_MARGIN = 1.02
"""The estimate comes from a sample of the users."""
_REASONS = {
    "too_large": "the properties of the user exceed 64 KiB or 1,000 values; name fewer properties with --keys",
    "forgotten": "the user was forgotten after the download was requested",
    "too_old": "the download is older than CACHE_PUSHED_SECONDS",
}
_FAILED_REASONS = frozenset({"too_large", "too_old"})


@dataclass(frozen=True, slots=True)
class Content:
    """The sections to store from a download. `keys`: the names of the properties; None for all."""

    cohorts: bool
    properties: bool
    keys: tuple[str, ...] | None = None

    @property
    def requested(self) -> tuple[str, ...] | None:
        """Return the properties to request from Amplitude; None for all."""
        return self.keys if self.properties else ()


@dataclass(slots=True)
class ExportResult:
    """The outcome of one cohort."""

    cohort_id: str
    members: int
    names: tuple[str, ...]
    missing: tuple[str, ...]
    """The requested properties that the file does not have."""
    ids: UserIds
    types: TypeCounts
    snapshot: str = ""
    stored: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    valueless: tuple[str, ...] = ()
    """The requested properties that no member has, in the order of the file."""
    loss_reason: str | None = None
    stopped: bool = False

    @property
    def interrupted(self) -> bool:
        """Return whether the user or a problem of Redis ended the run."""
        return self.stopped or self.loss_reason is not None

    @property
    def complete(self) -> bool:
        """Return whether the data of all members is in the cache."""
        return not (self.interrupted or self.ids.unreadable or _FAILED_REASONS & self.skipped.keys())

    def skipped_rows(self) -> list[str]:
        """Return a line for each reason to skip rows of the file."""
        return list(self.ids.summary(self.members, "; the last row of each user was used"))

    def lines(self) -> Iterator[str]:
        """Yield the lines of the summary."""
        stored = f"properties of {format_count(self.stored, 'user')} stored" if self.names else ""
        parts = [format_count(self.members, "member"), self.snapshot, stored]
        yield f"cohort {self.cohort_id}: {', '.join(filter(None, parts))}"
        yield from self.types.lines()
        yield from (f"property {name!r} is not in the cohort file; correct --keys" for name in self.missing)
        for name in sorted(OPERATORS & set(self.names)):
            yield f"property {name!r} was skipped, because Amplitude's webhooks use its name for an operator"
        for name in self.valueless:
            yield f"no member has the property {name!r}; check its name in --keys"
        yield from self.skipped_rows()
        for reason, count in sorted(self.skipped.items()):
            yield f"skipped {format_count(count, 'user')}: {_REASONS.get(reason, printable(reason))}"
        if self.stopped:
            yield "stopped before all members were stored"
        if self.loss_reason:
            yield self.loss_reason


class Exporter:
    """Downloads cohorts and stores their data in a destination. `print_status` shows a line of progress."""

    def __init__(
        self,
        client: CohortExport,
        destination: Destination,
        content: Content,
        text_properties: frozenset[str],
        staged: Audience,
        *,
        print_status: Callable[[str], None],
    ) -> None:
        self._client = client
        self._destination = destination
        self._content = content
        self._text_properties = text_properties
        self._staged = staged
        self._print_status = print_status
        self.needed_bytes = 0
        """The approximate memory that the properties of all downloaded cohorts take in the cache."""

    def download(self, cohort_id: str) -> tuple[ExportResult, float]:
        """Stage the file of a cohort. Return its result so far, and the time of the request. Raises NotDownloaded."""
        cohort = stage_cohort(self._client, cohort_id, self._content.requested, self._staged)
        types = TypeCounts(self._text_properties)
        result = ExportResult(cohort_id, len(self._staged), cohort.names, cohort.missing, cohort.ids, types)
        if self._content.properties:
            self.needed_bytes += self._estimate(cohort.names, cohort.requested_at, result.members)
        return result, cohort.requested_at

    @property
    def needed_mib(self) -> int:
        """Return the CACHE_MAX_MB that the downloaded properties need."""
        return math.ceil(self.needed_bytes * _CACHE_SHARE * _MARGIN / 2**20)

    def store(self, result: ExportResult, requested_at: float, stop: Event, report: Report) -> None:
        """Install the snapshot and store the properties of the staged members. Raises ServiceUnavailable."""
        with suppress(Stopped):
            if self._content.cohorts:
                self._install(result, requested_at, stop)
            if self._content.properties:
                self._store_properties(result, requested_at, stop, report)
        result.stopped = stop.is_set()

    def _install(self, result: ExportResult, as_of: float, stop: Event) -> None:
        def send() -> Answer:
            return self._destination.install(result.cohort_id, as_of, iter(self._staged))

        newer = deliver(send, stop).status == 409
        result.snapshot = "a newer snapshot is already installed" if newer else "snapshot installed"
        self._print_status(f"cohort {result.cohort_id}: {result.snapshot}")

    def _store_properties(self, result: ExportResult, at: float, stop: Event, report: Report) -> None:
        progress = StoreProgress(result.members)
        started = reported = time.monotonic()
        whole = self._content.keys is None
        for users, body in batches(self._counted(result), result.names, at, whole=whole):
            if stop.is_set():
                return
            skipped = push(self._destination.ask_functions[0], body, stop)
            result.skipped.update(skipped)
            result.stored += users - sum(skipped.values())
            progress.finished += users
            if (now := time.monotonic()) - reported >= _REPORT_SECONDS:
                reported = now
                report(progress, now - started, "")
                result.loss_reason = self._destination.loss_reason()
                if result.loss_reason:
                    return
        if not whole:
            result.valueless = tuple(name for name in result.names if name not in result.types)
        result.loss_reason = self._destination.loss_reason()
        report(progress, time.monotonic() - started, "")

    def _counted(self, result: ExportResult) -> Iterator[tuple[str, Values]]:
        for user_id, values in self._staged.members():
            for name, value in zip(result.names, values, strict=True):
                if value is not None:
                    result.types.add(name, value)
            yield user_id, values

    def _estimate(self, names: Sequence[str], at: float, members: int) -> int:
        """Return the bytes that the staged members take in the cache."""
        whole = self._content.keys is None
        sampled = size = 0
        for _, body in batches(self._staged.members(members // _SAMPLED_USERS), names, at, whole=whole):
            updates = read_users(body.encode(), at, lambda: None, self._text_properties).updates
            sampled += len(updates)
            size += sum(size_of(Identity(user_id, None), EMPTY, compress(pack(new))) for user_id, new in updates)
        return size * members // max(1, sampled)
