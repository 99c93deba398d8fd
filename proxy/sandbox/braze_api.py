"""The emulated /users/track of Braze.

Follows braze.com/docs: "Track users", "API errors and responses", and "API rate limits".
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from typing import Any, Literal, get_args

from proxy.sandbox.braze_objects import problem, user_key
from proxy.sandbox.braze_profiles import BrazeProfiles, KnownUsers
from proxy.sandbox.faults import BrazeFaultKind, Fault, FaultSwitch
from proxy.sandbox.http import Reply
from proxy.sandbox.receiving import apply_fault, upstream_error
from proxy.sandbox.request_log import ReceivedRequest, RequestLog, parse_body

ARRAYS = ("attributes", "events", "purchases")
"""The arrays of a request, in the order in which Braze processes them."""
RateLimitHeader = Literal["retry-after", "reset-epoch", "reset-remaining", "no-time"]
"""The header of a 429: X-Ratelimit-Retry-After, X-RateLimit-Reset as epoch seconds or seconds remaining, or none."""

_WINDOW_SECONDS = 60.0
_PAYLOAD_BYTES = 4_000_000
_NO_VALID_DATA = "Valid data must be provided in the 'attributes', 'events', or 'purchases' fields."
_MAINTENANCE = "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>"


@dataclass(kw_only=True, eq=False)
class BrazeApi:
    """Receives requests and logs them. Thread-safe.

    key: the accepted REST API key. per_minute: the rate limit in any 60 s; the limit of Braze is 3,000 requests in 3 s.
    max_objects: the limit over all arrays of a request. max_bytes: a larger body gets 400 Max Input Length Exceeded.
    latency: seconds before each answer. clock: returns epoch seconds.
    """

    key: str = "sandbox-braze-key"
    known_users: KnownUsers = "sandbox"
    per_minute: int = 60_000
    rate_limit_header: RateLimitHeader = "retry-after"
    max_objects: int = 75
    max_bytes: int = _PAYLOAD_BYTES
    latency: float = 0.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.faults = FaultSwitch(get_args(BrazeFaultKind))
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Delete all requests and users."""
        with self._lock:
            self.log = RequestLog()
            self.profiles = BrazeProfiles(self.known_users)
            self.overlapping_users = 0
            """Number of times that a user was in a request while another request with that user was in flight."""
            self.object_errors = 0
            self._accepted: deque[float] = deque()
            self._busy_until: dict[str, float] = {}

    def create_users(self, *users: str) -> None:
        """Create users without attributes, by external id."""
        with self._lock:
            self.profiles.create(users)

    def attributes(self, user: str) -> dict[str, Any]:
        """Return the attributes of a user; empty for an unknown user."""
        with self._lock:
            return dict(self.profiles.attributes.get(user, {}))

    def report(self) -> dict[str, Any]:
        """Return the counts of requests, objects, users and costs."""
        with self._lock:
            return {
                **self.log.report(),
                **self.profiles.report(),
                "object_errors": self.object_errors,
                "overlapping_users": self.overlapping_users,
                "per_minute": self.per_minute,
            }

    def details(self, name: str) -> Any:
        """Return the users with their attributes, the events, the purchases, or the requests; None for another name."""
        with self._lock:
            match name:
                case "users":
                    return {user: dict(attributes) for user, attributes in sorted(self.profiles.attributes.items())}
                case "events":
                    return list(self.profiles.events)
                case "purchases":
                    return list(self.profiles.purchases)
                case "requests":
                    return [request.as_json() for request in self.log.requests]
                case _:
                    return None

    def receive(self, path: str, headers: Message, body: bytes) -> Reply:
        """Return the answer to a POST of `body` to `path`, which is /users/track with or without a slash at the end."""
        payload = parse_body(body)
        arrays = _arrays(payload)
        users = {_user(item) for items in arrays.values() for item in items} - {None}
        with self._lock:
            request = self.log.add(self.clock(), body)
            request.objects = sum(map(len, arrays.values()))
            fault = self.faults.take(lambda fault: fault.user_id is None or any(map(fault.concerns, users)))
            reply = self._rejection(path, headers, request, payload, fault)
            if reply is None:
                reply = apply_fault(self._accept(arrays, fault), fault)
            reply = replace(reply, delay=reply.delay + self.latency)
            self._note_overlaps(users, request.arrived, reply)
            request.status = 0 if reply.lost else reply.status
        return reply

    def _note_overlaps(self, users: set[str | None], arrived: float, reply: Reply) -> None:
        # After a lost answer, the client may retry at any time.
        until = arrived if reply.lost else arrived + reply.delay
        for user in filter(None, users):
            if self._busy_until.get(user, 0.0) > arrived:
                self.overlapping_users += 1
            if until > arrived:
                self._busy_until[user] = until

    def _rejection(
        self, path: str, headers: Message, request: ReceivedRequest, payload: Any, fault: Fault | None
    ) -> Reply | None:
        """Return the answer to a request that is rejected as a whole; None if it is not rejected."""
        if fault and (reply := self._faulty(fault, request.arrived)):
            return reply
        if headers.get("Authorization") != f"Bearer {self.key}":
            return _message(401, "Invalid API key")
        if path.endswith("/"):
            return _message(403, "Forbidden")
        if limited := self._limited(request.arrived):
            return limited
        if len(request.body) > _PAYLOAD_BYTES:
            return _message(413, "Request Entity Too Large")
        if len(request.body) > self.max_bytes or request.objects > self.max_objects:
            return _message(400, "Max Input Length Exceeded")
        is_json = headers.get("Content-Type", "").partition(";")[0].strip() == "application/json"
        if not is_json or not isinstance(payload, dict):
            return _message(400, "Bad Request")
        if not request.objects or any(not isinstance(payload.get(name, []), list) for name in ARRAYS):
            return _message(400, _NO_VALID_DATA)
        return None

    def _limited(self, now: float) -> Reply | None:
        """Return the 429 of a request above the rate limit; otherwise count the request."""
        while self._accepted and self._accepted[0] <= now - _WINDOW_SECONDS:
            self._accepted.popleft()
        if len(self._accepted) < self.per_minute:
            self._accepted.append(now)
            return None
        return self._too_many(self.rate_limit_header, now, self._accepted[0] + _WINDOW_SECONDS - now)

    def _too_many(self, header: str, now: float, seconds: float) -> Reply:
        wait = max(1, -int(-seconds // 1))
        limit = {"X-RateLimit-Limit": str(self.per_minute), "X-RateLimit-Remaining": "0"}
        match header:
            case "retry-after":
                headers = {"X-Ratelimit-Retry-After": str(wait)}
            case "reset-epoch":
                headers = limit | {"X-RateLimit-Reset": str(int(now) + wait)}
            case "reset-remaining":
                headers = limit | {"X-RateLimit-Reset": str(wait)}
            case _:
                headers = {}
        return Reply(429, {"message": "You have been rate limited"}, headers)

    def _faulty(self, fault: Fault, now: float) -> Reply | None:
        """Return the answer of a fault that rejects requests; None for another fault."""
        match fault.kind:
            case "maintenance":
                return Reply(503, _MAINTENANCE, {"Content-Type": "text/html"})
            case "429-retry-after" | "429-reset-epoch" | "429-reset-remaining" | "429-no-time":
                return self._too_many(fault.kind.removeprefix("429-"), now, fault.seconds)
            case "message":
                return _message(201, "The workspace is not available")
            case "wrong-key" | "wrong-instance":  # Braze's answer is the same.
                return _message(401, "Invalid API key")
            case "no-permission":
                return _message(403, "Forbidden")
            case "too-long":
                return _message(400, "Max Input Length Exceeded")
            case _:
                return upstream_error(fault, {"message": "Internal Server Error"})

    def _accept(self, arrays: Mapping[str, list[Any]], fault: Fault | None) -> Reply:
        """Apply the valid objects. If there are none, the answer is 400, as from Braze."""
        errors = []
        processed: dict[str, int] = {}
        for name, items in arrays.items():
            valid = []
            for index, item in enumerate(items):
                error = problem(name, item)
                if error is None and fault and fault.kind == "object-errors" and fault.concerns(_user(item)):
                    error = "provided external_id is blacklisted and disallowed"
                if error is None:
                    valid.append(item)
                    self.profiles.apply(name, item)
                else:
                    errors.append({"type": error, "input_array": name, "index": index})
            if items:
                processed[name] = len({user_key(item) for item in valid}) if name == "attributes" else len(valid)
        self.object_errors += len(errors)
        detail = {"errors": errors} if errors else {}
        if not any(processed.values()):
            return Reply(400, {"message": _NO_VALID_DATA, **detail})
        counts = {f"{name}_processed": count for name, count in processed.items()}
        if fault and fault.kind == "queued":
            return Reply(202, {"message": "queued"}, self._limit_headers())
        return Reply(201, {"message": "success", **counts, **detail}, self._limit_headers())

    def _limit_headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.per_minute),
            "X-RateLimit-Remaining": str(self.per_minute - len(self._accepted)),
            "X-RateLimit-Reset": str(int(self._accepted[0] + _WINDOW_SECONDS)),
        }


def _arrays(payload: Any) -> dict[str, list[Any]]:
    """Return the objects of each array; an array that is missing or not a list is empty."""
    values = payload if isinstance(payload, dict) else {}
    return {name: values[name] if isinstance(values.get(name), list) else [] for name in ARRAYS}


def _user(item: Any) -> str | None:
    """Return the external id of an object, or None."""
    external_id = item.get("external_id") if isinstance(item, dict) else None
    return external_id if isinstance(external_id, str) else None


def _message(status: int, message: str) -> Reply:
    return Reply(status, {"message": message})
