"""The forget command: deletes users through a running service, or in the shared Redis."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import click

from proxy.cli.client import (
    json_object,
    own_service_with_redis,
    refusal,
    require_access,
    require_credentials,
    running_service,
    service_options,
)
from proxy.cli.formats import format_count
from proxy.liquid.types import Request
from proxy.profile.parts import Identity
from proxy.storage.redis import RedisUnavailable
from proxy.sync.sqlite_state import SqliteState, StateUnavailable


@click.command()
@click.option("--user", "users", multiple=True, metavar="ID", help="User id to delete; can be repeated.")
@click.option("--device", "devices", multiple=True, metavar="ID", help="Device id to delete; can be repeated.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="State of sync to delete users from, instead of the Redis at REDIS_URL.",
)
@service_options("URL of a running service, instead of the Redis at REDIS_URL.", "admin")
def forget(
    users: tuple[str, ...], devices: tuple[str, ...], state: Path | None, url: str | None, credentials: str | None
) -> None:
    """Delete the stored data of users, in every process and in Redis.

    Deletes every record with one of these ids, whether the id was requested or returned by Amplitude. The data in
    Amplitude stays. Without --url, the command needs the settings of the service in its environment.

    With --state, deletes the users only from the state file of sync. A state of sync in Redis needs no option.
    """
    ids = [Identity(user.strip() or None, None) for user in users]
    ids += [Identity(None, device.strip() or None) for device in devices]
    if not ids or not all(map(any, ids)):
        raise click.UsageError("specify --user or --device; no id may be blank")
    if state is not None:
        if url or devices:
            raise click.UsageError("--state contains only user ids; remove --url and --device")
        click.echo(f"deleted {format_count(_in_file(state, users), 'record')}")
        return
    credentials = require_credentials(url, credentials)
    try:
        if url:
            records = sum(map(_in_service(url, credentials), ids))
        else:
            service = own_service_with_redis(os.environ)[0].forget_service
            records = sum(service.forget(identity).records for identity in ids)
    except RedisUnavailable:
        raise click.ClickException(
            "Redis does not answer, so some data may not be deleted; run the command again"
        ) from None
    click.echo(f"deleted {format_count(records, 'record')}")


def _in_file(path: Path, users: Sequence[str]) -> int:
    if not path.exists():
        raise click.ClickException(f"{click.format_filename(path)} does not exist; correct --state")
    try:
        with closing(SqliteState(path, create=False)) as state:
            return state.forget([user.strip() for user in users])
    except StateUnavailable as error:
        raise click.ClickException(str(error)) from None


def _in_service(url: str, credentials: str) -> Callable[[Identity], int]:
    ask = require_access(running_service(url, credentials))

    def forget_user(identity: Identity) -> int:
        query = urlencode({key: value for key, value in identity._asdict().items() if value is not None})
        answer = ask(Request("DELETE", f"/v1/profile?{query}"))
        body = json_object(answer)
        if answer.status != 200 or "records" not in body:
            raise refusal(answer)
        return int(body["records"])

    return forget_user
