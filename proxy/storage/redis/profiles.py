"""Stores records and leases in Redis. A record is a hash with a field per part, and is read in one round trip.

Keys contain digests of ids. Values contain the ids that Amplitude returned. The key of a record contains a version.
After a change of the format, old records are not found, and expire. Processes of the previous version share the leases
and the quota.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import zlib
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

from proxy.monitoring.clock import SYSTEM_CLOCK
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.errors import UpstreamError
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part, Section
from proxy.profile.record import CLOCK_ERROR_SECONDS, EMPTY, CachedPart, Record, limited
from proxy.storage.id_digests import UNKEYED, IdDigester
from proxy.storage.redis import Lease, StoredProfile
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.updates import read_updates, updates_key
from proxy.storage.tombstones import REMEMBERED_SECONDS

_log = logging.getLogger(__name__)

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
_CRC = struct.Struct(">I")
_WARM = b"w"  # no value begins with this byte
_FAULT_SECONDS = 1.0
"""Seconds for which the other processes see a failed call, so that they do not repeat the call."""
_QUEUED_SECONDS = 10
"""Longer than any call is queued before it is sent."""
_UNREADABLE = (ValueError, TypeError, LookupError, struct.error)
_decode = json.JSONDecoder().decode
_FAULTS = {kind.word: kind for kind in UpstreamError.__subclasses__()}


class RedisProfiles:
    """Stores records.

    Each method takes one round trip and may raise RedisUnavailable. `longest`: maximum seconds of a call.
    """

    def __init__(
        self,
        server: RedisClient,
        prefix: bytes,
        policy: FreshnessPolicy,
        *,
        longest: float,
        digester: IdDigester = UNKEYED,
    ) -> None:
        self.digester = digester
        self._server = server
        self._prefix = prefix
        self._policy = policy
        self._lease_milliseconds = int(longest * 1000)
        self._clock_log = OncePerMinute(_log, "clock_ahead_of_redis", SYSTEM_CLOCK)
        self._lease = server.script(_LUA / "lease.lua")
        self._save = server.script(_LUA / "save.lua")
        self._forget = server.script(_LUA / "forget.lua")

    def record_key(self, identity: Identity) -> bytes:
        """Return the key of the record of `identity`."""
        return self._prefix + _RECORD + self.digester.pair(identity)

    def read(self, identity: Identity) -> StoredProfile:
        """Return the record of `identity`, and the updates of its user."""
        fields, updates = self._server.hash_and_value(self.record_key(identity), self._updates_key(identity))
        return StoredProfile(_record(fields), read_updates(updates))

    def lease(self, identity: Identity, parts: Collection[Part]) -> tuple[StoredProfile, Lease]:
        """Read the record as `read` does, and lease the `parts` that no other process fetches."""
        wanted = list(parts)
        key = self._updates_key(identity)
        keys = [*self._keys(identity), *([key] if key else [])]
        fields, outcomes, updates = self._lease(keys, [self._server.id, self._lease_milliseconds, *map(_field, wanted)])
        stored = StoredProfile(_record(dict(zip(fields[::2], fields[1::2], strict=True))), read_updates(updates))
        by_part = dict(zip(wanted, outcomes, strict=True))
        words = {part: word.decode(errors="replace") for part, word in by_part.items() if isinstance(word, bytes)}
        faults = {part: _FAULTS[word]() for part, word in words.items() if word in _FAULTS}
        return stored, Lease(frozenset(part for part, outcome in by_part.items() if outcome == 1), faults)

    def save(self, identity: Identity, record: Record, leased: Collection[Part], now: float, word: str = "") -> None:
        """Merge `record` into the stored record, and end the leases of `leased`.

        `now`: Unix seconds. `word`: the error word of a failed call. If the clock of this process is ahead of the clock
        of Redis, the times of `record` are limited to the time of Redis, which takes a second round trip.
        """
        redis_now = self._save_once(identity, record, leased, now, word)
        if redis_now is not None:
            latest = float(redis_now)
            self._clock_log.note("redis", seconds=round(now - latest))
            self._save_once(identity, limited(record, latest, latest), leased, latest, word)

    def _save_once(
        self, identity: Identity, record: Record, leased: Collection[Part], now: float, word: str
    ) -> bytes | None:
        """Save `record` and return None. If `record` is later than the time of Redis, only return this time."""
        fields = _fields(record)
        unknown = record.unknown_at is not None
        usable_for = self._policy.negative if unknown else self._policy.usable_for(record)
        horizon = now - self._policy.max_age
        latest = now + CLOCK_ERROR_SECONDS
        head = [self._server.id, int(usable_for * 1000), horizon, latest, CLOCK_ERROR_SECONDS]
        head += [int(unknown), len(fields)]
        pairs = [item for pair in fields for item in pair]
        requested = self.digester.ids(identity)
        returned = self.digester.ids(Identity(record.user_id, record.device_id))
        # A record with a single id needs no listing, because its key follows from the id.
        listed = requested | returned if len(requested) > 1 else returned - requested
        tail = [len(leased), *map(_field, leased), word, int(_FAULT_SECONDS * 1000), len(listed)]
        listings = [self._prefix + b"pairs:" + name for name in (*listed, *(requested - listed))]
        redis_now: bytes | None = self._save([*self._keys(identity), *listings], [*head, *pairs, *tail])
        return redis_now

    def forget(self, ids: Identity) -> set[bytes]:
        """Delete every record with one of `ids`, and notify all processes.

        Return the digest of the pair of each deleted record.
        """
        bare = [pair for pair in (Identity(ids.user_id, None), Identity(None, ids.device_id)) if any(pair)]
        keys, digests = [self.forgotten_key], []
        for identity in bare:
            (digest,) = self.digester.ids(identity)
            keys += [self._prefix + b"pairs:" + digest, self.record_key(identity)]
            keys += [self._prefix + b"pushed:" + digest, self._prefix + b"forgot:" + digest]
            digests.append(digest)
        blocked = self._lease_milliseconds + _QUEUED_SECONDS * 1000
        # A process that starts later must leave the user out of records and of snapshots.
        announced = int(max(self._policy.max_age, self._policy.updates_usable_for) * 1000)
        remembered = int(REMEMBERED_SECONDS * 1000)
        deleted = self._forget(keys, [self._prefix + _RECORD, blocked, announced, remembered, *digests])
        return set(deleted)

    def forgotten(self, since: float) -> list[tuple[bytes, float]]:
        """Return the digests of the ids that were forgotten after `since`, each with its time.

        Times are microseconds on the clock of Redis.
        """
        return self._server.members_above(self.forgotten_key, since)

    @property
    def forgotten_key(self) -> bytes:
        """Return the key of the sorted set that announces the digests of forgotten ids."""
        return self._prefix + b"forgotten"

    def _updates_key(self, identity: Identity) -> bytes | None:
        return None if identity.user_id is None else updates_key(self._prefix, self.digester, identity.user_id)

    def _keys(self, identity: Identity) -> Sequence[bytes]:
        return self.record_key(identity), self._prefix + b"lease:" + self.digester.pair(identity)


def _field(part: Part) -> bytes:
    return f"{_CODES[part.section]}{part.type or ''}\0{part.id}".encode()


@lru_cache(1024)
def _part(field: bytes) -> Part:
    kind, _, id = field.decode().partition("\0")
    return Part(_SECTIONS[kind[0]], id, kind[1:] or None)


def _fields(record: Record) -> list[tuple[bytes, bytes]]:
    """Return the hash fields of `record`, with the meta field first; an empty list for an empty record."""
    unknown = record.unknown_at is not None
    moments = [cached.fetched_at for cached in record.parts.values()]
    if record.unknown_at is not None:
        moments = [record.unknown_at]
    if not moments:
        return []
    ids = json.dumps([record.user_id, record.device_id, record.unknown_status], separators=(",", ":")).encode()
    fields = [(_META, _MOMENT.pack(max(moments)) + (_UNKNOWN if unknown else b"") + ids)]
    for part, cached in record.parts.items():
        value = _MOMENT.pack(cached.fetched_at) + (_WARM if cached.warm else b"") + cached.value
        fields.append((_field(part), value + _CRC.pack(zlib.crc32(value))))
    return fields


def _record(fields: dict[bytes, bytes]) -> Record:
    meta = fields.pop(_META, None)
    if meta is None:
        return EMPTY
    unknown = meta[8:9] == _UNKNOWN
    try:
        user_id, device_id, unknown_status = _decode((meta[9:] if unknown else meta[8:]).decode())
        unknown_at = _moment(meta) if unknown else None
    except _UNREADABLE:
        return EMPTY
    parts = {}
    for field, value in fields.items():
        try:
            content = _checked(value)
            warm = content[8:9] == _WARM
            parts[_part(field)] = CachedPart(content[9:] if warm else content[8:], _moment(content), warm)
        except _UNREADABLE:
            continue  # written by another version or another program
    return Record(parts, unknown_at, user_id, device_id, unknown_status)


def _checked(value: bytes) -> bytes:
    """Return the value without its checksum.

    Raises ValueError if the value is damaged; answers contain values unparsed.
    """
    content, crc = value[: -_CRC.size], value[-_CRC.size :]
    if crc != _CRC.pack(zlib.crc32(content)):
        raise ValueError
    return content


def _moment(value: bytes) -> float:
    """Return the time at the start of a value. Raises ValueError if it is infinite or not a number."""
    moment: float = _MOMENT.unpack_from(value)[0]
    if not math.isfinite(moment):
        raise ValueError
    return moment
