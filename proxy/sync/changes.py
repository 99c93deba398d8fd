"""Compares the current values with the state, and returns the values to send to Braze. Does no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy.braze.limits import OmittedValue, fit_attribute
from proxy.storage.accepted_values import AcceptedValue
from proxy.sync.delivery import Change

MAX_REMOVALS = 1000
"""A run stops if it would remove values of more users than this, and of more than a fifth of the users in the state."""
_MIN_USERS_PER_REMOVAL = 5


class UserAttributes(NamedTuple):
    """The current attributes of a user. The value None means that the user does not have the attribute.

    Attributes with an unknown value are left out. `at`: the time of the values (Unix seconds).
    """

    user_id: str
    attributes: Mapping[str, Any]
    at: float


@dataclass(slots=True)
class ChangeCounts:
    """Counts of users and values, by outcome."""

    users: int = 0
    """Users with values to send."""
    changed: int = 0
    unchanged: int = 0
    outdated: int = 0
    """Values that are older than the accepted ones, so that they are not sent."""
    removals: int = 0
    """Users who get a null, or false because they left the cohort."""
    fitted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Values that were cut to Braze's limits, by attribute and kind of limit."""
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Values that Braze would reject, by attribute and reason."""

    @property
    def saved_percent(self) -> int:
        """Return the percentage of values that are not sent because they are unchanged."""
        return 100 * self.unchanged // max(1, self.changed + self.unchanged)


class ChangePlanner:
    """Plans the changes of users, and counts them. `resend_unchanged`: send unchanged values too.

    An absent value is sent as null only if the state has a value of this attribute for the user. Otherwise, the sync
    has sent no value of this attribute, and null would cost a data point.
    """

    def __init__(self, digest: Callable[[object], bytes], *, resend_unchanged: bool) -> None:
        self.counts = ChangeCounts()
        self._digest = digest
        self._resend_unchanged = resend_unchanged
        self._null, self._true, self._false = digest(None), digest(True), digest(False)

    def change(self, desired: UserAttributes, accepted: Mapping[str, AcceptedValue]) -> Change | None:
        """Return what to send for a user with the accepted values; None if nothing changed."""
        changes: dict[str, Any] = {}
        removes = False
        for name, value in desired.attributes.items():
            last = accepted.get(name)
            if value is None:
                if last is None:
                    continue
                if last.at > desired.at:
                    self.counts.outdated += 1
                    continue
                if last.digest == self._null and not self._resend_unchanged:
                    continue
                changes[name] = None
                removes = True
                continue
            fitted = fit_attribute(name, value)
            if isinstance(fitted, OmittedValue):
                self.counts.left_out[name, fitted.reason] += 1
                continue
            self.counts.fitted.update((name, reason) for reason in fitted.reasons)
            is_sent = last is not None and last.digest == self._digest(fitted.value)
            if is_sent and not self._resend_unchanged:
                self.counts.unchanged += 1
            elif last is not None and last.at > desired.at:
                self.counts.outdated += 1
            else:
                changes[name] = fitted.value
        return self._counted(Change(desired.user_id, changes, desired.at), removes=removes)

    def departure(
        self, user_id: str, attribute: str, accepted: Mapping[str, AcceptedValue], at: float
    ) -> Change | None:
        """Return the change to false for a user who left the cohort; None if nothing is to be sent."""
        last = accepted.get(attribute)
        if last is None:
            return None
        if last.at > at:
            self.counts.outdated += last.digest == self._true
            return None
        if last.digest == self._true or (self._resend_unchanged and last.digest == self._false):
            return self._counted(Change(user_id, {attribute: False}, at), removes=True)
        if last.digest == self._false:
            self.counts.unchanged += 1
        return None

    def _counted(self, change: Change, *, removes: bool) -> Change | None:
        if not change.attributes:
            return None
        self.counts.users += 1
        self.counts.changed += len(change.attributes)
        self.counts.removals += removes
        return change


def too_many_removals(removals: int, state_users: int) -> bool:
    """Return whether a run would remove the values of so many users that the source is probably incomplete."""
    return removals > MAX_REMOVALS and removals * _MIN_USERS_PER_REMOVAL > state_users
