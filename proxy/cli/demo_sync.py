"""The demo of the sync between Amplitude and Braze: settings of the service, and commands to paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from proxy.cli.emulated import python, shell
from proxy.sandbox.server import Sandbox

_COHORT = "c31"
_PROPERTIES = "loyalty_points,newsletter"
_SECONDS, _MILLISECONDS = "@seconds", "@milliseconds"
"""Placeholders for the time at which the user runs a command."""


def sync_settings(emulated: Sandbox) -> dict[str, str]:
    """Return the settings that switch on the forwarding of the event stream and the relay of Currents."""
    return {
        **_braze_settings(emulated),
        "FORWARD_EVENTS": "*",
        "FORWARD_PROPERTIES": "*",
        "AMPLITUDE_API_KEY": emulated.batch.key,
        "AMPLITUDE_INGEST_URL": f"{emulated.url}/batch",
    }


def print_sync(service: str, emulated: Sandbox, secret: str, state: Path) -> None:
    """Print commands for all three directions. `state`: the file with the state of the sync command."""
    variables = shell(
        AMPLITUDE_COHORTS_URL=emulated.url,
        AMPLITUDE_API_KEY=emulated.api_key,
        AMPLITUDE_SECRET_KEY=emulated.secret_key,
        **_braze_settings(emulated),
        REDIS_URL="",  # the state of the demo must not be written into the user's own Redis
    )
    sync = f"{python()} -m proxy sync --cohort {_COHORT} --properties {_PROPERTIES} --membership in_{_COHORT}"
    click.secho(
        "1. Attributes to Braze. Print the costs, send the values, and show them in the emulated Braze:", bold=True
    )
    for option in (" --dry-run", ""):
        click.echo(f"  {variables} \\")
        click.echo(f"    {sync} --state {shlex.quote(str(state))}{option}")
    click.echo(f"  curl -s {emulated.url}/emulator/braze/users | head -c 300\n")
    click.secho("2. Events to Braze. Send an event as Amplitude does, and show it in the emulated Braze:", bold=True)
    _print_post(
        f"{service}/v1/webhooks/amplitude/users",
        secret,
        {
            "user_id": "ava",
            "event_type": "Order Completed",
            "event_properties": {"total": 42.5},
            "user_properties": {"plan": "gold"},
            "event_time": _MILLISECONDS,
            "uuid": f"order-{_SECONDS}",
        },
    )
    click.echo(f"  curl -s {emulated.url}/emulator/braze/events\n")
    click.secho(
        "3. Currents to Amplitude. Send an event as Braze does, and show it in the emulated Amplitude:", bold=True
    )
    event = {
        "event_type": "users.messages.email.Open",
        "id": f"open-{_SECONDS}",
        "time": _SECONDS,
        "user": {"external_user_id": "ava"},
        "properties": {"campaign_name": "Welcome"},
    }
    _print_post(f"{service}/v1/webhooks/braze/currents", secret, {"events": [event]})
    click.echo(f"  curl -s {emulated.url}/emulator/batch/events\n")
    click.secho("4. Make Braze fail, repeat 1 or 2, and clear the fault (for 3, replace braze with batch):", bold=True)
    click.echo(f"  curl -s -X POST '{emulated.url}/emulator/braze/fault?kind=status&status=503'")
    click.echo(f"  curl -s -X DELETE {emulated.url}/emulator/braze/fault\n")


def _braze_settings(emulated: Sandbox) -> dict[str, str]:
    return {"BRAZE_REST_ENDPOINT": emulated.url, "BRAZE_API_KEY": emulated.braze.key}


def _print_post(url: str, secret: str, body: dict[str, Any]) -> None:
    """Print a command that posts `body` with a bearer token, as Amplitude and Braze do."""
    text = json.dumps(body, separators=(",", ":"))
    for placeholder, command in ((_MILLISECONDS, "'$(date +%s)'000"), (_SECONDS, "'$(date +%s)'")):
        text = text.replace(f'"{placeholder}"', command).replace(placeholder, command)
    click.echo(f"  curl -s -H 'Authorization: Bearer {secret}' -H 'Content-Type: application/json' \\")
    click.echo(f"    -d '{text}' \\")
    click.echo(f"    {url}")
