"""Reads request parameters: each at most once, trimmed and short. What they mean is decided in `parse`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.api.errors import BadRequest
from proxy.profile.parts import Identity

MAX_LENGTH = 512
MAX_ENTRIES = 20
BOOLEANS = ("true", "false")
_SHORT = 1000
"""Characters of parameters whose query is cached."""
_NOT_ALLOWED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A request parameter. `many`: it takes a comma separated list (in JSON also an array)."""

    name: str
    help: str
    many: bool = False
    words: tuple[str, ...] = ()
    holds_comma: bool = False


USER_ID = Parameter("user_id", "the user's id in Amplitude")
DEVICE_ID = Parameter("device_id", "the device's id in Amplitude")


def identified(known: Collection[str], sent: Iterable[tuple[str, Any]]) -> tuple[Identity, dict[str, Any]]:
    """Return the ids and the other known parameters of a request.

    Raises BadRequest when a known parameter occurs twice, when there is no id, or one is not valid.
    """
    values: dict[str, Any] = {}
    for name, value in sent:
        if name in known:
            if name in values:
                raise BadRequest(f"{name} is given more than once: send it once, in the URL or in the body")
            values[name] = value
    if USER_ID.name not in values and DEVICE_ID.name not in values:
        raise BadRequest("no user: send user_id or device_id, e.g. user_id={{${user_id} | url_param_escape}}")
    identity = Identity(word(values, USER_ID), word(values, DEVICE_ID))
    values.pop(USER_ID.name, None)
    values.pop(DEVICE_ID.name, None)
    return identity, values


def readable_id(value: Any) -> str | None:
    """Return an id from another source as a caller would send it; None when no caller could send it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return _clean(USER_ID, str(value)) or None
    except BadRequest:
        return None


def is_short(values: Iterable[Any]) -> bool:
    """Tell whether the query made of these values may be cached: they are all text, and little of it."""
    return sum([len(value) if isinstance(value, str) else _SHORT + 1 for value in values]) <= _SHORT


def word(values: Mapping[str, Any], parameter: Parameter) -> str | None:
    """Return the text of a parameter, trimmed; None when it is blank or absent. Raises BadRequest."""
    if parameter.name not in values:
        return None
    value = values[parameter.name]
    if not isinstance(value, str):
        raise BadRequest(f"{parameter.name} must be a string or a number")
    text = _clean(parameter, value)
    if text and parameter.words and text not in parameter.words:
        raise BadRequest(f"{parameter.name} is not a known word: use {' or '.join(parameter.words)}")
    return text or None


def entries(values: Mapping[str, Any], parameter: Parameter) -> tuple[str, ...]:
    """Return the entries of a list, trimmed, without blanks and duplicates. Raises BadRequest."""
    value = values.get(parameter.name, "")
    sent: Any = value.split(",") if isinstance(value, str) else value
    if not isinstance(sent, list):
        raise BadRequest(f"{parameter.name} must be a string, a number or an array of those")
    if not all(isinstance(entry, str) for entry in sent):
        raise BadRequest(f"{parameter.name} may hold only strings and numbers")
    cleaned = tuple(dict.fromkeys(filter(None, (_clean(parameter, entry) for entry in sent))))
    if len(cleaned) > MAX_ENTRIES:
        raise BadRequest(f"{parameter.name} has {len(cleaned)} entries: {MAX_ENTRIES} at most")
    if not parameter.holds_comma and any("," in entry for entry in cleaned):
        raise BadRequest(
            f"{parameter.name} has an entry with a comma, which Amplitude would read as two: send two entries"
        )
    if parameter.words and not set(cleaned) <= set(parameter.words):
        raise BadRequest(f"{parameter.name} has an unknown word: use {', '.join(parameter.words)}")
    return cleaned


def flag(values: Mapping[str, Any], parameter: Parameter, *, default: bool = False) -> bool:
    """Return a boolean, written in upper or lower case; `default` when it is blank or absent. Raises BadRequest."""
    value = values.get(parameter.name, "")
    if isinstance(value, bool):
        return value
    text = word({parameter.name: value.lower() if isinstance(value, str) else value}, parameter)
    return default if text is None else text == "true"


class _Number(str):
    """A JSON number as it was written, so that an id keeps every digit."""

    __slots__ = ()


def from_json(body: bytes) -> list[tuple[str, Any]]:
    """Return the names and values of a JSON body. Raises BadRequest unless it is one object without duplicate keys."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise BadRequest("the JSON body has a key twice: send each once")
        return dict(pairs)

    def refuse(_: str) -> None:
        raise BadRequest(
            "the JSON body holds NaN or Infinity, which are not JSON: send a number or a text, or leave the key out"
        )

    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=members,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=refuse,
        )
    except (ValueError, RecursionError):
        raise BadRequest('the body is not JSON: send an object, e.g. {"user_id": "12345"}') from None
    if not isinstance(document, dict):
        raise BadRequest('the JSON body is not an object: send e.g. {"user_id": "12345"}')
    return list(document.items())


def _clean(parameter: Parameter, text: str) -> str:
    text = str(text).strip()
    if len(text) <= MAX_LENGTH and text.isprintable():
        return text
    name = f"an entry of {parameter.name}" if parameter.many else parameter.name
    if len(text) > MAX_LENGTH:
        raise BadRequest(f"{name} is too long: {MAX_LENGTH} characters at most")
    if match := _NOT_ALLOWED.search(text):
        if match[0] >= "\ud800":
            raise BadRequest(f"{name} is not valid Unicode: encode it as UTF-8")
        raise BadRequest(f"{name} holds a control character: remove it")
    return text
