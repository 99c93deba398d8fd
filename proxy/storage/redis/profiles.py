"""Users' records in Redis: a hash a user, a field a part, one round trip whatever is asked; and who fetches which part.

Keys are digests, so that no id stands in a slow log. A record's key has a version: a change of its form finds nothing
of the old one, which expires by itself, while leases and quota are one with those of a process of the version before.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from proxy.profile.errors import UpstreamError
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part, Section
from proxy.profile.record import EMPTY, CachedPart, Record
from proxy.profile.updates import Updates
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.updates import key_of, unpacked
from proxy.storage.tombstones import REMEMBERED_SECONDS, names, pair_digest

_LUA = Path(__file__).parent / "lua"

_CODES: dict[Section, str] = {
    "recommendations": "r",
    "properties": "p",
    "cohorts": "c",
    "computations": "n",
    "propensities": "s",
}
_SECTIONS = {code: section for section, code in _CODES.items()}
_RECORD = b"user3:"
_META = b"m"
_UNKNOWN = b"?"
_MOMENT = struct.Struct(">d")
_SEAL = struct.Struct(">I")
_WARM = b"w"  # as nothing begins that is kept: neither JSON nor what is compressed
_FAULT_SECONDS = 1.0
"""For so long others hear of a call that failed, instead of trying the same again."""
_QUEUED_SECONDS = 10
"""Longer than a caller waits for a call to be sent."""
_UNREADABLE = (ValueError, TypeError, LookupError, struct.error)
_decode = json.JSONDecoder().decode
_FAULTS = {kind.word: kind for kind in UpstreamError.__subclasses__()}


class Found(NamedTuple):
    """What is kept about a pair, and what was pushed about its user."""

    record: Record
    pushed: Updates


@dataclass(frozen=True, slots=True)
class Boarding:
    """What is there, the parts that this process is to fetch, and why those failed that another just tried to."""

    found: Found
    granted: frozenset[Part]
    faults: Mapping[Part, UpstreamError]


class RedisProfiles:
    """Each method is one round trip and raises Gone. `longest`: seconds for which a call can take."""

    def __init__(self, server: RedisClient, prefix: bytes, policy: FreshnessPolicy, *, longest: float) -> None:
        self._server = server
        self._prefix = prefix
        self._policy = policy
        self._lease = int(longest * 1000)
        self._board = server.script(_LUA / "lease.lua")
        self._land = server.script(_LUA / "save.lua")
        self._forget = server.script(_LUA / "forget.lua")

    def read(self, identity: Identity) -> Found:
        """Return what is kept about `identity`, and what was pushed about its user."""
        key = self._prefix + _RECORD + pair_digest(identity)
        fields, pushed = self._server.hash_and_value(key, key_of(self._prefix, identity))
        return Found(_record(fields), unpacked(pushed))

    def lease(self, identity: Identity, parts: Collection[Part]) -> Boarding:
        """Return what is kept, and take the lease of those of `parts` that nobody fetches."""
        asked = list(parts)
        pushed_key = key_of(self._prefix, identity)
        keys = [*self._keys(identity), *([pushed_key] if pushed_key else [])]
        kept, outcomes, pushed = self._board(keys, [self._server.id, self._lease, *map(_field, asked)])
        found = Found(_record(dict(zip(kept[::2], kept[1::2], strict=True))), unpacked(pushed))
        granted = frozenset(part for part, outcome in zip(asked, outcomes, strict=True) if outcome == 1)
        words = {
            part: word.decode(errors="replace")
            for part, word in zip(asked, outcomes, strict=True)
            if isinstance(word, bytes)
        }
        return Boarding(found, granted, {part: _FAULTS[word]() for part, word in words.items() if word in _FAULTS})

    def save(self, identity: Identity, record: Record, leased: Collection[Part], now: float, word: str = "") -> None:
        """Merge `record` into what is kept and give the leases of `leased` back; `word`: why there is no record."""
        fields = _fields(record)
        unknown = record.unknown_at is not None
        use = self._policy.negative if unknown else self._policy.usable_for(record)
        horizon = now - self._policy.max_age
        head = [self._server.id, int(use * 1000), horizon, int(unknown), len(fields)]
        pairs = [one for pair in fields for one in pair]
        asked, returned = names(identity), names(Identity(record.user_id, record.device_id))
        # Of an id that was asked alone the record is found without being listed.
        listed = asked | returned if len(asked) > 1 else returned - asked
        tail = [len(leased), *map(_field, leased), word, int(_FAULT_SECONDS * 1000), len(listed)]
        listings = [self._prefix + b"pairs:" + name for name in (*listed, *(asked - listed))]
        self._land([*self._keys(identity), *listings], [*head, *pairs, *tail])

    def forget(self, ids: Identity) -> set[bytes]:
        """Forget every pair with one of `ids`, and tell all processes. Return the digests of those there were."""
        alone = [one for one in (Identity(ids.user_id, None), Identity(None, ids.device_id)) if any(one)]
        keys, told = [self._told], []
        for one in alone:
            (name,) = names(one)
            keys += [self._prefix + b"pairs:" + name, self._keys(one)[0]]
            keys += [self._prefix + b"pushed:" + name, self._prefix + b"forgot:" + name]
            told.append(name)
        landing = self._lease + _QUEUED_SECONDS * 1000
        heard, pushed = int(self._policy.max_age * 1000), int(REMEMBERED_SECONDS * 1000)
        found = self._forget(keys, [self._prefix + _RECORD, landing, heard, pushed, *told])
        return set(found)

    def forgotten(self, since: float) -> list[tuple[bytes, float]]:
        """Return the names of the ids that were forgotten after the moment `since`, each with its moment."""
        return self._server.above(self._told, since)

    @property
    def _told(self) -> bytes:
        return self._prefix + b"forgotten"

    def _keys(self, identity: Identity) -> Sequence[bytes]:
        digest = pair_digest(identity)
        return self._prefix + _RECORD + digest, self._prefix + b"lease:" + digest


def _field(part: Part) -> bytes:
    return f"{_CODES[part.section]}{part.type or ''}\0{part.id}".encode()


@lru_cache(1024)
def _part(field: bytes) -> Part:
    kind, _, id = field.decode().partition("\0")
    return Part(_SECTIONS[kind[0]], id, kind[1:] or None)


def _fields(record: Record) -> list[tuple[bytes, bytes]]:
    """Return the hash fields of `record`, the one about the record itself first; none of an empty one."""
    moments = (
        [record.unknown_at] if record.unknown_at is not None else [kept.fetched_at for kept in record.parts.values()]
    )
    if not moments:
        return []
    ids = json.dumps([record.user_id, record.device_id, record.unknown_status], separators=(",", ":")).encode()
    meta = _MOMENT.pack(max(moments)) + (_UNKNOWN if record.unknown_at is not None else b"") + ids
    return [
        (_META, meta),
        *(
            (_field(part), _sealed(_MOMENT.pack(kept.fetched_at) + (_WARM if kept.warm else b"") + kept.value))
            for part, kept in record.parts.items()
        ),
    ]


def _record(fields: dict[bytes, bytes]) -> Record:
    meta = fields.pop(_META, None)
    if meta is None:
        return EMPTY
    unknown = meta[8:9] == _UNKNOWN
    try:
        user_id, device_id, unknown_status = _decode((meta[9:] if unknown else meta[8:]).decode())
        unknown_at = _at(meta) if unknown else None
    except _UNREADABLE:
        return EMPTY
    parts = {}
    for field, value in fields.items():
        try:
            said = _unsealed(value)
            warm = said[8:9] == _WARM
            parts[_part(field)] = CachedPart(said[9:] if warm else said[8:], _at(said), warm)
        except _UNREADABLE:
            continue  # a field of another version, or of whoever else writes here, is as good as not there
    return Record(parts, unknown_at, user_id, device_id, unknown_status)


def _sealed(value: bytes) -> bytes:
    return value + _SEAL.pack(zlib.crc32(value))


def _unsealed(value: bytes) -> bytes:
    """Return what was sealed. ValueError when it is not whole: what is kept goes into answers without being read."""
    said, seal = value[: -_SEAL.size], value[-_SEAL.size :]
    if seal != _SEAL.pack(zlib.crc32(said)):
        raise ValueError
    return said


def _at(value: bytes) -> float:
    return cast(float, _MOMENT.unpack_from(value)[0])
