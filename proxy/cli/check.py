"""The check command: validates the settings and makes one call to Amplitude, which logs no exposure.

With AMPLITUDE_PROFILE_API=off, it makes no call to Amplitude. With the settings of Braze, it sends Braze one request
without objects.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

import click

from proxy.amplitude.calls import plan_calls
from proxy.cli.check_braze import Mark, braze_findings, direction_findings
from proxy.cli.formats import format_count
from proxy.cli.output import print_row
from proxy.composition.amplitude import amplitude_client
from proxy.composition.braze import braze_client
from proxy.composition.redis import differing_settings, redis_client
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamRejected
from proxy.profile.parts import COHORTS, Identity
from proxy.settings import EU_COHORTS_URL, VARIABLES, Settings, SettingsError, changed_settings, renamed_variables
from proxy.storage.redis import RedisUnavailable

_STYLES = {"ok": "green", "warn": "yellow", "wrong": "bold red", "?": "dim"}
_BRAZE_TIMEOUT_SECONDS = 2
_MIN_SIMILARITY = 0.82
"""The ratio of difflib. Variables that platforms set, such as REDIS_TLS_URL, have a lower ratio."""
_MIN_LENGTH = 6
"""Shorter names resemble too many settings: some shells set NAME."""
_CHECK_USER = Identity("connected-content-proxy-check", None)
_ONLY_FOR_CALLS = {
    "AMPLITUDE_REQUESTS_PER_MINUTE",
    "AMPLITUDE_TIMEOUT_SECONDS",
    "ACCEPT_MAPPED_USERS",
    "FETCH_ALONG",
    "RESPONSE_DEADLINE_SECONDS",
    "CACHE_FRESH_SECONDS",
    "CACHE_STALE_WHILE_REVALIDATE_SECONDS",
    "CACHE_WARM_SECONDS",
    "CACHE_NEGATIVE_SECONDS",
    "BACKLOG_MAX_USERS",
    "BACKLOG_MAX_AGE_SECONDS",
}
"""Settings without effect if the service makes no calls. AMPLITUDE_BASE_URL still determines the keys in Redis."""


@click.command()
def check() -> None:
    """Check the settings and the connections. Makes one call to Amplitude, or two if Amplitude rejects the first.

    With AMPLITUDE_PROFILE_API=off, makes no call to Amplitude. With BRAZE_API_KEY, sends Braze one request without
    data, so nothing is written.

    Exits with status 1 if a check fails."""
    # Without a handler, Python would print the names of log events to stderr, beside the results.
    logging.getLogger("proxy").addHandler(logging.NullHandler())
    passed = True
    for mark, text in _findings(os.environ):
        print_row(mark, text, width=7, style=_STYLES[mark])
        passed = passed and mark in ("ok", "warn")
    sys.exit(0 if passed else 1)


def _findings(env: Mapping[str, str]) -> Iterator[tuple[Mark, str]]:
    """Yield mark and text of each check as soon as its result is known."""
    for warning in [*renamed_variables(env), *_misspelt(env)]:
        yield "warn", f"variables: {warning}"
    try:
        settings = Settings.from_env(env)
    except SettingsError as error:
        for fault in error.faults:
            yield "wrong", fault
        return
    yield "ok", "settings: all settings are valid"
    yield from _service_findings(settings)
    if settings.amplitude_profile_api:
        yield from _amplitude_findings(settings)
    else:
        yield from _findings_without_profile_api(settings, env)
    if (client := braze_client(settings)) is not None:
        yield from braze_findings(client, settings)
    yield from direction_findings(settings)


def _misspelt(env: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable whose name is similar to that of a setting."""
    for variable in sorted(env.keys() - VARIABLES.keys()):
        name = variable.upper()
        if len(name) < _MIN_LENGTH:
            continue
        longer = [setting for setting in VARIABLES if "_" in name and setting.startswith(f"{name}_")]
        for similar in get_close_matches(name, longer or VARIABLES, 1, 0 if longer else _MIN_SIMILARITY):
            yield f"{variable} is not a setting; if you mean {similar}, rename the variable"


def _service_findings(settings: Settings) -> Iterator[tuple[Mark, str]]:
    keys = Counter(key.caller for key in settings.caller_keys)
    callers = ", ".join(
        f"{caller.name} ({caller.scope}{f', {count} keys' if count > 1 else ''})" for caller, count in keys.items()
    )
    yield "ok", f"callers: the service accepts {callers}"
    networks = len(settings.allowed_networks)
    allowed = f"{format_count(networks, 'network')} allowed" if networks else "all allowed; ALLOWED_NETWORKS is not set"
    yield "ok", f"networks: {allowed}"
    if settings.amplitude_profile_api and settings.response_deadline_seconds >= _BRAZE_TIMEOUT_SECONDS:
        yield (
            "warn",
            f"deadline: an answer may take {settings.response_deadline_seconds:.10g} s, but Braze gives up after "
            f"{_BRAZE_TIMEOUT_SECONDS} s; lower the deadline, e.g. RESPONSE_DEADLINE_SECONDS=1.5",
        )
    if settings.redis_url is not None:
        try:
            redis_client(settings, settings.redis_url).probe()
            differing_names = differing_settings(settings, settings.redis_url)
        except RedisUnavailable as error:
            yield "wrong", f"redis: {error}"
        else:
            yield "ok", "redis: Redis answers and permits every command of the service"
            yield from _shared_redis_findings(settings, differing_names)
    elif settings.web_concurrency > 1:
        yield "ok", "workers: one process runs; set REDIS_URL to use WEB_CONCURRENCY"


def _shared_redis_findings(settings: Settings, differing_names: list[str]) -> Iterator[tuple[Mark, str]]:
    if "AMPLITUDE_SECRET_KEY" in differing_names:
        yield (
            "warn",
            "project: a running service with another AMPLITUDE_SECRET_KEY shares this cache and quota; if it serves "
            "another Amplitude project, set a different AMPLITUDE_PROJECT for each project",
        )
    if "REDIS_KEY_SECRET" in differing_names:
        yield (
            "warn",
            "ids: a running service has another REDIS_KEY_SECRET, so the cache is not shared; set the same secret "
            "for all processes",
        )
    if settings.redis_key_secret is None:
        yield (
            "warn",
            "ids: REDIS_KEY_SECRET is not set, so a reader of Redis keys can test guessed user ids; set it to the "
            "output of `openssl rand -hex 32`, the same for all processes",
        )


def _credentials_fix(settings: Settings) -> str:
    """Return the fix for rejected credentials. If they were Basic, make one more call, with the secret key alone."""
    if not settings.amplitude_api_key:
        return (
            "copy AMPLITUDE_SECRET_KEY again from the project settings in Amplitude; if Amplitude requires Basic "
            "credentials, set AMPLITUDE_API_KEY too (Basic was not tried)"
        )
    try:
        amplitude_client(replace(settings, amplitude_api_key=None)).fetch(_CHECK_USER, plan_calls([COHORTS])[0])
    except UpstreamError as error:
        return (
            "copy AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY again from the project settings in Amplitude "
            f"(2 calls: Basic was rejected; Api-Key with the secret key alone failed: {error})"
        )
    return (
        "copy AMPLITUDE_API_KEY again from the project settings in Amplitude, or remove AMPLITUDE_API_KEY if you need "
        "it for neither cohorts nor Currents (2 calls: Basic was rejected; Api-Key with the secret key alone was "
        "accepted)"
    )


def _amplitude_findings(settings: Settings) -> Iterator[tuple[Mark, str]]:
    started = time.monotonic()
    fault: UpstreamError | None = None
    try:
        amplitude_client(settings).fetch(_CHECK_USER, plan_calls([COHORTS])[0])
    except UpstreamError as error:
        fault = error
    duration = f"{time.monotonic() - started:.2f} s"
    where = settings.amplitude_base_url
    reachable: tuple[Mark, str] = "ok", f"{where} answers in {duration}"
    credentials: tuple[Mark, str] = "?", "unknown until Amplitude answers"
    quota = credentials
    match fault:
        case None:
            per_minute = settings.amplitude_requests_per_minute
            credentials = "ok", "Amplitude accepts the credentials"
            quota = "ok", f"Amplitude accepted a call; this service may use {format_count(per_minute, 'call')} a minute"
        case UpstreamRejected():
            credentials = "wrong", f"{fault}; {_credentials_fix(settings)}"
        case QuotaExhausted():
            quota = "wrong", f"{fault}, so other programs use the quota too; lower AMPLITUDE_REQUESTS_PER_MINUTE"
        case UpstreamInvalid():
            reachable = "wrong", f"{where} does not answer like Amplitude ({fault}); check AMPLITUDE_BASE_URL"
        case _:
            reachable = (
                "wrong",
                f"{where} gives no usable answer ({fault}, {duration}); check AMPLITUDE_BASE_URL, the network, the "
                "HTTP proxy and status.amplitude.com",
            )
    for point, (mark, text) in {"reachable": reachable, "credentials": credentials, "quota": quota}.items():
        yield mark, f"{point}: {text}"


def _findings_without_profile_api(settings: Settings, env: Mapping[str, str]) -> Iterator[tuple[Mark, str]]:
    yield (
        "ok",
        "profile API: off, so no call was made; the service answers from pushed and exported data only",
    )
    changed = changed_settings(settings, env).keys()
    unused = _ONLY_FOR_CALLS | (set() if settings.redis_url else {"AMPLITUDE_BASE_URL"})
    if without_effect := sorted(changed & unused):
        yield (
            "warn",
            f"variables: {', '.join(without_effect)} {'has' if len(without_effect) == 1 else 'have'} no effect with "
            f"AMPLITUDE_PROFILE_API=off; remove {'it' if len(without_effect) == 1 else 'them'}",
        )
    if settings.redis_url is None:
        yield (
            "warn",
            "data: REDIS_URL is not set, so a restart loses all data, and no call can fetch the data again; "
            "set REDIS_URL",
        )
    keys = {"AMPLITUDE_API_KEY": settings.amplitude_api_key, "AMPLITUDE_SECRET_KEY": settings.amplitude_secret_key}
    missing = " and ".join(name for name, value in keys.items() if not value)
    if missing:
        yield (
            "warn",
            f"downloads: warm --cohort needs {missing}; set both keys on the machine that runs the command "
            "(webhooks need no keys)",
        )
    else:
        yield "ok", "downloads: both keys for warm --cohort are set"
    if "AMPLITUDE_COHORTS_URL" not in changed:
        yield (
            "warn",
            f"downloads: warm --cohort uses {settings.amplitude_cohorts_url}; for a project in Amplitude's EU region, "
            f"set AMPLITUDE_COHORTS_URL={EU_COHORTS_URL}",
        )
