"""The cache to fill: that of a running service, or the shared Redis through a service in this process."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import orjson

from proxy.api.bodies.changes import CacheState
from proxy.cli.client import (
    ServiceRefused,
    ServiceUnavailable,
    json_object,
    own_service_with_redis,
    require_access,
    running_service,
    uploader,
)
from proxy.liquid.types import Answer, Ask, Request
from proxy.profile.snapshot import SnapshotBuilder
from proxy.storage.redis import RedisUnavailable
from proxy.web.services import Services

CONNECTIONS = 16
_LOST = "Redis does not answer, so fetched data would be lost"
_FULL = "Redis is full, so fetched data would be lost; raise maxmemory"
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Destination:
    """Provides functions that send data to the cache.

    `ask_functions`: one per thread. `install`: installs the snapshot of a cohort from its time (Unix seconds) and the
    ids of the members; may raise ServiceUnavailable. `loss_reason`: why stored data would be lost, or None.
    `cache_state`: the state of the memory cache; None with Redis, or if the service does not report the state.
    `profile_api`: whether the service calls the User Profile API.
    """

    ask_functions: list[Ask]
    install: Callable[[str, float, Iterable[str]], Answer]
    loss_reason: Callable[[], str | None]
    cache_state: Callable[[], CacheState | None]
    has_redis: bool
    profile_api: bool


def running(url: str, credentials: str) -> Destination:
    """Return the cache of the service at `url`. Raises ServiceUnavailable if no service runs."""
    monitor = running_service(url, credentials)
    monitor(Request("GET", "/healthz"))  # fails at once if no service runs
    state = json_object(monitor(Request("GET", "/readyz")))
    upload = uploader(url, credentials)

    def install(cohort_id: str, as_of: float, user_ids: Iterable[str]) -> Answer:
        target = f"/v1/snapshots/{quote(cohort_id, safe='')}?as_of={as_of!r}"
        request = Request("PUT", target, {"Content-Encoding": "gzip"}, content_type="application/x-ndjson")
        return upload(request, _packed_lines(user_ids))

    def cache_state() -> CacheState | None:
        return json_object(monitor(Request("GET", "/v1/snapshots"))).get("cache")

    has_redis = "redis" in state
    return Destination(
        [require_access(running_service(url, credentials)) for _ in range(CONNECTIONS)],
        install,
        lambda: _redis_loss_reason(monitor),
        (lambda: None) if has_redis else cache_state,
        has_redis,
        state.get("upstream") != "off",
    )


def shared_redis() -> Destination:
    """Return the Redis at REDIS_URL. Raises ServiceUnavailable if it does not work."""
    services, ask = own_service_with_redis(os.environ)

    def loss_reason() -> str | None:
        redis = services.redis
        if redis is None:
            return None
        return _LOST if redis.unavailable_since is not None else _FULL if redis.full else None

    return Destination(
        [ask] * CONNECTIONS,
        lambda *snapshot: _install(services, *snapshot),
        loss_reason,
        lambda: None,
        True,
        services.profile_api,
    )


def require_scopes(ask: Ask, *, push: bool, read: bool) -> None:
    """Raise ServiceRefused if the key lacks a required scope. Requests no data of a user."""
    if push:
        ask(Request("GET", "/v1/snapshots"))
    if read:
        try:
            ask(Request("GET", "/v1/profile?include=properties&user_id="))
        except ServiceRefused:
            if not push:
                raise
            raise ServiceRefused(
                "the key can push but not read, and the run also makes calls; create an admin key: python -m proxy "
                "new-key NAME --scope admin"
            ) from None


def _install(services: Services, cohort_id: str, as_of: float, user_ids: Iterable[str]) -> Answer:
    digester, builder = services.store.memory.digester, SnapshotBuilder()
    for user_id in user_ids:
        builder.add(digester.member(user_id))
    try:
        installed = services.snapshots.install(cohort_id, builder.build(as_of))
    except RedisUnavailable as error:
        raise ServiceUnavailable(str(error)) from None
    return Answer(200 if installed else 409, {}, "", 0.0)


def _packed_lines(user_ids: Iterable[str]) -> Iterator[bytes]:
    """Yield a gzip file with a JSON string on each line, in pieces."""
    packer, lines = zlib.compressobj(wbits=31), bytearray()
    for user_id in user_ids:
        lines += orjson.dumps(user_id, option=orjson.OPT_APPEND_NEWLINE)
        if len(lines) >= _PIECE_BYTES:
            piece = packer.compress(bytes(lines))
            lines.clear()
            if piece:  # an empty chunk would end the body
                yield piece
    yield packer.compress(bytes(lines)) + packer.flush()


def _redis_loss_reason(ask: Ask) -> str | None:
    try:
        word = json_object(ask(Request("GET", "/readyz"))).get("redis", "")
    except ServiceUnavailable:
        return None  # the threads report a service that does not answer
    return {"gone": f"{_LOST} (redis is gone at /readyz)", "full": _FULL}.get(str(word))
