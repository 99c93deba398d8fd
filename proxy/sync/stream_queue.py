"""The objects that wait for a request to Braze, and the selection of the next request. Does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field

from proxy.sync.stream_objects import StreamObject

_GATHER_SECONDS = 0.05
"""Seconds for which an object waits for more objects, which are then sent in the same request."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an object. `retry_after`: seconds after which to send the object again; None if it is final."""

    word: str
    retry_after: float | None = None


@dataclass(slots=True)
class Item:
    """An object that waits or is being sent. `arrived`, `deadline`: monotonic seconds.

    After the wait of a message, `outcome` is cancelled, unless a request with the object is in progress.
    """

    content: StreamObject
    arrived: float
    deadline: float
    outcome: Future[Outcome] = field(default_factory=Future)


def take_batch(
    waiting: deque[Item], busy_users: AbstractSet[str], max_objects: int, now: float
) -> tuple[list[Item], float | None]:
    """Remove the objects of the next request from `waiting`, and return them.

    If there are no objects, also return the seconds after which to call this function again; None to wait for a change.
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
        if item.outcome.cancelled():
            continue
        user_id, is_event, event_id = item.content.user_id, item.content.kind == "events", item.content.event_id
        # A repeated event waits for the outcome of the first. Of two values, the later must win.
        repeated = event_id in event_ids if is_event else user_id in with_attributes
        if repeated or user_id in blocked_users:
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
    running = [item for item in batch if item.outcome.set_running_or_notify_cancel()]
    # If all items of the batch were just cancelled, other items may be next.
    return running, 0.0 if batch else None
