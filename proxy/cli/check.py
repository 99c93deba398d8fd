"""What is right or wrong with the settings and with Amplitude, found out by one call that logs no exposure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from proxy.amplitude.calls import Call, plan_calls
from proxy.amplitude.client import Fetched
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamRejected
from proxy.profile.parts import COHORTS, Identity
from proxy.settings import VARIABLES, Settings
from proxy.storage.redis import RedisUnavailable

_BRAZES_PATIENCE_SECONDS = 2
_CLOSE = 0.82
"""As difflib counts; below it is what platforms set beside ours, such as REDIS_TLS_URL."""
_SHORT = 6
"""Letters; shorter names are close to too much: NAME is what some shells set."""
_NOBODY = Identity("connected-content-proxy-check", None)


@dataclass(frozen=True, slots=True)
class Finding:
    """One point: `right` is None where another fault kept it from being found out; `warns` where all works, so far."""

    point: str
    right: bool | None
    text: str
    warns: bool = False


def misspelt(variables: Iterable[str]) -> Iterator[Finding]:
    """Yield a warning for each variable that is no setting and looks like one. Reads no value."""
    for variable in sorted(set(variables).difference(VARIABLES)):
        name = variable.upper()
        if len(name) < _SHORT:
            continue
        longer = [setting for setting in VARIABLES if "_" in name and setting.startswith(f"{name}_")]
        for similar in get_close_matches(name, longer or VARIABLES, 1, 0 if longer else _CLOSE):
            yield Finding("variables", True, f"{variable} is no setting: is {similar} meant?", warns=True)


def findings(settings: Settings, fetch: Callable[[Identity, Call], Fetched]) -> Iterator[Finding]:
    """Yield a finding per point, each as soon as it is known; `fetch` is called once."""
    keys = Counter(key.name for key in settings.proxy_api_keys + settings.braze_secret)
    named = ", ".join(f"{name} ({count} keys)" if count > 1 else name for name, count in keys.items())
    yield Finding("callers", True, f"{named} may call")
    networks = len(settings.allowed_networks)
    yield Finding("networks", True, f"{networks} may call" if networks else "all may call, ALLOWED_NETWORKS is empty")
    if settings.response_deadline_seconds >= _BRAZES_PATIENCE_SECONDS:
        yield Finding(
            "deadline",
            True,
            f"an answer may take {settings.response_deadline_seconds:.10g} s, and Braze gives up at "
            f"{_BRAZES_PATIENCE_SECONDS} s: set it lower, e.g. RESPONSE_DEADLINE_SECONDS=1.5",
            warns=True,
        )

    if settings.redis_url is not None:
        yield _redis(settings.redis_url, verify=settings.redis_tls_verify)
    elif settings.web_concurrency > 1:
        yield Finding("workers", True, "one runs: WEB_CONCURRENCY counts only where there is a REDIS_URL")

    started = time.monotonic()
    fault: UpstreamError | None = None
    try:
        fetch(_NOBODY, plan_calls([COHORTS])[0])
    except UpstreamError as raised:
        fault = raised
    took = f"{time.monotonic() - started:.2f} s"
    where = settings.amplitude_base_url
    unknown = "not known before Amplitude answers"

    if isinstance(fault, UpstreamInvalid):
        yield Finding("reachable", False, f"{where} answers, but not as Amplitude does ({fault}): is the URL right?")
    elif fault is None or isinstance(fault, UpstreamRejected | QuotaExhausted):
        yield Finding("reachable", True, f"{where} answers in {took}")
    else:
        yield Finding("reachable", False, f"{where} gives no answer ({fault}, {took}): look at URL, network and proxy")

    if fault is None:
        yield Finding("credentials", True, "Amplitude accepts them")
    elif isinstance(fault, UpstreamRejected):
        sent = "AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY" if settings.amplitude_api_key else "AMPLITUDE_SECRET_KEY"
        yield Finding("credentials", False, f"{fault}: copy {sent} again from the settings of the project")
    else:
        yield Finding("credentials", None, unknown)

    per_minute = settings.amplitude_requests_per_minute
    if fault is None:
        yield Finding("quota", True, f"some is left; this service may use {per_minute} calls a minute")
    elif isinstance(fault, QuotaExhausted):
        yield Finding("quota", False, f"{fault}, so others spend it too: lower AMPLITUDE_REQUESTS_PER_MINUTE")
    else:
        yield Finding("quota", None, unknown)


def _redis(url: str, *, verify: bool) -> Finding:
    from proxy.storage.redis.client import RedisClient

    server = RedisClient(url, verify=verify)
    try:
        server.hash(b"connected-content-proxy-check")
    except RedisUnavailable:
        return Finding("redis", False, "REDIS_URL does not answer: look at host, port, password, and REDIS_TLS_VERIFY")
    finally:
        server.stop()
    return Finding("redis", True, "REDIS_URL answers")
