"""Settings, addresses and descriptions of the emulated Amplitude and Braze, for the demo and sandbox commands."""

from __future__ import annotations

import shlex
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import click

from proxy.sandbox.faults import FaultKind
from proxy.sandbox.people import example_people
from proxy.sandbox.server import Sandbox

PORT = click.IntRange(1, 65535)
DEMO_CALLER = "demo"


def service_settings(emulated: Sandbox, secret: str) -> dict[str, str]:
    return {
        "AMPLITUDE_BASE_URL": emulated.url,
        "AMPLITUDE_SECRET_KEY": emulated.secret_key,
        "PROXY_API_KEYS": f"{DEMO_CALLER}:{secret}",
        **({} if emulated.profile_api else {"AMPLITUDE_PROFILE_API": "off"}),
    }


def cohort_settings(emulated: Sandbox) -> str:
    return shell(
        AMPLITUDE_COHORTS_URL=emulated.url,
        AMPLITUDE_API_KEY=emulated.api_key,
        AMPLITUDE_SECRET_KEY=emulated.secret_key,
    )


def shell(**variables: str) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


def python() -> str:
    python, folder = Path(sys.executable), Path.cwd()
    return str(python.relative_to(folder) if python.is_relative_to(folder) else python)


def free_port(first: int) -> int:
    for port in (*range(first, min(first + 20, 65536)), 0):
        # create_server sets SO_REUSEADDR, as gunicorn does, so a port in TIME_WAIT from the last demo is free.
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    raise click.ClickException("port: no port is free on 127.0.0.1; stop another program")


def print_sandbox(emulated: Sandbox) -> None:
    click.secho(f"Users and cohorts of the emulated Amplitude at {emulated.url}:", bold=True)
    for person in example_people():
        name, value = ("user_id", person.user_id) if person.user_id else ("device_id", person.device_id)
        click.echo(f"  {name + '=' + quote(value or ''):40}{person.about}")
    click.echo(f"  {'user_id=user-1 ... user-999999999':40}numbered users for load tests; 2 % of them are unknown")
    click.echo(f"  {'cohorts vip, c31, crowd-1000 ...':40}for warm --cohort, with {cohort_settings(emulated)}")
    click.secho("Count the calls to Amplitude, set a fault for later calls, and clear the fault:", bold=True)
    click.echo(f"  curl -s {emulated.url}/sandbox/report")
    click.echo(f"  curl -s -X POST '{emulated.url}/sandbox/fault?kind=slow&seconds=2'")
    click.echo(f"  curl -s -X DELETE {emulated.url}/sandbox/fault")
    click.echo(f"  Kinds: {', '.join(get_args(FaultKind))}.")
    click.echo("  After the fault quota (status 429), the service sends no call for a minute.")
    click.echo("  drip-headers, drip-body and bad-header apply only to known users, e.g. user_id=user-9.")
    click.echo("  bad-header has no visible effect, because the service ignores the header.\n")


def print_receiving(emulated: Sandbox) -> None:
    click.secho(f"The emulated Braze and Batch API of Amplitude are also at {emulated.url}. Their settings:", bold=True)
    click.echo(f"  {shell(BRAZE_REST_ENDPOINT=emulated.url, BRAZE_API_KEY=emulated.braze.key)}")
    click.echo(f"  {shell(AMPLITUDE_INGEST_URL=f'{emulated.url}/batch', AMPLITUDE_API_KEY=emulated.batch.key)}")
    click.secho("Show the received data, and set and clear a fault (for braze or batch):", bold=True)
    click.echo(f"  curl -s {emulated.url}/emulator/braze")
    click.echo(f"  curl -s {emulated.url}/emulator/braze/users  (or events, purchases, requests)")
    click.echo(f"  curl -s -X POST '{emulated.url}/emulator/braze/fault?kind=429-retry-after&seconds=5&times=1'")
    click.echo(f"  curl -s -X DELETE {emulated.url}/emulator/braze/fault")
    click.echo(f"  Kinds for braze: {', '.join(emulated.braze.faults.kinds)}.")
    click.echo(f"  Kinds for batch: {', '.join(emulated.batch.faults.kinds)}.\n")


def stop_event() -> threading.Event:
    """Return an event that is set by Ctrl-C, SIGTERM, or the end of the terminal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
