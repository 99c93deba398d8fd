"""The preview command: renders a message like the playground, with a running or a temporary service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from proxy.cli.client import (
    json_object,
    own_service,
    require_access,
    require_credentials,
    running_service,
    service_options,
)
from proxy.liquid.braze_objects import is_value_name
from proxy.liquid.render_process import Child
from proxy.liquid.report import lines
from proxy.liquid.types import Ask, Request, User
from proxy.sandbox.server import Sandbox


@click.command()
@click.argument("template", type=click.File("r", encoding="utf-8"))
@click.option("--user", "user_id", default="", help="User id to render for; default: an anonymous user.")
@click.option("--device", "device_id", default="", help="Device id of the user.")
@click.option(
    "--value",
    "test_values",
    multiple=True,
    metavar="NAME=VALUE",
    help="Test value for a name that only Braze knows: 'custom_attribute.${plan}=gold'. Text or JSON. May be repeated.",
)
@click.option(
    "--values",
    "values_file",
    type=click.File("r", encoding="utf-8"),
    help="JSON file with an object of test values by name.",
)
@click.option("--demo", is_flag=True, help="Use an emulated Amplitude, with the users ava, ben and cleo.")
@service_options("URL of a running service that answers the tags.", "read")
def preview(
    template: TextIO,
    user_id: str,
    device_id: str,
    test_values: tuple[str, ...],
    values_file: TextIO | None,
    demo: bool,
    url: str | None,
    credentials: str | None,
) -> None:
    """Print the text that Braze would send for a message.

    TEMPLATE is a file with the message, or - for stdin.

    Problems, and the request and answer of each tag, go to stderr. Exits with status 1 if Braze would not send
    the message now, or if the message is empty, contains a Liquid error, or has a call that failed.

    Without --url and --demo, the command starts a temporary service with the settings of the environment. Only
    AMPLITUDE_SECRET_KEY is required. With AMPLITUDE_PROFILE_API=off, the temporary service has only the data in Redis
    (REDIS_URL). Each recommendation that is fetched logs an exposure in Amplitude for the user.
    """
    if demo and url:
        raise click.UsageError("specify either --demo or --url")
    values = _values(test_values, values_file)
    credentials = require_credentials(url, credentials)
    try:
        source = template.read()
        # The child process loads Liquid while the service is created.
        with Child() as child, _service(demo, url, credentials) as (ask, aliases):
            user = User(user_id.strip(), device_id.strip())
            report = json.loads(child.render(source, user, ask, aliases=aliases, values=values))
    except UnicodeDecodeError:
        raise click.ClickException(f"{template.name} is not UTF-8; save the file as UTF-8") from None
    click.echo(report["message"], nl=not report["message"].endswith("\n"))
    for line in lines(report):
        click.echo(line, err=True)
    if not report["good"]:
        click.secho(f"{report['outcome']}: {report['reason']}", bold=True, err=True)
        sys.exit(1)


def _values(test_values: tuple[str, ...], file: TextIO | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if file:
        try:
            values = json.load(file)
        except (ValueError, RecursionError):
            raise click.UsageError(f"--values: {file.name} is not JSON; write an object of values by name") from None
        if not isinstance(values, dict):
            raise click.UsageError(f"--values: {file.name} is not an object; write an object of values by name")
    for entry in test_values:
        name, separator, text = entry.partition("=")
        if not separator:
            raise click.UsageError(f"--value: {entry} has no value; write NAME=VALUE")
        try:
            values[name.strip()] = json.loads(text)
        except (ValueError, RecursionError):
            values[name.strip()] = text
    for name in values:
        if not is_value_name(name):
            raise click.UsageError(
                f"--value, --values: {name} is not a valid name; write the name as in the message, such as "
                "custom_attribute.${plan}"
            )
    return values


@contextmanager
def _service(demo: bool, url: str | None, credentials: str) -> Iterator[tuple[Ask, Mapping[str, list[str]]]]:
    if url:
        ask = require_access(running_service(url, credentials))
        yield ask, json_object(ask(Request("GET", "/status.json"))).get("aliases", {})
    elif demo:
        with Sandbox() as emulated:
            settings = {"AMPLITUDE_BASE_URL": emulated.url, "AMPLITUDE_SECRET_KEY": emulated.secret_key}
            yield _own(settings)
    else:
        yield _own(os.environ)


def _own(environ: Mapping[str, str]) -> tuple[Ask, Mapping[str, list[str]]]:
    services, ask = own_service(environ)
    return ask, services.aliases.by_kind()
