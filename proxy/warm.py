"""Warms the cache of a running service ahead of a send, or the Redis of several."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TextIO
from urllib.parse import urlencode

import click

from proxy.braze.exchange import Answer, Ask, Request
from proxy.parts import SECTIONS
from proxy.planning import Plan, spoken
from proxy.preview import NoService, own_service, running_service
from proxy.settings import SettingsError
from proxy.telemetry import silence_http_library
from proxy.warming import Count, NoColumn, Pacer, Row, read

_CONNECTIONS = 16
_TELL_SECONDS = 5.0
_TRIES = 5
"""Of a user whom Amplitude gives no answer about, or the service. Who found no place in the quota is tried on."""
_PAUSE_SECONDS = 1.0
_LOOK_SECONDS = 0.2
"""Between looks at whether another thread has put a user back."""
_LISTED = 20


class Refused(Exception):
    """The service takes no such question; asking it again would not help."""


quota_option = click.option(
    "--quota",
    type=click.IntRange(1),
    default=600,
    envvar="AMPLITUDE_REQUESTS_PER_MINUTE",
    show_default=True,
    show_envvar=True,
    help="Calls a minute that the service may make.",
)


@click.command()
@click.argument("users", type=click.File("r", encoding="utf-8-sig", errors="surrogateescape"))
@click.option("--column", help="USERS is a CSV table, and this the column of the user ids.")
@click.option(
    "--include", default="properties,cohorts", show_default=True, help="The sections, as /v1/profile names them."
)
@click.option("--rec-id", default="", help="The recommendations, comma separated.")
@click.option("--rec-type", default="", help="Their type, as the message will ask for them.")
@click.option("--comp-id", default="", help="The computations, comma separated; without it, all.")
@click.option("--prediction-id", default="", help="The predictions, comma separated.")
@click.option("--propensity-type", default="", help="`score` or `pct`.")
@click.option("--log-exposures", is_flag=True, help="Fetch recommendations, although each logs an exposure.")
@click.option("--url", metavar="URL", help="The service whose cache is to be warm; without it, Redis at REDIS_URL.")
@click.option(
    "--credentials",
    envvar="WARM_CREDENTIALS",
    show_envvar=True,
    metavar="NAME:SECRET",
    help="The key for --url; asked for when missing.",
)
@quota_option
@click.option(
    "--share", type=click.IntRange(1, 100), default=80, show_default=True, help="Percent of it to spend on warming."
)
def warm(
    users: TextIO,
    column: str | None,
    include: str,
    log_exposures: bool,
    url: str | None,
    credentials: str | None,
    quota: int,
    share: int,
    **narrowed: str,
) -> None:
    """Fetch what a message will ask about USERS (a file, - is standard input), so that the send finds it.

    One user id a line, or a CSV table with --column. Without --url it fetches by itself, into Redis and within the
    quota that is shared there, with the settings of the environment, with which the services run. What is fetched is
    fresh for CACHE_WARM_SECONDS. Live questions go first. Stopped at any moment, it may be run again with the same
    file: who is warm is passed over.

    Exits with 1 when users are missing.
    """
    sections = [word.strip() for word in include.split(",") if word.strip()]
    if not sections or not set(sections) <= set(SECTIONS):
        raise click.UsageError(f"--include takes {', '.join(SECTIONS)}")
    if "recommendations" in sections and not log_exposures:
        raise click.UsageError(
            "each recommendation that is fetched logs an exposure in Amplitude for that user, whether or not the "
            "message is ever sent, and spoils what it measures; with --log-exposures they are fetched all the same"
        )
    rows = _rows(users, column)
    if not rows:
        raise click.ClickException("nobody is named there")
    if url and not credentials:
        credentials = click.prompt("name:secret", hide_input=True, err=True)
    silence_http_library()
    question = {"include": ",".join(sections), "on_error": "retry"} | {k: v for k, v in narrowed.items() if v}
    # Properties and computations come in one field of Amplitude's answer, so never in one call.
    plan = Plan(len(rows), 2 if {"properties", "computations"} <= set(sections) else 1, quota, share / 100)
    click.echo(
        f"{len(rows):,} users, {plan.calls:,} calls at {plan.calls_a_minute:,} a minute: "
        f"{spoken(plan.minutes)}, less for those that are warm already",
        err=True,
    )
    try:
        asks = _asks(url, credentials or "")
        count = _Warming(asks, question, plan).run([row.user_id for row in rows])
    except (NoService, Refused, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{count.done:,} done, {count.fresh:,} fresh already, {count.unknown:,} unknown to Amplitude, "
        f"{count.failed:,} failed, {count.left:,} not asked; {count.calls:,} calls"
    )
    for word, times in sorted(count.why.items()):
        click.echo(f"failed: {word}, {times:,} times")
    if count.failed or count.left:
        click.echo("run it again with the same file: who is warm is passed over")
        sys.exit(1)


def _asks(url: str | None, credentials: str) -> list[Ask]:
    """Return what asks the service at `url`, or one made for the moment that shares its Redis, for each thread."""
    if url:
        name, _, secret = credentials.partition(":")
        return [running_service(url, name, secret) for _ in range(_CONNECTIONS)]
    if not os.environ.get("REDIS_URL", "").strip():
        raise NoService("no REDIS_URL: a service without Redis keeps what it knows to itself; give its --url")
    return [own_service(os.environ)] * _CONNECTIONS


def _rows(users: TextIO, column: str | None) -> list[Row]:
    """Return the readable rows, each user once, and tell of the others."""
    try:
        rows = list(read(users, column))
    except NoColumn as error:
        raise click.ClickException(str(error)) from None
    unreadable = [row for row in rows if row.fault]
    for row in unreadable[:_LISTED]:
        click.echo(f"line {row.line}: {row.fault}", err=True)
    if len(unreadable) > _LISTED:
        lines = ", ".join(str(row.line) for row in unreadable[_LISTED:])
        click.echo(f"and so are lines {lines}", err=True)
    return list({row.user_id: row for row in rows if not row.fault}.values())


class _Warming:
    def __init__(self, asks: list[Ask], question: dict[str, str], plan: Plan) -> None:
        self._asks = asks
        self._question = question
        self._pacer = Pacer(plan.calls_a_minute, monotonic=time.monotonic)
        # None that is waited in: a `SimpleQueue` of Python 3.11 may wait for ever once its time is over.
        self._line: deque[tuple[str, int]] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._refused: Refused | NoService | None = None
        self._count = Count(0)

    def run(self, users: list[str]) -> Count:
        """Ask about all users and return how that ended. Ctrl-C ends it after what is on its way."""
        self._count = Count(len(users))
        self._line.extend((user, 1) for user in users)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        began = time.monotonic()
        with ThreadPoolExecutor(len(self._asks)) as pool:
            working = [pool.submit(self._work, ask) for ask in self._asks]
            while wait(working, timeout=_TELL_SECONDS).not_done:
                with self._lock:
                    click.echo(self._count.line(time.monotonic() - began), err=True)
        for each in working:
            each.result()
        if self._refused is not None:
            raise self._refused
        return self._count

    def _work(self, ask: Ask) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._count.left:
                    return
            try:
                user, tries = self._line.popleft()
            except IndexError:
                self._stop.wait(_LOOK_SECONDS)
                continue
            self._pacer.wait()
            if self._stop.is_set():
                return
            try:
                self._judge(user, tries, self._asked(ask, user))
            except Refused as error:
                self._refused = error
                self._stop.set()
            except BaseException:
                self._stop.set()  # or the others would wait for this user for ever
                raise

    def _asked(self, ask: Ask, user: str) -> Answer | None:
        request = Request(
            "POST",
            "/v1/profile",
            {"Priority": "u=7"},
            urlencode({"user_id": user} | self._question),
            "application/x-www-form-urlencoded",
        )
        try:
            answer = ask(request)
        except NoService:
            self._pacer.cost(0)
            return None
        calls = int(answer.headers.get("x-amplitude-calls", "0"))
        # Who was refused tries again no faster than if that had been a call.
        self._pacer.cost(calls if answer.status == 200 else max(calls, 1))
        with self._lock:
            self._count.calls += calls
        return answer

    def _judge(self, user: str, tries: int, answer: Answer | None) -> None:
        word = "no answer from the service"
        if answer is not None:
            body = _parsed(answer)
            if answer.status == 200 and "found" in body:
                with self._lock:
                    if not body["found"]:
                        self._count.unknown += 1
                    elif answer.headers.get("x-amplitude-calls") == "0" and tries == 1:
                        self._count.fresh += 1
                    else:
                        self._count.done += 1
                return
            if answer.status != 500 or "error" not in body:
                raise Refused(f"the service answered {answer.status}: {body.get('detail', 'it is another service')}")
            word = body["error"]
        if word == "quota_exhausted":
            # Somebody else went first. Nobody is given up for that.
            self._line.append((user, max(tries, 2)))
        elif tries < _TRIES:
            self._stop.wait(_PAUSE_SECONDS)
            self._line.append((user, tries + 1))
        else:
            with self._lock:
                self._count.failed += 1
                self._count.why[word] = self._count.why.get(word, 0) + 1


def _parsed(answer: Answer) -> dict[str, str]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
