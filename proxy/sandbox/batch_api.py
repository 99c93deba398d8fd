"""The emulated Batch Event Upload API of Amplitude.

Follows amplitude.com/docs/apis/analytics/batch-event-upload and, for the rules of an event and for deduplication,
/http-v2.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.message import Message
from typing import Any, get_args

from proxy.sandbox.faults import BatchFaultKind, Fault, FaultSwitch
from proxy.sandbox.http import Reply
from proxy.sandbox.receiving import apply_fault, upstream_error
from proxy.sandbox.request_log import RequestLog, parse_body

_DEDUPLICATION_SECONDS = 7 * 24 * 3600.0
_EPS_THRESHOLD = 1000
_THROTTLED_EPS = 4000
_DAILY_EVENTS = 500_200
_MIN_ID_LENGTH = 5
_IDS = ("user_id", "device_id")
_NOT_THROTTLED: dict[str, Any] = {
    "throttled_devices": {},
    "throttled_users": {},
    "exceeded_daily_quota_users": {},
    "exceeded_daily_quota_devices": {},
    "throttled_events": [],
}


@dataclass(kw_only=True, eq=False)
class BatchApi:
    """Receives events and stores each event once. Thread-safe.

    key: the accepted API key. max_events, max_bytes: the limits of a request. latency: seconds before each answer.
    clock: returns epoch seconds.
    """

    key: str = "sandbox-api-key"
    max_events: int = 2000
    max_bytes: int = 20_000_000
    latency: float = 0.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.faults = FaultSwitch(get_args(BatchFaultKind))
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Delete all requests and events."""
        with self._lock:
            self.log = RequestLog()
            self.events: list[dict[str, Any]] = []
            """The stored events in the order of arrival, without duplicates."""
            self.duplicates = 0
            self._stored_at: dict[tuple[str, str, str], float] = {}

    def by_insert_id(self) -> dict[str, dict[str, Any]]:
        """Return the stored events by `insert_id`. Leaves out events without an `insert_id`."""
        with self._lock:
            return {event["insert_id"]: event for event in self.events if event.get("insert_id")}

    def report(self) -> dict[str, Any]:
        """Return the counts of requests, events and duplicates. `objects` are the events of all requests."""
        with self._lock:
            return {
                **self.log.report(),
                "events": len(self.events),
                "duplicates": self.duplicates,
                "without_insert_id": sum(1 for event in self.events if not event.get("insert_id")),
                "event_types": dict(Counter(event["event_type"] for event in self.events)),
            }

    def details(self, name: str) -> Any:
        """Return the stored events or the requests; None for another name."""
        with self._lock:
            match name:
                case "events":
                    return list(self.events)
                case "requests":
                    return [request.as_json() for request in self.log.requests]
                case _:
                    return None

    def receive(self, path: str, headers: Message, body: bytes) -> Reply:
        """Return the answer to a POST of `body` to /batch."""
        payload = parse_body(body)
        events = payload.get("events") if isinstance(payload, dict) else None
        items = events if isinstance(events, list) else []
        ids = {_text(item, name) for item in items for name in _IDS}
        with self._lock:
            request = self.log.add(self.clock(), body)
            request.objects = len(items)
            fault = self.faults.take(lambda fault: fault.user_id is None or any(map(fault.concerns, ids)))
            reply = self._rejection(headers, body, payload, items, fault)
            if reply is None:
                shortest = _min_id_length(payload)
                for event in items:
                    self._store(_without_short_ids(event, shortest), request.arrived)
                summary = {"events_ingested": len(items), "payload_size_bytes": len(body)}
                accepted = Reply(200, {"code": 200, **summary, "server_upload_time": int(request.arrived * 1000)})
                reply = apply_fault(accepted, fault)
            reply = replace(reply, delay=reply.delay + self.latency)
            request.status = 0 if reply.lost else reply.status
        return reply

    def _rejection(
        self, headers: Message, body: bytes, payload: Any, events: Sequence[Any], fault: Fault | None
    ) -> Reply | None:
        """Return the answer to a request that is rejected as a whole; None if it is not rejected."""
        if fault and (
            reply := _faulty(fault, events)
            or upstream_error(fault, {"code": fault.status, "error": "Internal Server Error"})
        ):
            return reply
        if len(body) > self.max_bytes or len(events) > self.max_events:
            return Reply(413, {"code": 413, "error": "Payload too large"})
        if headers.get_content_type() != "application/json" or not isinstance(payload, dict):
            return _bad_request("Invalid JSON request body")
        for field in ("api_key", "events"):
            if not payload.get(field):
                return _bad_request("Request missing required field", missing_field=field)
        if payload["api_key"] != self.key:
            return _bad_request(f"Invalid API key: {payload['api_key']}")
        if not isinstance(payload["events"], list):
            return _bad_request("Invalid JSON request body")
        return _invalid_events(events, _min_id_length(payload))

    def _store(self, event: dict[str, Any], now: float) -> None:
        """Store an event unless its device sent the `insert_id` within seven days.

        Without a device id, the user id counts, because Amplitude derives the device id from the user id.
        """
        if insert_id := event.get("insert_id"):
            device_id, user_id = event.get("device_id"), event.get("user_id")
            key = ("device", device_id, insert_id) if device_id else ("user", str(user_id), insert_id)
            if self._stored_at.get(key, float("-inf")) > now - _DEDUPLICATION_SECONDS:
                self.duplicates += 1
                return
            self._stored_at[key] = now
        self.events.append(event)


def _min_id_length(payload: Mapping[str, Any]) -> int:
    options = payload.get("options")
    shortest = options.get("min_id_length") if isinstance(options, dict) else None
    return shortest if isinstance(shortest, int) else _MIN_ID_LENGTH


def _without_short_ids(event: dict[str, Any], min_id_length: int) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in _IDS or (value and len(value) >= min_id_length)}


def _invalid_events(events: Sequence[Any], min_id_length: int) -> Reply | None:
    """Return the 400 for events with missing or invalid fields; None if all events are valid.

    An id that is too short is removed from its event. The event is invalid only if it has no other id.
    """
    missing: dict[str, list[int]] = {}
    invalid: dict[str, list[int]] = {}
    too_short: dict[str, list[int]] = {}
    for index, event in enumerate(events):
        if not isinstance(event, dict):
            invalid.setdefault("events", []).append(index)
            continue
        for field in _invalid_fields(event):
            invalid.setdefault(field, []).append(index)
        if not event.get("event_type"):
            missing.setdefault("event_type", []).append(index)
        ids = [name for name in _IDS if event.get(name)]
        if not ids:
            missing.setdefault("user_id", []).append(index)
            missing.setdefault("device_id", []).append(index)
        short = [name for name in ids if len(str(event[name])) < min_id_length]
        if ids and short == ids:
            for name in short:
                too_short.setdefault(name, []).append(index)
    if not (missing or invalid or too_short):
        return None
    if missing:
        error = "Request missing required field"
    elif invalid:
        error = "Invalid field values on some events"
    else:
        error = "Invalid id length for user_id or device_id"
    return _bad_request(error, missing=missing, invalid=invalid, too_short=too_short)


def _invalid_fields(event: Mapping[str, Any]) -> Iterable[str]:
    """Yield the fields of an event that have an invalid value."""
    for name in ("event_type", "user_id", "device_id", "insert_id"):
        if not isinstance(event.get(name), (str, type(None))):
            yield name
    if isinstance(event.get("event_type"), str) and event["event_type"].startswith("[Amplitude]"):
        yield "event_type"  # reserved names
    moment = event.get("time", 0)
    if not isinstance(moment, int) or isinstance(moment, bool) or moment < 0:
        yield "time"
    for name in ("event_properties", "user_properties"):
        if not isinstance(event.get(name), (dict, type(None))):
            yield name


def _bad_request(
    error: str,
    *,
    missing_field: str | None = None,
    missing: Mapping[str, list[int]] | None = None,
    invalid: Mapping[str, list[int]] | None = None,
    too_short: Mapping[str, list[int]] | None = None,
) -> Reply:
    lists = {
        "missing_field": missing_field,
        "events_with_invalid_fields": invalid,
        "events_with_missing_fields": missing,
        "events_with_invalid_id_lengths": too_short,
    }
    return Reply(400, {"code": 400, "error": error} | {name: value for name, value in lists.items() if value})


def _faulty(fault: Fault, events: Sequence[Any]) -> Reply | None:
    """Return the answer of a fault of this API that rejects requests; None for another fault."""
    indexes = [
        index
        for index, event in enumerate(events)
        if fault.concerns(_text(event, "user_id")) or fault.concerns(_text(event, "device_id"))
    ]

    def counted(name: str, count: int) -> dict[str, int]:
        return {id: count for index in indexes if (id := _text(events[index], name))}

    match fault.kind:
        case "throttled":
            users, devices = counted("user_id", _THROTTLED_EPS), counted("device_id", _THROTTLED_EPS)
            return _too_many(throttled_users=users, throttled_devices=devices, throttled_events=indexes)
        case "daily-quota-users":
            return _too_many(exceeded_daily_quota_users=counted("user_id", _DAILY_EVENTS))
        case "daily-quota-devices":
            return _too_many(exceeded_daily_quota_devices=counted("device_id", _DAILY_EVENTS))
        case "silenced":
            silenced = {"silenced_devices": [*counted("device_id", 0)], "silenced_events": indexes}
            error = {"code": 400, "error": "Events silenced for device_id", "eps_threshold": _EPS_THRESHOLD}
            return Reply(400, error | _NOT_THROTTLED | silenced)
        case "invalid-fields":
            return _bad_request("Invalid field values on some events", invalid={"time": indexes})
        case "missing-fields":
            return _bad_request("Request missing required field", missing={"event_type": indexes})
        case "bad-request":
            return _bad_request("Invalid upload request")
        case "wrong-key":
            return _bad_request("Invalid API key: wrong-key")
        case "too-large":
            return Reply(413, {"code": 413, "error": "Payload too large"})
        case _:
            return None


def _too_many(**details: Any) -> Reply:
    error = {"code": 429, "error": "Too many requests for some devices and users", "eps_threshold": _EPS_THRESHOLD}
    return Reply(429, error | _NOT_THROTTLED | details)


def _text(event: Any, name: str) -> str | None:
    """Return a field of an event if it is text."""
    value = event.get(name) if isinstance(event, dict) else None
    return value if isinstance(value, str) else None
