"""Translates the errors of the library. Each text names the problem and the fix, without secrets."""

from __future__ import annotations

from redis import exceptions

from proxy.storage.redis import RedisRefused, RedisUnavailable
from proxy.storage.redis.permissions import KEY_PREFIX, missing_permissions

_CLUSTER = (exceptions.AskError, exceptions.ClusterDownError, exceptions.ClusterCrossSlotError)
_UNUSABLE: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[RedisUnavailable], str], ...] = (
    (
        exceptions.AuthenticationError,
        RedisRefused,
        "REDIS_URL has no user or password, or wrong ones; copy both again, and percent-encode them, e.g. % as %25",
    ),
    (
        exceptions.MasterDownError,  # before its base class ClusterDownError
        RedisUnavailable,
        "REDIS_URL names a replica that has lost its primary; use the address of the primary",
    ),
    (
        exceptions.ReadOnlyError,
        RedisUnavailable,
        "REDIS_URL names a read-only replica; use the address of the primary",
    ),
    (exceptions.OutOfMemoryError, RedisUnavailable, "Redis is full; raise maxmemory, or use a larger Redis"),
    (exceptions.BusyLoadingError, RedisUnavailable, "Redis is loading its data; wait until it has started"),
    (
        _CLUSTER,
        RedisRefused,
        "REDIS_URL names a Redis Cluster, which is not supported; use a Redis without cluster mode",
    ),
)


def translate(error: Exception) -> RedisUnavailable:
    """Return the error to raise instead of an error of the library or of a name lookup."""
    for kinds, result, text in _UNUSABLE:
        if isinstance(error, kinds):
            return result(text)
    if isinstance(error, exceptions.NoPermissionError):  # while the library connects
        return RedisRefused(missing_permissions({"select": str(error)}))
    if "DB index" in str(error):
        return RedisRefused("REDIS_URL has an unknown database number; use /0")
    if is_wrong_type(error) or "user_script:" in str(error):  # the second is the start of an error in a Lua script
        return RedisUnavailable(f"Redis has damaged keys; delete the keys {KEY_PREFIX.decode()}*:quota:*")
    if "MISCONF" in str(error):
        return RedisUnavailable("Redis cannot save its data; check its disk and its log")
    return RedisUnavailable(
        f"Redis does not answer ({type(error).__name__}); check the host and port in REDIS_URL, and REDIS_TLS_VERIFY"
    )


def is_unusable(reply: object) -> bool:
    """Return whether a reply is an error that every command of the service would get."""
    return any(isinstance(reply, kinds) for kinds, _, _ in _UNUSABLE) or "MISCONF" in str(reply)


def is_refusal(reply: object) -> bool:
    """Return whether Redis forbids a command or a key. The text of an error in a script depends on the version."""
    return isinstance(reply, exceptions.NoPermissionError) or (
        isinstance(reply, exceptions.ResponseError)
        and any(text in str(reply) for text in ("ACL failure in script", "The user executing the script can't"))
    )


def is_full(error: Exception) -> bool:
    """Return whether Redis has no memory for new data."""
    return isinstance(error, exceptions.OutOfMemoryError)


def is_pool_exhausted(error: Exception) -> bool:
    """Return whether all connections of this process are in use. The library has no class for this error."""
    return isinstance(error, exceptions.ConnectionError) and str(error) == "No connection available."


def is_wrong_type(error: Exception) -> bool:
    """Return whether a key has the wrong type, because another program has written the key."""
    return "WRONGTYPE" in str(error)
