"""Reads request parameters: at most once each, trimmed, limited in length. `parse` interprets the values."""

from __future__ import annotations

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
"""Limit on the characters of parameters whose query is cached."""
_NOT_ALLOWED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A request parameter.

    many: the value is a comma-separated list, or in JSON an array. words: the allowed values; any value if empty.
    holds_comma: an entry in a JSON array may contain a comma.
    """

    name: str
    help: str
    many: bool = False
    words: tuple[str, ...] = ()
    holds_comma: bool = False


USER_ID = Parameter("user_id", "the user's id in Amplitude")
DEVICE_ID = Parameter("device_id", "the device's id in Amplitude")


def parse_identity(known: Collection[str], pairs: Iterable[tuple[str, Any]]) -> tuple[Identity, dict[str, Any]]:
    """Return the ids and the other known parameters of a request.

    Raises BadRequest if a known parameter occurs twice in `pairs`, if both ids are absent, or if an id is invalid.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in known:
            if name in values:
                raise BadRequest(
                    f"{name} occurs more than once; send it once, in the URL or in the body",
                    code="repeated_parameter",
                    parameter=name,
                )
            values[name] = value
    if USER_ID.name not in values and DEVICE_ID.name not in values:
        raise BadRequest(
            "user_id or device_id is required; add user_id={{${user_id} | url_param_escape}}", code="missing_parameter"
        )
    identity = Identity(word(values, USER_ID), word(values, DEVICE_ID))
    values.pop(USER_ID.name, None)
    values.pop(DEVICE_ID.name, None)
    return identity, values


def readable_id(value: Any) -> str | None:
    """Return an id from a webhook as text; None if no request could contain the id.

    Requests are trimmed. An id with white space at an end must not be taken for the trimmed id of another user.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    try:
        return text if text and _clean(USER_ID, text) == text else None
    except BadRequest:
        return None


def is_short(values: Iterable[Any]) -> bool:
    """Return whether the query with these values may be cached: all values are text, and together short."""
    return sum([len(value) if isinstance(value, str) else _SHORT + 1 for value in values]) <= _SHORT


def word(values: Mapping[str, Any], parameter: Parameter) -> str | None:
    """Return the trimmed text of a parameter; None if blank or absent. Raises BadRequest."""
    if parameter.name not in values:
        return None
    value = values[parameter.name]
    if not isinstance(value, str):
        raise _invalid(parameter, "has the wrong type; send a string or a number")
    text = _clean(parameter, value)
    if text and parameter.words and text not in parameter.words:
        raise _invalid(parameter, f"has an unknown value; use {' or '.join(parameter.words)}")
    return text or None


def entries(values: Mapping[str, Any], parameter: Parameter) -> tuple[str, ...]:
    """Return the trimmed entries of a list, without blanks and duplicates. Raises BadRequest."""
    value = values.get(parameter.name, "")
    sent: Any = value.split(",") if isinstance(value, str) else value
    if not isinstance(sent, list):
        raise _invalid(parameter, "has the wrong type; send a string, a number or an array")
    if not all(isinstance(entry, str) for entry in sent):
        raise _invalid(parameter, "has an entry of the wrong type; send only strings and numbers")
    cleaned = tuple(dict.fromkeys(filter(None, (_clean(parameter, entry) for entry in sent))))
    if len(cleaned) > MAX_ENTRIES:
        raise _invalid(parameter, f"has {len(cleaned)} entries; send at most {MAX_ENTRIES}")
    if not parameter.holds_comma and any("," in entry for entry in cleaned):
        raise _invalid(parameter, "has an entry with a comma, which Amplitude would split; send two entries")
    if parameter.words and not set(cleaned) <= set(parameter.words):
        raise _invalid(parameter, f"has an unknown value; use only {', '.join(parameter.words)}")
    return cleaned


def flag(values: Mapping[str, Any], parameter: Parameter, *, default: bool = False) -> bool:
    """Return a boolean, in upper or lower case; `default` if blank or absent. Raises BadRequest."""
    value = values.get(parameter.name, "")
    if isinstance(value, bool):
        return value
    text = word({parameter.name: value.lower() if isinstance(value, str) else value}, parameter)
    return default if text is None else text == "true"


def _clean(parameter: Parameter, text: str) -> str:
    text = str(text).strip()
    if len(text) <= MAX_LENGTH and text.isprintable():
        return text
    subject = "has an entry that " if parameter.many else ""
    if len(text) > MAX_LENGTH:
        raise _invalid(parameter, f"{subject}is too long; send at most {MAX_LENGTH} characters")
    if match := _NOT_ALLOWED.search(text):
        if match[0] >= "\ud800":
            raise _invalid(parameter, f"{subject}is not valid Unicode; encode it as UTF-8")
        raise _invalid(parameter, f"{subject}contains a control character; remove the character")
    return text


def _invalid(parameter: Parameter, problem: str) -> BadRequest:
    """Return the error of `parameter`. `problem`: the rest of the sentence, with the fix."""
    return BadRequest(f"{parameter.name} {problem}", code="invalid_parameter", parameter=parameter.name)
