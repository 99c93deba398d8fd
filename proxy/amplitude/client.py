"""Calls Amplitude's User Profile API. Returns a record or raises an UpstreamError.

Source: amplitude.com/docs/apis/analytics/user-profile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from proxy.amplitude.calls import Call, split_response
from proxy.amplitude.transport import ClosedOnReuse, InvalidResponse, Session, read_body, reuse_connection
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile import encoding
from proxy.profile.errors import (
    AnotherUser,
    ConnectionClosed,
    QuotaExhausted,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.profile.json import read_json
from proxy.profile.parts import Identity, Part
from proxy.profile.record import CachedPart, Record

MAX_BYTES = 2 * 1024 * 1024
_DEFAULT_PAUSE_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 3600.0
_UNKNOWN = re.compile(r"[\s\"]*user id and device id not seen before", re.IGNORECASE)
_OVER_LIMIT = re.compile(r"[\s\"]*number of requests per minute exceeds", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a call: the record, and an error for each part with an undocumented type."""

    record: Record
    faults: Mapping[Part, UpstreamError]


class AmplitudeClient:
    """Sends `GET /v1/userprofile`. Thread-safe. Connections are pooled and opened on first use.

    `timeout`: seconds for a whole call. `accept_mapped_users`: accept responses about a user other than the requested
    user.
    """

    def __init__(
        self,
        base_url: str,
        secret_key: str,
        api_key: str | None = None,
        *,
        timeout: float,
        connections: int = 10,
        accept_mapped_users: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._url = f"{base_url}/v1/userprofile"
        self._timeout = timeout
        self._accept_mapped_users = accept_mapped_users
        self._clock = clock
        auth = HTTPBasicAuth(api_key, secret_key) if api_key is not None else None
        self._session = Session(self._url, auth, connections=connections)
        self._retry_session = Session(self._url, auth, connections=connections)  # never reuses a connection
        for session in (self._session, self._retry_session):
            session.headers["Accept"] = "application/json"
            if auth is None:
                session.headers["Authorization"] = f"Api-Key {secret_key}"

    def fetch(self, identity: Identity, call: Call, *, retry_within: float | None = None) -> Fetched:
        """Send one request and return the parts of the call. Raises UpstreamError if the request fails.

        The timeout covers connecting, but not the DNS lookup, which the system's resolver limits.
        An HTTP proxy may take as long again to answer CONNECT.
        This method never retries, because each request uses quota and may log an exposure. After ConnectionClosed, the
        caller may send the call once more with `retry_within`: the seconds that remain of the timeout. A retry uses a
        new connection.
        """
        is_retry = retry_within is not None
        timeout = self._timeout if retry_within is None else retry_within
        started = self._clock.monotonic()
        try:
            with (self._retry_session if is_retry else self._session).get(
                self._url,
                params=call.parameters(identity),
                stream=True,
                allow_redirects=False,
                timeout=urllib3.Timeout(total=timeout),  # type: ignore[arg-type]  # requests passes it on
            ) as response:
                fetched = self._parse(
                    identity, call, response.status_code, response.headers, read_body(response, MAX_BYTES)
                )
                # A response without ids cannot be checked: a second copy would pass as the answer for the next user.
                if not is_retry and not fetched.faults and _has_id(fetched.record):
                    reuse_connection(response)
                return fetched
        except ClosedOnReuse:
            raise ConnectionClosed(self._timeout - (self._clock.monotonic() - started)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise translate_error(error) from None

    def _parse(
        self, identity: Identity, call: Call, status: int, headers: Mapping[str, str], body: bytes | None
    ) -> Fetched:
        now = self._clock.now()
        document = _document(body)
        error_text = _error_text(document, body)
        if _UNKNOWN.match(error_text):
            return Fetched(Record(unknown_at=now, unknown_status=status), {})
        if status == 429 or _OVER_LIMIT.match(error_text):
            raise QuotaExhausted(
                "Amplitude returned status 429", retry_after=retry_after(headers.get("Retry-After"), now)
            )
        if status in (401, 403):
            raise UpstreamRejected(f"Amplitude returned status {status}")
        if status >= 500:
            raise UpstreamUnavailable(f"Amplitude returned status {status}")
        if status != 200:
            raise UpstreamInvalid(f"Amplitude returned status {status}")
        user_data = document.get("userData") if isinstance(document, dict) else None
        if not isinstance(user_data, dict):
            raise UpstreamInvalid(
                "the answer is larger than 2 MiB" if body is None else "the answer does not have the documented form"
            )
        if not self._accept_mapped_users and not _is_about(identity, user_data):
            raise AnotherUser
        values, faulty = split_response(call, user_data)
        record = Record(
            {part: CachedPart(encoding.write(value), now) for part, value in values.items()},
            None,
            _id(user_data.get("user_id")),
            _id(user_data.get("device_id")),
        )
        return Fetched(record, {part: UpstreamInvalid(f"{part.section} has an undocumented type") for part in faulty})


def translate_error(error: Exception) -> UpstreamError:
    """Return the UpstreamError for an error of requests or urllib3. The text omits the URL, which contains ids."""
    name = type(error).__name__
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return UpstreamUnavailable(name)
    if isinstance(error, requests.Timeout | urllib3.exceptions.ReadTimeoutError):
        return UpstreamTimeout(name)
    if isinstance(error, InvalidResponse | requests.exceptions.ContentDecodingError | urllib3.exceptions.DecodeError):
        return UpstreamInvalid(name)
    return UpstreamUnavailable(name)


def _document(body: bytes | None) -> Any:
    try:
        return read_json(body) if body is not None else None
    except ValueError:
        return None


def _error_text(document: Any, body: bytes | None) -> str:
    """Return the error text of a response. Amplitude sends {"error": …} or plain text."""
    if isinstance(document, dict):
        error = document.get("error")
        return error if isinstance(error, str) and document.get("userData") is None else ""
    return (body or b"")[:200].decode("utf-8", "replace")


def _has_id(record: Record) -> bool:
    return any((id or "").strip() for id in (record.user_id, record.device_id))


def _is_about(identity: Identity, user_data: Mapping[str, Any]) -> bool:
    """Return whether a response is about the requested user or contains no ids.

    The user ids decide, because a user has several devices. If the request or the response has no user id, the device
    ids must be equal.
    """
    user_id, device_id = _returned_id(user_data.get("user_id")), _returned_id(user_data.get("device_id"))
    if identity.user_id is not None and user_id is not None:
        return bool(user_id == identity.user_id)
    return device_id is None or bool(device_id == identity.device_id)


def _returned_id(value: Any) -> Any:
    """Return an id as trimmed text; None if the id is blank. Values of other types are unchanged and equal no id."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return (value.strip() or None) if isinstance(value, str) else value


def _id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def retry_after(value: str | None, now: float) -> float:
    """Return the seconds in a Retry-After header; 60 without a valid header, and at most an hour."""
    seconds = parse_retry_after(value, now)
    return min(max(_DEFAULT_PAUSE_SECONDS if seconds is None else seconds, 1.0), _MAX_PAUSE_SECONDS)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds in a Retry-After header, which contains a number or a date (RFC 9110, 10.2.3).

    Returns None without a valid header. A date in the past is negative.
    """
    text = (value or "").strip()
    is_number = text.isascii() and text.isdigit()
    try:
        return float(text) if is_number else parsedate_to_datetime(text).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return None
