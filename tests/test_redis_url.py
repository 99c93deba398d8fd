"""REDIS_URL: every text is a clear error or a URL that works."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, unquote

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.settings import Settings, SettingsError
from proxy.storage.redis import RedisRefused
from proxy.storage.redis.client import RedisClient
from tests.support.redis_server import RedisServer

GOOD = {"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": "braze:0123456789abcdef"}


def redis_url(value: str) -> str | list[str]:
    """Return REDIS_URL as the service uses it, or the errors."""
    try:
        return Settings.from_env(GOOD | {"REDIS_URL": value}).redis_url or ""
    except SettingsError as error:
        return error.faults


@pytest.mark.parametrize("scheme", ["Redis", "REDIS", "redis", "RedisS"])
def test_redis_url__case_of_the_scheme__is_ignored(scheme: str) -> None:
    assert redis_url(f"{scheme}://:Pass@host:6379/1") == f"{scheme.lower()}://:Pass@host:6379/1"


@pytest.mark.parametrize("password", ["a/b", "a?b", "a#b", "a[b", "a]b", "a\u2100b", "/", "p@s/s", "x:y/z"])
@pytest.mark.parametrize("user", ["", "name"])
def test_redis_url__password_is_not_encoded__error_names_the_cause(user: str, password: str) -> None:
    faults = redis_url(f"redis://{user}:{password}@host.example:6379/0")
    assert isinstance(faults, list)
    assert faults[0].startswith("REDIS_URL has special characters in the user or password; percent-encode them")
    assert password == "/" or password not in faults[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("unix:///run/redis.sock?db=1", "Unix socket, which is not supported; use redis://host:port"),
        ("host:6379", "must begin with redis:// or rediss://"),
        ("redis+sentinel://host", "must begin with redis:// or rediss://"),
        ("redis:/host", "must begin with redis:// or rediss://"),
        ("rediss://host:6380?ssl_cert_reqs=none", "options after ?; remove them, and set REDIS_TLS_VERIFY=false"),
        ("rediss://:p@host:6380/0?protocol=3", "options after ?; remove them"),
        ("redis://host:port", "missing or malformed host or port"),
        ("redis://::1:6379", "missing or malformed host or port"),
        ("redis://host/-1", "except a database number"),
        ("redis://host/123456", "except a database number"),
        ("redis://host/0/", "except a database number"),
        ("redis://:pa\tss@host", "control character"),
        ("redis://:pa\udc80ss@host", "control character"),
    ],
)
def test_redis_url__not_supported__error_names_the_cause(value: str, words: str) -> None:
    faults = redis_url(value)
    assert isinstance(faults, list)
    assert len(faults) == 1
    assert words in faults[0]


@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"(redis|Rediss|unix|http)?:?/{0,3}[^@]{0,8}:?[^@]{0,8}@?.{0,12}(:.{0,6})?(/.{0,4})?(\?.{0,8})?"),
        st.from_regex(r"redis://[a-z0-9.\[\]:%]{1,12}(:[0-9]{1,6})?/?[0-9]{0,5000}", fullmatch=True),
    )
)
def test_redis_url__any_text__error_or_client(value: str) -> None:
    result = redis_url(value)
    if isinstance(result, str):
        if result:
            RedisClient(result)
        return
    (fault,) = result
    assert fault.startswith("REDIS_URL ")
    assert "\n" not in fault


PASSWORDS = st.text(st.characters(min_codepoint=33, exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=25)
@given(PASSWORDS, st.sampled_from(["redis", "Redis"]), st.sampled_from(["", "/", "/0", "/15"]))
@example("a/b?c#d@e%41:[f]", "redis", "/0")
def test_redis_url__any_password__connects_if_encoded_and_if_accepted(
    server: RedisServer, password: str, scheme: str, database: str
) -> None:
    with redis.Redis.from_url(server.url) as operator:
        operator.acl_setuser(
            "limited", enabled=True, reset=True, passwords=[f"+{password}"], keys=["*"], commands=["+@all"]
        )
    encoded = redis_url(f"{scheme}://limited:{quote(password, safe='')}@127.0.0.1:{server.port}{database}")
    assert isinstance(encoded, str)
    RedisClient(encoded).probe()
    as_written = redis_url(f"{scheme}://limited:{password}@127.0.0.1:{server.port}{database}")
    if isinstance(as_written, str) and unquote(password) == password:
        RedisClient(as_written).probe()
    elif isinstance(as_written, str):
        with pytest.raises(RedisRefused, match="percent-encode"):
            RedisClient(as_written).probe()
    else:
        assert "percent-encode" in as_written[0]
