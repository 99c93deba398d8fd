"""Decodes a JSON body into names and values."""

from __future__ import annotations

import json
from typing import Any

from proxy.api.drop_in import DROP_IN
from proxy.api.errors import BadRequest
from proxy.api.parse import parameters_of

_KNOWN = frozenset(parameter.name for parameter in (*parameters_of(None), *DROP_IN))


class _Number(str):
    """The text of a JSON number, so that an id keeps every digit."""

    __slots__ = ()


def from_json(body: bytes) -> list[tuple[str, Any]]:
    """Return the names and values of a JSON body.

    Raises BadRequest if the body is not one object, or has duplicate keys.
    """
    try:
        document = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_members,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_reject_constant,
        )
    except (ValueError, RecursionError):
        raise BadRequest(
            'the body is not JSON; send an object, e.g. {"user_id": "12345"}', code="invalid_body"
        ) from None
    if not isinstance(document, dict):
        raise BadRequest(
            'the JSON body is not an object; send an object, e.g. {"user_id": "12345"}', code="invalid_body"
        )
    return list(document.items())


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            # An unknown key can be an id, so the error does not name it.
            parameter = name if name in _KNOWN else None
            raise BadRequest(
                f"{parameter or 'a key'} occurs more than once in the JSON body; send each key once, with an array "
                "for a list",
                code="repeated_parameter",
                parameter=parameter,
            )
        members[name] = value
    return members


def _reject_constant(_: str) -> None:
    raise BadRequest(
        "the JSON body contains NaN or Infinity, which are not JSON; send a number or a string, or omit the key",
        code="invalid_body",
    )
