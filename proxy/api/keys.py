"""Caller keys: make, hash and check.

Secrets are generated, not chosen, so one SHA-256 is enough and costs under a microsecond; a password hash
made slow on purpose would let eleven requests a second through a core.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*\Z")
_HASHED = re.compile(r"sha256\$([0-9a-fA-F]{64})\Z")


class BadEntry(ValueError):
    """Entries of PROXY_API_KEYS that cannot be used; each of `faults` names one and shows no secret."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """One caller's name and the SHA-256 of the secret. Its repr shows no digest."""

    name: str
    digest: bytes

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


def parse(entries: str) -> tuple[Key, ...]:
    """Return the keys in `name:secret,name:sha256$<hex>,...`. Raises BadEntry with every fault.

    The same name twice is a rotation: both secrets work.
    """
    keys: list[Key] = []
    faults: list[str] = []
    for number, entry in enumerate(entries.split(","), start=1):
        if entry.strip():
            try:
                keys.append(_key(number, entry.strip()))
            except BadEntry as fault:
                faults += fault.faults
    if faults:
        raise BadEntry(*faults)
    return tuple(keys)


def _key(number: int, entry: str) -> Key:
    name, colon, secret = entry.partition(":")
    if not colon or not _NAME.match(name):
        raise BadEntry(f"entry {number} is not name:secret, with a name of letters, digits, '.', '_', '@' or '-'")
    if hashed := _HASHED.match(secret):
        return Key(name, bytes.fromhex(hashed[1]))
    if secret.startswith("sha256$"):
        raise BadEntry(f"entry {number} ({name}) needs 64 hexadecimal digits after sha256$")
    if re.match(r"sha256[0-9a-f]*\Z", secret):
        raise BadEntry(f"entry {number} ({name}) lost the $ after sha256 to a shell: put it in single quotes there")
    if not _PLAIN.match(secret):
        raise BadEntry(
            f"entry {number} ({name}) needs a secret of 16 or more of A-Z a-z 0-9 . _ ~ + / - (then = where padded)"
        )
    return Key(name, _digest(secret))


def generate() -> str:
    """Return a new secret: 32 random bytes as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def entry(name: str, secret: str) -> str:
    """Return the PROXY_API_KEYS entry that accepts `secret` and does not reveal it. Raises BadEntry."""
    key = _key(1, f"{name}:{secret}")
    return f"{key.name}:sha256${key.digest.hex()}"


class KeyRing:
    """Checks credentials against every key, in a time that does not depend on which one matches."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys

    def check(self, secret: str, name: str | None = None) -> str | None:
        """Return the caller's name, or None. name: the user name sent with the secret (Basic), which must match too."""
        digest = _digest(secret)
        caller = None
        for key in self._keys:
            fits = hmac.compare_digest(key.digest, digest)
            if fits and (name is None or name == key.name):
                caller = key.name
        return caller


_REMEMBERED = 64


class Accepted:
    """Remembers accepted credentials as they were sent, so that they are not parsed again.

    Stores only digests under a random key of this process: a leaked digest, by timing or otherwise, gives no access.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._callers: dict[bytes, str] = {}

    def caller(self, sent: tuple[str | None, str | None]) -> str | None:
        """Return the caller whose credentials were sent this way before; None does not mean that they are wrong."""
        return self._callers.get(self._digest(sent))

    def remember(self, sent: tuple[str | None, str | None], caller: str) -> None:
        """Remember that `caller` sends its credentials as `sent`."""
        while len(self._callers) >= _REMEMBERED:
            self._callers.pop(next(iter(self._callers)), None)
        self._callers[self._digest(sent)] = caller

    def _digest(self, sent: tuple[str | None, str | None]) -> bytes:
        return hashlib.blake2b(repr(sent).encode(), key=self._key, digest_size=32).digest()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
