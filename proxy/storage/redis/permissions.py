"""The commands and keys that the service uses in Redis, as an ACL rule and as a probe that changes no data."""

from __future__ import annotations

from collections.abc import Iterator

KEY_PREFIX = b"ccp2:"
"""The start of every key of the service."""

_KEY_PATTERN = f"~{KEY_PREFIX.decode()}*"
_CREATE, _DELETE = "SET KEY 1 PX 60000", "DEL KEY"
_ADD = "SADD KEY member"
"""Harmless only while KEY has another type: unlike the other commands, SADD has no invalid arguments."""
_OTHERS = (
    "EVALSHA 0000000000000000000000000000000000000000 2 KEY KEY2",
    "GET KEY",
    "HDEL KEY field",
    "HGET KEY field",
    "HGETALL KEY",
    "HLEN KEY",
    "HMGET KEY field",
    "HSCAN KEY 0",
    "HSET KEY field value field",
    "MGET KEY",
    "PEXPIRE KEY 1",
    "PTTL KEY",
    "SCRIPT LOAD return",
    "SISMEMBER KEY member",
    "SMEMBERS KEY",
    "TIME",
    "ZADD KEY score member",
    "ZCARD KEY",
    "ZCOUNT KEY 0 1",
    "ZRANGE KEY 0 0",
    "ZRANGEBYSCORE KEY 0 1",
    "ZREM KEY member",
    "ZREMRANGEBYSCORE KEY 0 1",
    "ZREVRANGE KEY 0 0",
    "ZSCORE KEY member",
)
"""Redis checks permissions before types and values. KEY is a string, so these commands fail, or change only KEY."""


def _acl_name(probe: str) -> str:
    """Return the name of a command in an ACL rule."""
    return probe.partition(" ")[0].lower().replace("script", "script|load")


_SELECT = "select"
"""The library sends this command for a database other than 0."""

COMMANDS = tuple(sorted([*map(_acl_name, (_CREATE, _ADD, _DELETE, *_OTHERS)), _SELECT]))
"""Every command that the service uses, by its name in an ACL rule."""


def acl_rule() -> str:
    """Return the permissions that a Redis user needs, as arguments of ACL SETUSER."""
    return " ".join([_KEY_PATTERN, *(f"+{name}" for name in COMMANDS)])


def first_probe(key: bytes) -> list[bytes]:
    """Return the command that creates `key` for a minute. The other commands need the key."""
    return _arguments(_CREATE, key)


def further_probes(key: bytes, *, created: bool) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each other command with its name. The last one deletes `key`. `created`: whether the key exists."""
    for probe in (*([_ADD] if created else []), *_OTHERS, _DELETE):
        yield _acl_name(probe), _arguments(probe, key)


def missing_permissions(refused: dict[str, str]) -> str:
    """Return the problem and the fix. `refused`: error texts of Redis by the name of the command."""
    commands = [f"+{name}" for name, text in refused.items() if " to run " in text]
    rules = " ".join([*([_KEY_PATTERN] if len(commands) < len(refused) else []), *commands])
    return f"REDIS_URL has a user without the permissions {rules}; run ACL SETUSER <user> {rules}"


def _arguments(probe: str, key: bytes) -> list[bytes]:
    return [word.encode().replace(b"KEY", key) for word in probe.split()]
