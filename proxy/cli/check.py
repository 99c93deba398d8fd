"""The check command: what is right or wrong with the settings and Amplitude, by one call that logs no exposure."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Literal

import click

from proxy.amplitude.calls import plan_calls
from proxy.app import amplitude
from proxy.cli.output import print_row
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamRejected
from proxy.profile.parts import COHORTS, Identity
from proxy.settings import VARIABLES, Settings, SettingsError, renamed_variables
from proxy.storage.redis import RedisUnavailable

Mark = Literal["ok", "warn", "wrong", "?"]
"""The result of a check; "?" where another fault kept the check from being made."""

_STYLES = {"ok": "green", "warn": "yellow", "wrong": "bold red", "?": "dim"}
_BRAZE_TIMEOUT_SECONDS = 2
_MIN_SIMILARITY = 0.82
"""difflib's ratio. Below it are variables that platforms set, such as REDIS_TLS_URL."""
_MIN_LENGTH = 6
"""Shorter names resemble too many settings: some shells set NAME."""
_CHECK_USER = Identity("connected-content-proxy-check", None)


@click.command()
def check() -> None:
    """Say point by point what is right or wrong with the settings and with Amplitude. Makes one call."""
    passed = True
    for mark, text in _findings(os.environ):
        print_row(mark, text, width=7, style=_STYLES[mark])
        passed = passed and mark in ("ok", "warn")
    sys.exit(0 if passed else 1)


def _findings(env: Mapping[str, str]) -> Iterator[tuple[Mark, str]]:
    """Yield mark and text of each point as soon as it is known."""
    for warning in [*renamed_variables(env), *_misspelt(env)]:
        yield "warn", f"variables: {warning}"
    try:
        settings = Settings.from_env(env)
    except SettingsError as error:
        for fault in error.faults:
            yield "wrong", fault
        return
    yield "ok", "settings: each is well formed"
    yield from _service_findings(settings)
    yield from _amplitude_findings(settings)


def _misspelt(env: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable whose name is similar to that of a setting."""
    for variable in sorted(env.keys() - VARIABLES.keys()):
        name = variable.upper()
        if len(name) < _MIN_LENGTH:
            continue
        longer = [setting for setting in VARIABLES if "_" in name and setting.startswith(f"{name}_")]
        for similar in get_close_matches(name, longer or VARIABLES, 1, 0 if longer else _MIN_SIMILARITY):
            yield f"{variable} is no setting: is {similar} meant?"


def _service_findings(settings: Settings) -> Iterator[tuple[Mark, str]]:
    keys = Counter(key.name for key in settings.proxy_api_keys + settings.braze_secret)
    callers = ", ".join(f"{name} ({count} keys)" if count > 1 else name for name, count in keys.items())
    yield "ok", f"callers: {callers} may call"
    networks = len(settings.allowed_networks)
    yield "ok", f"networks: {f'{networks} may call' if networks else 'all may call, ALLOWED_NETWORKS is empty'}"
    if settings.response_deadline_seconds >= _BRAZE_TIMEOUT_SECONDS:
        yield (
            "warn",
            f"deadline: an answer may take {settings.response_deadline_seconds:.10g} s, and Braze gives up at "
            f"{_BRAZE_TIMEOUT_SECONDS} s: set it lower, e.g. RESPONSE_DEADLINE_SECONDS=1.5",
        )
    if settings.redis_url is not None:
        if _answers(settings.redis_url, verify=settings.redis_tls_verify):
            yield "ok", "redis: REDIS_URL answers"
        else:
            yield "wrong", "redis: REDIS_URL does not answer: look at host, port, password, and REDIS_TLS_VERIFY"
    elif settings.web_concurrency > 1:
        yield "ok", "workers: one runs: WEB_CONCURRENCY counts only where there is a REDIS_URL"


def _answers(redis_url: str, *, verify: bool) -> bool:
    from proxy.storage.redis.client import RedisClient

    server = RedisClient(redis_url, verify=verify)
    try:
        server.hash(b"connected-content-proxy-check")
    except RedisUnavailable:
        return False
    finally:
        server.stop()
    return True


def _amplitude_findings(settings: Settings) -> Iterator[tuple[Mark, str]]:
    started = time.monotonic()
    fault: UpstreamError | None = None
    try:
        amplitude(settings).fetch(_CHECK_USER, plan_calls([COHORTS])[0])
    except UpstreamError as error:
        fault = error
    took = f"{time.monotonic() - started:.2f} s"
    where = settings.amplitude_base_url
    reachable: tuple[Mark, str] = "ok", f"{where} answers in {took}"
    credentials: tuple[Mark, str] = "?", "not known before Amplitude answers"
    quota = credentials
    match fault:
        case None:
            per_minute = settings.amplitude_requests_per_minute
            credentials = "ok", "Amplitude accepts them"
            quota = "ok", f"some is left; this service may use {per_minute} calls a minute"
        case UpstreamRejected():
            keys = (
                "AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY" if settings.amplitude_api_key else "AMPLITUDE_SECRET_KEY"
            )
            credentials = "wrong", f"{fault}: copy {keys} again from the settings of the project"
        case QuotaExhausted():
            quota = "wrong", f"{fault}, so others spend it too: lower AMPLITUDE_REQUESTS_PER_MINUTE"
        case UpstreamInvalid():
            reachable = "wrong", f"{where} answers, but not as Amplitude does ({fault}): is the URL right?"
        case _:
            reachable = "wrong", f"{where} gives no answer ({fault}, {took}): look at URL, network and proxy"
    for point, (mark, text) in {"reachable": reachable, "credentials": credentials, "quota": quota}.items():
        yield mark, f"{point}: {text}"
