"""The objects that wait for a request to Braze, and the selection of the next request. Does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from threading import Event

from proxy.sync.stream_objects import StreamObject

_GATHER_SECONDS = 0.05
"""Seconds for which an object waits for more objects, which are then sent in the same request."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an object. `retry_after`: seconds after which to send the object again; None if it is final."""

    word: str
    retry_after: float | None = None


@dataclass(slots=True, eq=False)
class Message:
    """Objects whose sender waits until all have an outcome. `deadline`: monotonic seconds.

    `pending`: the number of objects without an outcome. `is_abandoned`: the sender no longer waits.
    """

    deadline: float
    pending: int
    is_abandoned: bool = False
    settled: Event = field(default_factory=Event)


@dataclass(slots=True, eq=False)
class Item:
    """An object of a message. `is_sending`: a request with the object is in progress.

    `arrived`, `not_before`: monotonic seconds. The object is not sent before `not_before`.
    """

    content: StreamObject
    message: Message
    arrived: float
    not_before: float = 0.0
    is_sending: bool = False
    outcome: Outcome | None = None

    def settle(self, outcome: Outcome) -> None:
        """Set the outcome, and wake the sender of the message after its last object."""
        self.outcome = outcome
        self.message.pending -= 1
        if not self.message.pending:
            self.message.settled.set()


def take_batch(
    waiting: deque[Item], busy_users: AbstractSet[str], max_objects: int, now: float
) -> tuple[list[Item], float | None]:
    """Remove the objects of the next request from `waiting`, and return them.

    If there are no objects, also return the seconds after which to call this function again; None if none wait.
    The objects of a user keep their order. `busy_users`: the users of requests in progress.
    """
    batch: list[Item] = []
    remaining: list[Item] = []
    blocked_users = set(busy_users)
    with_attributes: set[str] = set()
    event_ids: set[int] = set()
    checked_items = 0
    for item in waiting:
        if len(batch) >= max_objects:
            break
        checked_items += 1
        if item.message.is_abandoned:
            continue
        user_id, is_event, event_id = item.content.user_id, item.content.kind == "events", item.content.event_id
        # A repeated event waits for the outcome of the first. Of two values, the later must win.
        repeated = event_id in event_ids if is_event else user_id in with_attributes
        if repeated or user_id in blocked_users or item.not_before > now:
            blocked_users.add(user_id)
            remaining.append(item)
            continue
        batch.append(item)
        if not is_event:
            with_attributes.add(user_id)
        elif event_id is not None:
            event_ids.add(event_id)
    if batch and len(batch) < max_objects and (pause := batch[0].arrived + _GATHER_SECONDS - now) > 0:
        return [], pause
    for _ in range(checked_items):
        waiting.popleft()
    waiting.extendleft(reversed(remaining))
    for item in batch:
        item.is_sending = True
    # Requests in progress may block the remaining objects, and new objects may arrive without a notification.
    return batch, _GATHER_SECONDS if waiting else None
