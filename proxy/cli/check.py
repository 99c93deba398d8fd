"""The check command's findings about the settings and Amplitude, from one call that logs no exposure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from proxy.amplitude.calls import Call, plan_calls
from proxy.amplitude.client import Fetched
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamRejected
from proxy.profile.parts import COHORTS, Identity
from proxy.settings import VARIABLES, Settings, renamed_variables
from proxy.storage.redis import RedisUnavailable

Mark = Literal["ok", "warn", "wrong", "?"]

_BRAZE_TIMEOUT_SECONDS = 2
_MIN_SIMILARITY = 0.82
"""difflib's ratio. Below it are variables that platforms set, such as REDIS_TLS_URL."""
_MIN_LENGTH = 6
"""Shorter names resemble too many settings: some shells set NAME."""
_CHECK_USER = Identity("connected-content-proxy-check", None)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. The mark is "?" where another fault kept the check from being made."""

    mark: Mark
    point: str
    text: str


def check_variables(env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a warning for each variable with the former name of a setting, or a name similar to one."""
    for warning in renamed_variables(env):
        yield Finding("warn", "variables", warning)
    for variable in sorted(env.keys() - VARIABLES.keys()):
        name = variable.upper()
        if len(name) < _MIN_LENGTH:
            continue
        longer = [setting for setting in VARIABLES if "_" in name and setting.startswith(f"{name}_")]
        for similar in get_close_matches(name, longer or VARIABLES, 1, 0 if longer else _MIN_SIMILARITY):
            yield Finding("warn", "variables", f"{variable} is no setting: is {similar} meant?")


def check_service(settings: Settings, fetch: Callable[[Identity, Call], Fetched]) -> Iterator[Finding]:
    """Yield a finding for each point as soon as it is known. Calls `fetch` once."""
    keys = Counter(key.name for key in settings.proxy_api_keys + settings.braze_secret)
    callers = ", ".join(f"{name} ({count} keys)" if count > 1 else name for name, count in keys.items())
    yield Finding("ok", "callers", f"{callers} may call")
    networks = len(settings.allowed_networks)
    yield Finding("ok", "networks", f"{networks} may call" if networks else "all may call, ALLOWED_NETWORKS is empty")
    if settings.response_deadline_seconds >= _BRAZE_TIMEOUT_SECONDS:
        yield Finding(
            "warn",
            "deadline",
            f"an answer may take {settings.response_deadline_seconds:.10g} s, and Braze gives up at "
            f"{_BRAZE_TIMEOUT_SECONDS} s: set it lower, e.g. RESPONSE_DEADLINE_SECONDS=1.5",
        )

    if settings.redis_url is not None:
        yield _redis(settings.redis_url, verify=settings.redis_tls_verify)
    elif settings.web_concurrency > 1:
        yield Finding("ok", "workers", "one runs: WEB_CONCURRENCY counts only where there is a REDIS_URL")

    started = time.monotonic()
    fault: UpstreamError | None = None
    try:
        fetch(_CHECK_USER, plan_calls([COHORTS])[0])
    except UpstreamError as error:
        fault = error
    took = f"{time.monotonic() - started:.2f} s"
    where = settings.amplitude_base_url
    unknown = "not known before Amplitude answers"

    if isinstance(fault, UpstreamInvalid):
        yield Finding("wrong", "reachable", f"{where} answers, but not as Amplitude does ({fault}): is the URL right?")
    elif fault is None or isinstance(fault, UpstreamRejected | QuotaExhausted):
        yield Finding("ok", "reachable", f"{where} answers in {took}")
    else:
        yield Finding(
            "wrong", "reachable", f"{where} gives no answer ({fault}, {took}): look at URL, network and proxy"
        )

    if fault is None:
        yield Finding("ok", "credentials", "Amplitude accepts them")
    elif isinstance(fault, UpstreamRejected):
        sent = "AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY" if settings.amplitude_api_key else "AMPLITUDE_SECRET_KEY"
        yield Finding("wrong", "credentials", f"{fault}: copy {sent} again from the settings of the project")
    else:
        yield Finding("?", "credentials", unknown)

    per_minute = settings.amplitude_requests_per_minute
    if fault is None:
        yield Finding("ok", "quota", f"some is left; this service may use {per_minute} calls a minute")
    elif isinstance(fault, QuotaExhausted):
        yield Finding("wrong", "quota", f"{fault}, so others spend it too: lower AMPLITUDE_REQUESTS_PER_MINUTE")
    else:
        yield Finding("?", "quota", unknown)


def _redis(url: str, *, verify: bool) -> Finding:
    from proxy.storage.redis.client import RedisClient

    server = RedisClient(url, verify=verify)
    try:
        server.hash(b"connected-content-proxy-check")
    except RedisUnavailable:
        return Finding(
            "wrong", "redis", "REDIS_URL does not answer: look at host, port, password, and REDIS_TLS_VERIFY"
        )
    finally:
        server.stop()
    return Finding("ok", "redis", "REDIS_URL answers")
