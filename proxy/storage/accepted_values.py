"""Packs the accepted attributes of a user, and digests their values. Both states of sent values use this format."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

KEY_BYTES = 32
_DIGEST_BYTES = 8
"""With 64 bits, a changed value has the old digest with a probability of 1 in 18,446,744,073,709,551,616."""
_LENGTH = Struct(">H")
_AT = Struct(">d")


class AcceptedValue(NamedTuple):
    """The last value of an attribute that Braze accepted: its keyed digest, and the time of the value (Unix seconds).

    The time of a value is the time of the download, of the answer, or of the event.
    """

    digest: bytes
    at: float


class ValueDigester:
    """Digests values with the random `key` of a state, and with `secret` if there is one.

    Without the key, a reader of the state cannot test guessed values.
    """

    def __init__(self, key: bytes, secret: str | None = None) -> None:
        self.key = key
        # A digest, because a key of blake2b has at most 64 bytes.
        self._key = blake2b(key + (secret or "").encode()).digest()

    def value(self, value: object) -> bytes:
        """Return the digest of a JSON value. Equal JSON values have equal digests; 1 and 1.0 are equal."""
        text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))
        return self._digest(text, b"value")

    def owner(self, endpoint: str, api_key: str) -> bytes:
        """Return the fingerprints of an endpoint, of an API key, and of the secret of this digester."""
        return b"".join(
            [self._fingerprint(endpoint, b"endpoint"), self._fingerprint(api_key, b"key"), self._digest("", b"secret")]
        )

    def _fingerprint(self, text: str, person: bytes) -> bytes:
        # Without the secret, so that `differing_settings` can tell a new secret from a new endpoint or API key.
        return blake2b(text.encode(), digest_size=_DIGEST_BYTES, key=self.key, person=person).digest()

    def _digest(self, text: str, person: bytes) -> bytes:
        return blake2b(text.encode(), digest_size=_DIGEST_BYTES, key=self._key, person=person).digest()


def new_key() -> bytes:
    """Return a random key for a new state."""
    return secrets.token_bytes(KEY_BYTES)


def differing_settings(owner: bytes, other: bytes) -> list[str]:
    """Return the names of the settings that differ between two results of `ValueDigester.owner`."""
    names = ("BRAZE_REST_ENDPOINT", "BRAZE_API_KEY", "REDIS_KEY_SECRET")
    starts = range(0, len(names) * _DIGEST_BYTES, _DIGEST_BYTES)
    return [
        name
        for name, start in zip(names, starts, strict=True)
        if owner[start : start + _DIGEST_BYTES] != other[start : start + _DIGEST_BYTES]
    ]


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _canonical(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return value


def pack(attributes: Mapping[str, AcceptedValue]) -> bytes:
    """Return attributes as bytes: for each one the length of its name, the name, the digest and the time."""
    parts: list[bytes] = []
    for name, (digest, at) in attributes.items():
        encoded = name.encode("utf-8", "surrogatepass")
        parts += [_LENGTH.pack(len(encoded)), encoded, digest, _AT.pack(at)]
    return b"".join(parts)


def unpack(packed: bytes) -> dict[str, AcceptedValue]:
    """Return the attributes in a result of `pack`, up to the first damaged byte. The others are then sent again."""
    attributes: dict[str, AcceptedValue] = {}
    place = 0
    try:
        while place < len(packed):
            (length,) = _LENGTH.unpack_from(packed, place)
            end = place + _LENGTH.size + length
            (at,) = _AT.unpack_from(packed, end + _DIGEST_BYTES)
            name = packed[place + _LENGTH.size : end].decode("utf-8", "surrogatepass")
            attributes[name] = AcceptedValue(packed[end : end + _DIGEST_BYTES], at)
            place = end + _DIGEST_BYTES + _AT.size
    except (StructError, UnicodeDecodeError):
        pass
    return attributes


def merge(stored: Mapping[str, AcceptedValue], accepted: Mapping[str, AcceptedValue]) -> dict[str, AcceptedValue]:
    """Return the stored attributes with the accepted ones. An older time never replaces a newer one."""
    return dict(stored) | {
        name: value for name, value in accepted.items() if name not in stored or value.at >= stored[name].at
    }


def encoded_ids(user_ids: Iterable[str]) -> list[bytes]:
    """Return user ids as bytes."""
    return [user_id.encode("utf-8", "surrogatepass") for user_id in user_ids]
