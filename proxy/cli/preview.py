"""The preview command: renders a template as the playground does, with a running service or one in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from proxy.cli.client import (
    own_service,
    require_access,
    require_credentials,
    running_service,
    service_options,
)
from proxy.liquid.render_process import Child
from proxy.liquid.report import lines
from proxy.liquid.types import Ask, User
from proxy.sandbox.server import Sandbox


@click.command()
@click.argument("template", type=click.File("r", encoding="utf-8"))
@click.option("--user", "user_id", default="", help="The user id to render for; without it, an anonymous user.")
@click.option("--device", "device_id", default="", help="The id of the user's device.")
@click.option("--demo", is_flag=True, help="Ask the emulated Amplitude, in which ava, ben and cleo live.")
@service_options("Ask the service that runs there.")
def preview(
    template: TextIO, user_id: str, device_id: str, demo: bool, url: str | None, credentials: str | None
) -> None:
    """Print what Braze would send of the message in the file TEMPLATE (- is standard input).

    What each tag asked and got, and what breaks in Braze, follows on standard error. Exits with 1 when
    nothing would be sent now.

    Without --url or --demo a service is made for the moment, with the settings of the environment, of which
    only AMPLITUDE_SECRET_KEY is needed. A recommendation that is fetched logs an exposure in Amplitude for
    the user, as a sent message does.
    """
    if demo and url:
        raise click.UsageError("--demo and --url exclude each other: both say who is asked")
    credentials = require_credentials(url, credentials)
    try:
        source = template.read()
        # The child process loads Liquid while the service is created.
        with Child() as child, _service(demo, url, credentials) as ask:
            report = json.loads(child.render(source, User(user_id.strip(), device_id.strip()), ask))
    except UnicodeDecodeError:
        raise click.ClickException(f"{template.name} is not UTF-8: save it as that") from None
    click.echo(report["message"], nl=not report["message"].endswith("\n"))
    for line in lines(report):
        click.echo(line, err=True)
    if report["outcome"] != "sent":
        click.secho(f"{report['outcome']}: {report['reason']}", bold=True, err=True)
        sys.exit(1)


@contextmanager
def _service(demo: bool, url: str | None, credentials: str) -> Iterator[Ask]:
    if url:
        yield require_access(running_service(url, credentials))
    elif demo:
        with Sandbox() as emulated:
            settings = {"AMPLITUDE_BASE_URL": emulated.url, "AMPLITUDE_SECRET_KEY": emulated.secret_key}
            yield own_service(settings)[1]
    else:
        yield own_service(os.environ)[1]
