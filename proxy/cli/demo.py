"""The demo command: the real service in front of an emulated Amplitude."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import requests

from proxy.cli.demo_pushes import PUSHED_EXAMPLES, describe_pushes, push_users
from proxy.cli.demo_sync import print_sync, sync_settings
from proxy.cli.emulated import (
    DEMO_CALLER,
    PORT,
    cohort_settings,
    free_port,
    print_sandbox,
    python,
    service_settings,
    stop_event,
)
from proxy.sandbox.people import example_people
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from proxy.settings import VARIABLES

_ROOT = Path(__file__).parent.parent.parent
_EXAMPLES = (
    ("recommendations", "user_id=ava&rec_id=homepage", "recs"),
    ("properties", "user_id=ava", "props"),
    ("cohorts", "user_id=ava&cohort_id=vip", "cohorts"),
    ("computations", "user_id=ava", "computed"),
    ("propensities", "user_id=ava&prediction_id=pred-buy", "likely"),
    ("profile", "user_id=ava&include=recommendations,properties,cohorts&rec_id=homepage&cohort_id=vip", "profile"),
    ("userprofile", "user_id=ava&get_recs=true&rec_id=homepage&get_cohort_ids=true", "amplitude"),
)


@click.command()
@click.option(
    "--port",
    type=PORT,
    default=8000,
    show_default=True,
    help="Port of the service. If in use, the next free port is used.",
)
@click.option("--all-addresses", is_flag=True, help="Listen on all addresses, for example in a container.")
@click.option("--more", is_flag=True, help="Print commands and tags for every route, more users, and faults to try.")
@click.option("--open", "in_browser", is_flag=True, help="Open the playground in your browser.")
@click.option(
    "--no-profile-api",
    is_flag=True,
    help="Run without the User Profile API, as in Amplitude's EU region. Data of the users is pushed at the start.",
)
@click.option(
    "--sync",
    "with_sync",
    is_flag=True,
    help="Switch on the sync with Braze. Prints commands that send data to and from an emulated Braze.",
)
def demo(port: int, all_addresses: bool, more: bool, in_browser: bool, no_profile_api: bool, with_sync: bool) -> None:
    """Run the real service in front of an emulated Amplitude. Prints links. Needs no account and no settings."""
    secret = secrets.token_urlsafe(24)
    stop = stop_event()
    overridden = {*VARIABLES.keys(), *VARIABLES.values(), "GUNICORN_CMD_ARGS"}
    environment = {name: value for name, value in os.environ.items() if name not in overridden}
    with (
        tempfile.TemporaryDirectory(prefix="proxy-demo-") as folder,
        Sandbox(
            port=free_port(port + 1),
            secret_key=secrets.token_hex(16),
            latency=0.15,
            documented=Documented(cohort_polls=0),
            profile_api=not no_profile_api,
        ) as emulated,
    ):
        address = f"127.0.0.1:{free_port(port)}"
        click.echo("The demo is starting. The log of its service goes to this terminal:", err=True)
        bind = address.replace("127.0.0.1", "0.0.0.0") if all_addresses else address  # noqa: S104  # only on request
        service = subprocess.Popen(  # noqa: S603  # this interpreter, fixed arguments
            [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", bind, "--log-level", "warning"],
            cwd=_ROOT,
            env=environment
            | service_settings(emulated, secret)
            | {"PLAYGROUND_DEMO_USERS": _demo_users()}
            | (sync_settings(emulated) if with_sync else {}),
            # Ctrl-C then reaches only this process, which stops the service once and in order.
            start_new_session=True,
        )
        try:
            if not _answers(f"http://{address}/healthz", service, stop):
                if stop.is_set():
                    return
                raise click.ClickException("the service did not start; read its errors above")
            if no_profile_api:
                push_users(f"http://{address}", (DEMO_CALLER, secret))
            _print_demo(address, emulated, secret, more=more)
            if with_sync:
                if not more:
                    click.echo()  # the other commands of --more end with a blank line
                print_sync(f"http://{address}", emulated, secret, Path(folder) / "state.sqlite3")
            click.echo("Ctrl-C stops the demo. The log of the service follows, with one line per request:")
            if in_browser:
                _open_playground(address, secret)
            while not stop.wait(0.2):
                if service.poll() is not None:
                    raise click.ClickException(
                        f"the service stopped unexpectedly with exit code {service.returncode}; read its log above"
                    )
            click.echo("\nThe demo is stopping.")
        finally:
            service.terminate()
            service.wait()


def _open_playground(address: str, secret: str) -> None:
    """Open the playground in the browser, logged in, through a redirect that works once.

    The browser keeps the credentials of the redirect, but not in its history. The URL that is passed to the browser is
    visible in the list of processes, so it has no credentials.
    """
    path = f"/{secrets.token_urlsafe(24)}"

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != path:
                self.send_error(404)
                return
            self.send_response(302)
            self.send_header("Location", f"http://{DEMO_CALLER}:{secret}@{address}/playground")
            # Without this header, the browser would store the credentials in its cache.
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            threading.Thread(target=server.shutdown, daemon=True).start()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing, because the path opens the playground."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirect)

    def serve() -> None:
        with server:
            server.serve_forever()

    threading.Thread(target=serve, daemon=True).start()
    if not webbrowser.open(f"http://127.0.0.1:{server.server_port}{path}"):
        click.echo("--open found no browser; open the first link above", err=True)


def _demo_users() -> str:
    return ",".join(str(person.user_id) for person in example_people()[:3])


def _answers(url: str, service: subprocess.Popen[bytes], stop: threading.Event) -> bool:
    session = requests.Session()
    session.trust_env = False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and service.poll() is None and not stop.wait(0.1):
        with suppress(requests.RequestException):
            return session.get(url, timeout=1).ok
    return False


def _print_demo(address: str, emulated: Sandbox, secret: str, *, more: bool) -> None:
    service, login = f"http://{address}", f"http://{DEMO_CALLER}:{secret}@{address}"
    click.secho(
        f"The demo is running, with an emulated Amplitude{'' if emulated.profile_api else ' and no Profile API'}. "
        f"Open a link in a browser (name {DEMO_CALLER}, secret {secret}):",
        bold=True,
    )
    click.echo(f"  {login}/playground  write a message and see the text that Braze would send")
    click.echo(f"  {login}/docs        call every route; press Authorize first, and enter the name and secret")
    click.echo(f"  {login}/status      see whether the service works\n")
    click.secho("Users to try:", bold=True)
    for person in example_people()[:3]:
        click.echo(f"  {person.user_id:8}{person.about if emulated.profile_api else describe_pushes(person)}")
    click.echo()
    click.secho("Call the service from another terminal:", bold=True)
    examples = _EXAMPLES if emulated.profile_api else PUSHED_EXAMPLES
    for route, query, _ in examples if more else examples[:1]:
        click.echo(f"  curl -s -u {DEMO_CALLER}:{secret} '{service}/v1/{route}?{query}'")
    click.echo()
    if more:
        _print_more(service, emulated, secret)
    else:
        click.echo("Add --more to print a command and a Braze tag for every route, more users, and faults to try.")


def _print_more(service: str, emulated: Sandbox, secret: str) -> None:
    click.secho("The same calls as tags in a Braze message (Braze stores the credentials as us):", bold=True)
    for route, query, variable in _EXAMPLES if emulated.profile_api else PUSHED_EXAMPLES:
        query = query.replace("user_id=ava", "user_id={{${user_id} | url_param_escape}}")
        tag = f"connected_content https://your-host/v1/{route}?{query} :basic_auth us :save {variable}"
        click.echo(f"  {{% {tag} %}}")
    click.echo()
    if emulated.profile_api:
        print_sandbox(emulated)
    else:
        click.secho("List the snapshots of cohorts, and count the calls to Amplitude:", bold=True)
        click.echo(f"  curl -s -u {DEMO_CALLER}:{secret} {service}/v1/snapshots")
        click.echo(f"  curl -s {emulated.url}/sandbox/report")
    click.secho("Warm the cache for a cohort:", bold=True)
    click.echo(f"  PROXY_CREDENTIALS={DEMO_CALLER}:{secret} {cohort_settings(emulated)} \\")
    click.echo(f"    {python()} -m proxy warm --cohort vip --url {service}")
    webhook = '{"cohort_id":"c31","in_cohort":true,"computed_time":"\'$(date +%s)\'","users":[{"user_id":"ava"}]}'
    click.secho("Push a cohort to the service:", bold=True)
    click.echo(f"  curl -s -u {DEMO_CALLER}:{secret} -H 'Content-Type: application/json' \\")
    click.echo(f"    -d '{webhook}' {service}/v1/webhooks/amplitude/cohorts\n")
