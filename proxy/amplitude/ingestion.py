"""Sends events to Amplitude's Batch API. Each call sends one request, and returns Amplitude's answer as a value.

Source: amplitude.com/docs/apis/analytics/batch-event-upload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from proxy.amplitude.client import retry_after, translate_error
from proxy.amplitude.transport import Session, read_body, reuse_connection
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.errors import (
    QuotaExhausted,
    UpstreamInvalid,
    UpstreamRejected,
    UpstreamUnavailable,
)
from proxy.profile.json import read_json, write_body

MAX_EVENTS = 2_000
"""Amplitude's limit on the events of a request."""
_MAX_ANSWER_BYTES = 2 * 1024 * 1024
_INDEX_FIELDS = ("events_with_invalid_fields", "events_with_missing_fields", "events_with_invalid_id_lengths")
"""The fields of an answer that contain lists of event indexes, by field name."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Amplitude accepted all events. Amplitude ignores events with an `insert_id` that it already has."""


@dataclass(frozen=True, slots=True)
class InvalidEvents:
    """Amplitude accepted no event, because the events at `indexes` are invalid."""

    indexes: frozenset[int]


@dataclass(frozen=True, slots=True)
class DailyQuotaExceeded:
    """Amplitude accepted no event, because these users and devices have sent too many events today."""

    user_ids: frozenset[str]
    device_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unprocessable:
    """Amplitude accepted no event: the request is too large, or an event is invalid and the answer has no index."""


BatchAnswer = Accepted | InvalidEvents | DailyQuotaExceeded | Unprocessable


class BatchClient:
    """Sends `POST /batch`. Thread-safe. Connections are pooled and opened on first use."""

    def __init__(self, url: str, api_key: str, *, connections: int = 10, clock: Clock = SYSTEM_CLOCK) -> None:
        self._url = url
        self._api_key = api_key
        self._clock = clock
        self._session = Session(url, connections=connections)
        self._session.headers.update({"Accept": "application/json", "Content-Type": "application/json"})

    def send(self, events: Sequence[Mapping[str, Any]], timeout: float) -> BatchAnswer:
        """Send at most MAX_EVENTS events. `timeout`: seconds for the whole request.

        Raises UpstreamError if Amplitude did not answer, answered 429 or 5xx, or rejects the API key. The caller can
        send the events again, because Amplitude ignores a repeated `insert_id` for seven days.
        """
        body = write_body({"api_key": self._api_key, "events": events, "options": {"min_id_length": 1}})
        try:
            with self._session.post(
                self._url,
                data=body,
                stream=True,
                allow_redirects=False,
                timeout=urllib3.Timeout(total=timeout),  # type: ignore[arg-type]  # requests passes it on
            ) as response:
                answer = self._parse(response, len(events))
                reuse_connection(response)
                return answer
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise translate_error(error) from None

    def _parse(self, response: requests.Response, events: int) -> BatchAnswer:
        status, document = response.status_code, _document(response)
        error = f"Amplitude's Batch API returned status {status}"
        if status == 200 and document.get("code") == status:
            return Accepted()
        if status == 429:
            user_ids = _keys(document.get("exceeded_daily_quota_users"))
            device_ids = _keys(document.get("exceeded_daily_quota_devices"))
            if user_ids or device_ids:
                return DailyQuotaExceeded(user_ids, device_ids)
            raise QuotaExhausted(error, retry_after=retry_after(response.headers.get("Retry-After"), self._clock.now()))
        if status == 413:
            return Unprocessable()
        if status == 400:
            if str(document.get("error")).startswith("Invalid API key"):
                raise UpstreamRejected("Amplitude's Batch API rejects the API key")
            indexes = frozenset(index for index in _indexes(document) if 0 <= index < events)
            return InvalidEvents(indexes) if indexes else Unprocessable()
        if status >= 500:
            raise UpstreamUnavailable(error)
        raise UpstreamInvalid(error if status != 200 else "the answer does not have the documented form")


def _document(response: requests.Response) -> Mapping[str, Any]:
    """Return the JSON object in the body; empty if the body is not a JSON object."""
    body = read_body(response, _MAX_ANSWER_BYTES)
    try:
        document = None if body is None else read_json(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _keys(value: Any) -> frozenset[str]:
    return frozenset(value) if isinstance(value, dict) else frozenset()


def _indexes(document: Mapping[str, Any]) -> Iterable[int]:
    """Yield the indexes of the invalid events in the answer."""
    lists = [document.get("silenced_events")]
    for field in _INDEX_FIELDS:
        if isinstance(by_field := document.get(field), dict):
            lists += by_field.values()
    for indexes in lists:
        if isinstance(indexes, list):
            yield from (index for index in indexes if type(index) is int)
