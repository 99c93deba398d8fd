"""The command line: the group of all commands, and the short ones."""

from __future__ import annotations

import os
import sys

import click

from proxy import __version__
from proxy.api.keys import entry, generate
from proxy.app import amplitude
from proxy.cli.check import Finding, Mark, check_service, check_variables
from proxy.cli.demo import demo, sandbox
from proxy.cli.forget import forget
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.output import print_row
from proxy.cli.preview import preview
from proxy.cli.warmup.command import quota_option, warm
from proxy.cli.warmup.estimate import Plan
from proxy.monitoring.logs import silence_http_library
from proxy.profile.values import BadValue
from proxy.settings import Settings, SettingsError


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
    for finding in check_variables(os.environ):
        _print(finding)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        for fault in error.faults:
            _print_mark("wrong", fault)
        sys.exit(1)
    _print_mark("ok", "settings: each is well formed")
    silence_http_library()
    passed = True
    for finding in check_service(settings, amplitude(settings).fetch):
        _print(finding)
        passed = passed and finding.mark in ("ok", "warn")
    sys.exit(0 if passed else 1)


def _print(finding: Finding) -> None:
    _print_mark(finding.mark, f"{finding.point}: {finding.text}")


def _print_mark(mark: Mark, text: str) -> None:
    print_row(mark, text, width=7, style={"ok": "green", "warn": "yellow", "wrong": "bold red", "?": "dim"}[mark])


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
    if plan.messages_a_minute:
        cold = f"send {format_count(plan.messages_a_minute, 'message')} a minute at most: set that in Braze"
    else:
        cold = "not even one message a minute: the quota is too small for a send that is cold"
    for label, text in (
        ("calls", f"{plan.calls:,} ({calls} a user), at {plan.calls_a_minute:,} a minute"),
        (
            "to warm the cache",
            f"{format_minutes(plan.minutes)}, before the send, which then may be as fast as Braze can",
        ),
        ("or, without that", cold),
    ):
        print_row(label, text, width=19, style="bold")
