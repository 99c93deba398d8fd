"""Sends one request to Braze's /users/track, and translates the response.

Source: braze.com/docs/api/endpoints/user_data/post_user_track, and braze.com/docs/api/errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from proxy.amplitude.client import parse_retry_after
from proxy.amplitude.transport import Session, is_unsent, read_body, reuse_connection
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.json import read_json, write_body

Object = Mapping[str, Any]
"""An element of `attributes` or `events`, without `_update_existing_only`, which the client adds."""

_MAX_RESPONSE_BYTES = 256 * 1024
_MAX_REASON_CHARACTERS = 200
_EPOCH_SECONDS = 1e8
"""X-RateLimit-Reset is Unix time above this number, and the seconds remaining below."""
_LONGEST_PAUSE_SECONDS = 366 * 86400.0
"""The maximum pause. A later time could not be shown as a date."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Braze accepted the request, except the objects in `errors`: the reason by array name and index."""

    errors: Mapping[tuple[str, int], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The request has too many objects or bytes; a smaller request may be accepted."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """Braze returned 429. `seconds`: when to try again; None if the response has no time."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The request failed temporarily. `uncertain`: Braze may have accepted the request."""

    reason: str
    uncertain: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Braze will refuse every request. `reason` names the key, the instance or the permission, and the fix."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Braze will never accept this request. `status`: of the response."""

    reason: str
    status: int


TrackResult = Accepted | TooLarge | RateLimited | Unavailable | Refused | Failed


class TrackClient:
    """Sends `POST /users/track`. Thread-safe. Never retries: the caller knows whether a repeated request is harmless.

    `timeout`: seconds for a whole request. `create_users`: let Braze create unknown users.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        create_users: bool,
        timeout: float,
        connections: int = 16,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._url = f"{endpoint}/users/track"
        self._api_key = api_key
        self._create_users = create_users
        self._timeout = timeout
        self._clock = clock
        self._session = Session(self._url, connections=connections)
        self._session.headers.update(
            {"Accept": "application/json", "Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        )

    def send(self, attributes: Sequence[Object], events: Sequence[Object] = ()) -> TrackResult:
        """Send one request with these objects, at most 75 in all. Failures are results, not exceptions.

        The timeout covers connecting, sending and the whole response. It does not cover the DNS lookup, which has the
        timeout of the system's resolver. No reason contains the API key, an id or a value.
        """
        arrays = {"attributes": attributes, "events": events}
        try:
            with self._session.post(
                self._url,
                data=write_body({name: self._marked(objects) for name, objects in arrays.items() if objects}),
                stream=True,
                allow_redirects=False,
                timeout=urllib3.Timeout(total=self._timeout),  # type: ignore[arg-type]  # requests passes it on
            ) as response:
                result = self._result(response, arrays)
                reuse_connection(response)
                return result
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return Unavailable(f"the request failed with {type(error).__name__}", uncertain=not is_unsent(error))

    def _marked(self, objects: Sequence[Object]) -> list[Object]:
        return list(objects) if self._create_users else [{**entry, "_update_existing_only": True} for entry in objects]

    def _result(self, response: requests.Response, arrays: Mapping[str, Sequence[Object]]) -> TrackResult:
        status = response.status_code
        if status == 429:
            return RateLimited(_pause(response.headers, self._clock.now()))
        if status >= 500 or status in _TRANSIENT:
            return Unavailable(f"Braze returned status {status}", uncertain=False)
        if refusal := _REFUSALS.get(status):
            return Refused(f"Braze returned status {status}: {refusal}")
        if 300 <= status < 400:
            return Refused(f"Braze returned the redirect {status}: {_REFUSALS[404]}")
        if status == 413:
            return TooLarge()
        document = _document(response)
        message = document.get("message") if isinstance(document, dict) else None
        text = message if isinstance(message, str) else ""
        if status < 300:
            if text.lower() in ("success", "queued"):
                return Accepted(self._errors(document, arrays))
            if not isinstance(document, dict):
                # For example a truncated body, or the page of a proxy: Braze may have accepted the request.
                return Unavailable(f"Braze returned status {status} without a JSON object", uncertain=True)
        elif "max input length exceeded" in text.lower():
            return TooLarge()
        elif "invalid api key" in text.lower():
            return Refused(f"Braze returned status {status}, Invalid API key: {_REFUSALS[401]}")
        all_objects = [entry for objects in arrays.values() for entry in objects]
        # Braze rejects a request without any valid object, and returns a reason for each object.
        errors = self._errors(document, arrays, indexed_only=True) if isinstance(document, dict) else {}
        if errors and len(errors) == len(all_objects):
            return Accepted(errors)
        return Failed(f"Braze returned status {status}: {self._clean(text, all_objects) or 'no message'}", status)

    def _errors(
        self, document: Mapping[str, Any], arrays: Mapping[str, Sequence[Object]], *, indexed_only: bool = False
    ) -> dict[tuple[str, int], str]:
        """Return the reasons in a response, by array name and index of the object.

        An error without a usable index applies to all objects of its array. An error without a known array applies to
        all objects. Otherwise, a rejected object could count as accepted, and its values would never be sent again.
        `indexed_only`: ignore errors without a usable index.
        """
        listed = document.get("errors")
        entries = [entry for objects in arrays.values() for entry in objects]
        ids = [entry.get("external_id") for entry in entries]
        reasons: dict[tuple[str, int], str] = {}
        for error in listed if isinstance(listed, list) else [listed] if listed else []:
            entry = error if isinstance(error, dict) else {"type": error}
            name, index, kind = entry.get("input_array"), entry.get("index"), entry.get("type")
            names = [name] if isinstance(name, str) and arrays.get(name) else list(arrays)
            numbers: Iterable[int] | None = None
            if len(names) == 1 and type(index) is int and 0 <= index < len(arrays[names[0]]):
                numbers = [index]
            elif indexed_only:
                continue
            # The reason may name another user than the index.
            named = entries if numbers is None else [arrays[names[0]][number] for number in numbers]
            reason = self._clean(kind, [ids, *named]) if isinstance(kind, str) else ""
            for array in names:
                for number in numbers or range(len(arrays[array])):
                    reasons.setdefault((array, number), reason or "Braze rejected the object without a reason")
        return reasons

    def _clean(self, text: str, values: list[Any]) -> str:
        """Return a text from Braze without the API key and the texts in `values`, such as ids."""
        for value in sorted({self._api_key, *_texts(values)}, key=len, reverse=True):
            if value in text:
                text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", text)
        printable = "".join(character if character.isprintable() else " " for character in text)
        return printable.strip()[:_MAX_REASON_CHARACTERS]


_TRANSIENT = (408, 425)
"""Of a server between this program and Braze, about this request only."""
_REFUSALS = {
    401: (
        "BRAZE_API_KEY is wrong, or BRAZE_REST_ENDPOINT names another instance; copy the key and the REST endpoint of "
        "the same workspace from Braze, Settings > APIs and Identifiers"
    ),
    403: "BRAZE_API_KEY lacks the permission users.track, or its address list excludes this server; change the key in "
    "Braze, Settings > APIs and Identifiers, and check that BRAZE_REST_ENDPOINT names the instance of the key",
    404: "BRAZE_REST_ENDPOINT is not a REST endpoint of Braze; set https://rest.<instance>.braze.com as in Braze, "
    "Settings > APIs and Identifiers",
}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value, except the keys."""
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list | Mapping):
        for member in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(member)


def _document(response: requests.Response) -> Any:
    """Return the JSON of the body; None if the body is not JSON or is too large."""
    body = read_body(response, _MAX_RESPONSE_BYTES)
    try:
        return None if body is None else read_json(body)
    except ValueError:
        return None


def _pause(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until the next request; None without a header.

    Source: braze.com/docs/api/api_limits. A 429 has X-Ratelimit-Retry-After (seconds). Other responses have
    X-RateLimit-Reset: Unix time, or on some contracts the seconds remaining.
    """
    seconds = _number(headers.get("X-Ratelimit-Retry-After"))
    if seconds is None:
        seconds = _number(headers.get("X-RateLimit-Reset"))
        if seconds is not None and seconds > _EPOCH_SECONDS:
            seconds -= now
    if seconds is None:
        seconds = parse_retry_after(headers.get("Retry-After"), now)
    return None if seconds is None else min(max(seconds, 0.0), _LONGEST_PAUSE_SECONDS)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
