"""Generates, hashes and checks caller keys.

Secrets are random, so one SHA-256 is enough; it takes less than a microsecond. A password hash would limit a core
to eleven requests a second.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from proxy.profile.values import BadValue, parse_list

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*\Z")
_HASHED = re.compile(r"sha256\$([0-9a-fA-F]{64})\Z")


Scope = Literal["read", "push", "admin"]
"""The routes that a key may use. An `admin` key may use every route."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Caller(NamedTuple):
    """The name and the scope of an accepted key."""

    name: str
    scope: Scope


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A caller and the SHA-256 of the secret. The repr does not show the digest."""

    caller: Caller
    digest: bytes

    def __repr__(self) -> str:
        return f"Key({self.caller.name!r}, {self.caller.scope!r})"


def parse(entries: str) -> tuple[Key, ...]:
    """Return the keys in `name:secret,name:sha256$<hex>:scope,...`. Raises BadValue with all errors, without secrets.

    An entry without a scope is an `admin` key. During a rotation, a name may have several keys. All of them work.
    """
    return parse_list(entries, _key)


def _key(number: int, entry: str) -> Key:
    name, colon, rest = entry.partition(":")
    secret, *scopes = rest.split(":")
    if not colon or not _NAME.match(name):
        raise BadValue(
            f"entry {number} is malformed; write name:secret, with a name of letters, digits, '.', '_', '@' or '-'"
        )
    if len(scopes) > 1 or not set(scopes) <= set(SCOPES):
        # The text after the colon is not shown, because it may be part of a secret that contains a colon.
        raise BadValue(
            f"entry {number} ({name}) has an unknown scope after the second colon; end the entry in :read, :push or "
            ":admin, or omit the scope; a secret has no colon"
        )
    caller = Caller(name, scopes[0] if scopes else "admin")  # type: ignore[arg-type]  # checked above
    if hashed := _HASHED.match(secret):
        return Key(caller, bytes.fromhex(hashed[1]))
    if secret.startswith("sha256$"):
        raise BadValue(f"entry {number} ({name}) is malformed; write 64 hexadecimal digits after sha256$")
    if re.match(r"sha256[0-9a-f]*\Z", secret):
        raise BadValue(
            f"entry {number} ({name}) has no $ after sha256; put the value in single quotes, so that the shell keeps $"
        )
    if not _PLAIN.match(secret):
        raise BadValue(
            f"entry {number} ({name}) has an invalid secret; use at least 16 characters from A-Z a-z 0-9 . _ ~ + / - "
            "(= only at the end)"
        )
    return Key(caller, _digest(secret))


def generate() -> str:
    """Return a new secret: 32 random bytes as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def entry(name: str, secret: str, scope: Scope) -> str:
    """Return the entry of PROXY_API_KEYS with the hash of `secret`. Raises BadValue."""
    key = _key(1, f"{name}:{secret}:{scope}")
    return f"{name}:sha256${key.digest.hex()}:{scope}"


def same_secret(keys: Iterable[Key]) -> tuple[Key, Key] | None:
    """Return two of `keys` with the same secret and different scopes; None without such a pair."""
    first: dict[bytes, Key] = {}
    for key in keys:
        other = first.setdefault(key.digest, key)
        if other.caller.scope != key.caller.scope:
            return other, key
    return None


class KeyRing:
    """Checks credentials against all keys, in a time that does not depend on the matching key."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys

    @property
    def callers(self) -> tuple[Caller, ...]:
        """The callers in the order of their keys, each once."""
        return tuple(dict.fromkeys(key.caller for key in self._keys))

    def check(self, secret: str, name: str | None = None) -> Caller | None:
        """Return the caller, or None. If a `name` came with the secret (Basic), both must match."""
        digest = _digest(secret)
        caller = None
        for key in self._keys:
            matches = hmac.compare_digest(key.digest, digest)
            if matches and (name is None or name == key.caller.name):
                caller = key.caller
        return caller


_MAX_REMEMBERED = 64


class Accepted:
    """Caches accepted credentials by their headers, so that later requests skip parsing and checking.

    Without this cache, a cached answer takes 15 % longer. The cache contains only keyed digests, so a leaked digest,
    by timing or otherwise, is not a credential.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._callers: dict[bytes, Caller] = {}

    def caller(self, credentials: tuple[str | None, str | None]) -> Caller | None:
        """Return the caller that was accepted with exactly these headers; None if the headers are unchecked."""
        return self._callers.get(self._digest(credentials))

    def remember(self, credentials: tuple[str | None, str | None], caller: Caller) -> None:
        """Store the credentials of `caller`. Drops the oldest entry if the cache is full."""
        while len(self._callers) >= _MAX_REMEMBERED:
            self._callers.pop(next(iter(self._callers)), None)
        self._callers[self._digest(credentials)] = caller

    def _digest(self, credentials: tuple[str | None, str | None]) -> bytes:
        return hashlib.blake2b(repr(credentials).encode(), key=self._key, digest_size=32).digest()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
