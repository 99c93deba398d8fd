"""The command line: reads arguments, prints, and leaves the work to the rooms below."""

from __future__ import annotations

import os
import sys

import click

from proxy import __version__
from proxy.api.keys import entry, generate
from proxy.app import amplitude
from proxy.cli.check import Finding, findings, misspelt
from proxy.cli.demo import demo, sandbox
from proxy.cli.forget import forget
from proxy.cli.preview import preview
from proxy.cli.text import counted, spoken
from proxy.cli.warmup.command import quota_option, warm
from proxy.cli.warmup.estimate import Plan
from proxy.monitoring.logs import silence_http_library
from proxy.profile.values import BadValue
from proxy.settings import Settings, SettingsError, renamed_variables


@click.group()
@click.version_option(__version__, prog_name="connected-content-proxy")
def main() -> None:
    """What Amplitude knows of a user, as cached JSON for Braze Connected Content."""


main.add_command(demo)
main.add_command(sandbox)
main.add_command(preview)
main.add_command(forget)
main.add_command(warm)


@main.command("new-key")
@click.argument("name")
def new_key(name: str) -> None:
    """Make a caller's key: the secret, shown once, and its PROXY_API_KEYS entry, which does not reveal it."""
    secret = generate()
    try:
        line = entry(name, secret)
    except BadValue:
        raise click.BadParameter("use 1 to 64 letters, digits, '.', '_', '@' or '-'", param_hint="NAME") from None
    click.echo(f"name    {name}")
    click.echo(f"secret  {secret}")
    click.echo("Give both to the caller, and the service the entry. An older one of the same name, kept beside it")
    click.echo("after a comma, still works. In a shell it needs single quotes, or the $ is lost:")
    click.echo(f"export PROXY_API_KEYS='{line}'")


@main.command()
def check() -> None:
    """Say point by point what is right or wrong with the settings and with Amplitude. Makes one call."""
    for warning in renamed_variables(os.environ):
        _say(Finding("variables", True, warning, warns=True))
    for finding in misspelt(os.environ):
        _say(finding)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        for fault in error.faults:
            click.echo(f"wrong  {fault}")
        sys.exit(1)
    click.echo("ok     settings: each is well formed")
    silence_http_library()
    right = True
    for finding in findings(settings, amplitude(settings).fetch):
        _say(finding)
        right = right and finding.right is True
    sys.exit(0 if right else 1)


def _say(finding: Finding) -> None:
    mark = "warn" if finding.warns else {True: "ok", False: "wrong", None: "?"}[finding.right]
    click.echo(f"{mark:7}{finding.point}: {finding.text}")


@main.command("plan")
@click.option("--recipients", type=click.IntRange(1), required=True, help="How many users the message goes to.")
@click.option(
    "--calls", type=click.IntRange(1, 40), default=1, show_default=True, help="Calls a user: /v1/profile says how many."
)
@quota_option
@click.option(
    "--share", type=click.IntRange(1, 100), default=80, show_default=True, help="Percent of it to spend on this send."
)
def plan_send(recipients: int, calls: int, quota: int, share: int) -> None:
    """Say how long warming the cache for a send takes, or how fast the send may go without."""
    plan = Plan(recipients, calls, quota, share / 100)
    click.echo(f"calls              {plan.calls:,} ({calls} a user), at {plan.calls_a_minute:,} a minute")
    click.echo(f"to warm the cache  {spoken(plan.minutes)}, before the send, which then may be as fast as Braze can")
    if plan.messages_a_minute:
        click.echo(
            f"or, without that   send {counted(plan.messages_a_minute, 'message')} a minute at most: set that in Braze"
        )
    else:
        click.echo("or, without that   not even one message a minute: the quota is too small for a send that is cold")
