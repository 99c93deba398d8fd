"""The command line: the group of all commands, and the short ones."""

from __future__ import annotations

import click

from proxy import __version__
from proxy.api.caller_keys import SCOPES, Scope, entry, generate
from proxy.cli.check import check
from proxy.cli.demo import demo
from proxy.cli.forget import forget
from proxy.cli.preview import preview
from proxy.cli.sandbox import sandbox
from proxy.cli.sync.command import sync
from proxy.cli.warmup.command import warm
from proxy.cli.warmup.estimate import plan
from proxy.monitoring.logs import silence_http_library
from proxy.profile.values import BadValue


@click.group()
@click.version_option(__version__, prog_name="connected-content-proxy")
def main() -> None:
    """Serve Amplitude's user data to Braze messages as cached JSON."""
    silence_http_library()


for command in (demo, sandbox, check, preview, forget, warm, plan, sync):
    main.add_command(command)


@main.command("new-key")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="read",
    show_default=True,
    help="read: data routes, playground, status and metrics. push: webhooks and snapshots. admin: every route.",
)
def new_key(name: str, scope: Scope) -> None:
    """Create a key for a caller. Shows its secret once, and its PROXY_API_KEYS entry, which has only a hash."""
    secret = generate()
    try:
        line = entry(name, secret, scope)
    except BadValue:
        raise click.BadParameter(
            "NAME is invalid; use 1 to 64 letters, digits, '.', '_', '@' or '-'", param_hint="NAME"
        ) from None
    click.echo(f"name    {name}")
    click.echo(f"secret  {secret}")
    click.echo(f"scope   {scope}")
    click.echo("Give the name and the secret to the caller. Set the variable below for the service.")
    click.echo(
        "If the variable already has entries, add this entry after a comma. Remove an old entry after its last use."
    )
    click.echo("In a shell, keep the single quotes:")
    click.echo(f"export PROXY_API_KEYS='{line}'")
