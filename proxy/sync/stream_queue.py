"""The objects that wait for a request to Braze, and the choice of the objects of the next request. Does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field

from proxy.sync.stream_objects import StreamObject

_GATHER_SECONDS = 0.05
"""Seconds for which objects wait for others, to be sent in the same request."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an object. `retry_after`: seconds after which to send it again; None if the object is done."""

    word: str
    retry_after: float | None = None


@dataclass(slots=True)
class Item:
    """An object that waits or is being sent. `arrived`, `deadline`: monotonic seconds.

    A message that gives up cancels `outcome`, unless a request with the object is in progress.
    """

    content: StreamObject
    arrived: float
    deadline: float
    outcome: Future[Outcome] = field(default_factory=Future)


def take_batch(
    waiting: deque[Item], busy_users: AbstractSet[str], max_objects: int, now: float
) -> tuple[list[Item], float | None]:
    """Remove the objects of the next request from `waiting`, and return them.

    Without objects, return the seconds after which to look again; None if nothing can be sent until something changes.
    The objects of a user keep their order. `busy_users`: the users of requests in progress.
    """
    batch: list[Item] = []
    left: list[Item] = []
    later_users = set(busy_users)
    with_attributes: set[str] = set()
    event_ids: set[int] = set()
    seen = 0
    for item in waiting:
        if len(batch) >= max_objects:
            break
        seen += 1
        if item.outcome.cancelled():
            continue
        user_id, is_event, event_id = item.content.user_id, item.content.kind == "events", item.content.event_id
        # A repeated event waits for the outcome of the first. Of two values, the later must win.
        repeated = event_id in event_ids if is_event else user_id in with_attributes
        if repeated or user_id in later_users:
            later_users.add(user_id)
            left.append(item)
            continue
        batch.append(item)
        if not is_event:
            with_attributes.add(user_id)
        elif event_id is not None:
            event_ids.add(event_id)
    if batch and len(batch) < max_objects and (pause := batch[0].arrived + _GATHER_SECONDS - now) > 0:
        return [], pause
    for _ in range(seen):
        waiting.popleft()
    waiting.extendleft(reversed(left))
    running = [item for item in batch if item.outcome.set_running_or_notify_cancel()]
    # If the messages of the whole batch have just given up, other objects may be next.
    return running, 0.0 if batch else None
