"""The sandbox command: the emulated Amplitude and Braze without the service."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints
from urllib.parse import parse_qsl

import click

from proxy.cli.emulated import (
    DEMO_CALLER,
    PORT,
    free_port,
    print_receiving,
    print_sandbox,
    python,
    service_settings,
    shell,
    stop_event,
)
from proxy.sandbox.batch_api import BatchApi
from proxy.sandbox.braze_api import BrazeApi, RateLimitHeader
from proxy.sandbox.braze_profiles import KnownUsers
from proxy.sandbox.faults import BatchFaultKind, BrazeFaultKind, Fault, fault_from
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented


def _switches(command: Any) -> Any:
    """Add an option for each point on which Amplitude's documentation is silent or contradicts itself."""
    hints = get_type_hints(Documented)
    for switch in reversed(fields(Documented)):
        words = get_args(hints[switch.name])
        kind: Any = click.Choice(words) if words and isinstance(words[0], str) else int
        option = click.option(
            f"--{switch.name.replace('_', '-')}", type=kind, default=switch.default, show_default=True
        )
        command = option(command)
    return command


def _fault(kinds: Any) -> Any:
    """Return a callback of an option whose value is the query of a fault."""

    def parse(_context: click.Context, _option: click.Parameter, value: str | None) -> Fault | None:
        try:
            return None if value is None else fault_from(dict(parse_qsl(value)), get_args(kinds))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return parse


@click.command()
@click.option("--port", type=PORT, help="Port to listen on.  [default: 8001, or the next free port]")
@click.option("--secret-key", default="sandbox-secret-key", show_default=True)
@click.option("--api-key", default="sandbox-api-key", show_default=True)
@click.option("--requests-per-minute", type=click.IntRange(1), default=600, show_default=True)
@click.option(
    "--latency",
    type=click.FloatRange(0, 60),
    default=0.15,
    show_default=True,
    help="Delay before each answer, in seconds.",
)
@click.option("--braze-key", default="sandbox-braze-key", show_default=True, help="REST API key that Braze accepts.")
@click.option(
    "--braze-users",
    type=click.Choice(get_args(KnownUsers)),
    default="sandbox",
    show_default=True,
    help="Users that exist in Braze from the start: the named and numbered users, every external id, or none.",
)
@click.option("--braze-requests-per-minute", type=click.IntRange(1), default=60_000, show_default=True)
@click.option(
    "--braze-rate-limit-header",
    type=click.Choice(get_args(RateLimitHeader)),
    default="retry-after",
    show_default=True,
    help="Form of the time in an answer with status 429.",
)
@click.option(
    "--braze-batch-objects",
    type=click.IntRange(1),
    default=75,
    show_default=True,
    help="Maximum number of objects in a request to Braze.",
)
@click.option("--braze-fault", callback=_fault(BrazeFaultKind), help="Fault of Braze, e.g. 'kind=slow&seconds=2'.")
@click.option("--batch-fault", callback=_fault(BatchFaultKind), help="Fault of Amplitude's Batch API.")
@_switches
def sandbox(
    port: int | None,
    secret_key: str,
    api_key: str,
    requests_per_minute: int,
    latency: float,
    braze_key: str,
    braze_users: KnownUsers,
    braze_requests_per_minute: int,
    braze_rate_limit_header: RateLimitHeader,
    braze_batch_objects: int,
    braze_fault: Fault | None,
    batch_fault: Fault | None,
    **switches: Any,
) -> None:
    """Run only the emulated Amplitude and Braze. Prints the command that starts the service in front of them."""
    braze = BrazeApi(
        key=braze_key,
        known_users=braze_users,
        per_minute=braze_requests_per_minute,
        rate_limit_header=braze_rate_limit_header,
        max_objects=braze_batch_objects,
        latency=latency,
    )
    braze.faults.set(braze_fault)
    batch = BatchApi(key=api_key, latency=latency)
    batch.faults.set(batch_fault)
    try:
        emulated = Sandbox(
            port=port or free_port(8001),
            secret_key=secret_key,
            api_key=api_key,
            per_minute=requests_per_minute,
            latency=latency,
            documented=replace(Documented(), **switches),
            braze=braze,
            batch=batch,
        )
    except OSError as error:
        raise click.ClickException(
            f"port {port} is not available ({error.strerror}); choose another port with --port"
        ) from None
    with emulated:
        secret = secrets.token_urlsafe(24)
        click.secho(f"The emulated Amplitude is running at {emulated.url}.", bold=True)
        click.echo(f"Start the service in front of it (name {DEMO_CALLER}, secret {secret}):")
        command = f"{shlex.quote(python())} -m gunicorn wsgi:app --bind 127.0.0.1:{free_port(8000)}"
        click.echo(f"  {shell(**service_settings(emulated, secret))} {command}")
        print_sandbox(emulated)
        print_receiving(emulated)
        click.echo("Ctrl-C stops the emulated Amplitude.")
        stop_event().wait()
