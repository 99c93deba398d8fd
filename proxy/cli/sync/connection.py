"""Connects a run of sync to Amplitude, to Braze and to the state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.cli.client import ServiceUnavailable, own_service, own_service_with_redis, own_settings
from proxy.cli.sync.reading import CONNECTIONS
from proxy.cli.warmup.destination import running
from proxy.composition.braze import braze_client, braze_limiter
from proxy.liquid.types import Ask
from proxy.profile.aliases import Aliases
from proxy.settings import Settings
from proxy.sync.sqlite_state import SqliteState
from proxy.sync.state import SyncState
from proxy.web.services import Services

if TYPE_CHECKING:
    from proxy.storage.redis.sync_state import RedisSyncState


@dataclass(frozen=True, slots=True)
class BrazeTarget:
    """The client of Braze, its rate limiter, and the endpoint and key that own the state."""

    client: TrackClient
    limiter: RateLimiter
    endpoint: str
    api_key: str


def connect(
    url: str | None, credentials: str, question: dict[str, str], quota: int
) -> tuple[Settings, Services | None, Sequence[Ask]]:
    """Return the settings, the services of this process, and functions that answer the question.

    The services are None if neither Redis nor calls in this process are needed.
    """
    makes_calls = bool(question) and not url
    # A run that makes no calls needs no secret key, except for downloads.
    environ = dict(os.environ) if makes_calls else {**os.environ, "AMPLITUDE_PROFILE_API": "off"}
    settings, _ = own_settings(environ)
    if "comp_id" in question:
        aliases = Aliases(settings.aliases)
        ids = (aliases.id_of("computations", name) for name in question["comp_id"].split(","))
        question["comp_id"] = ",".join(dict.fromkeys(ids))  # an alias would replace Amplitude's name
    services: Services | None = None
    ask_functions: Sequence[Ask] = ()
    if settings.redis_url is not None:
        services, ask = own_service_with_redis(environ)
        ask_functions = [ask] * CONNECTIONS
    elif makes_calls:
        click.echo(
            f"warning: the run shares no quota with the service, and makes up to {quota:,} calls a minute; add --url, "
            "or set REDIS_URL",
            err=True,
        )
        services, ask = own_service({**environ, "AMPLITUDE_REQUESTS_PER_MINUTE": str(quota)})
        ask_functions = [ask] * CONNECTIONS
    has_profile_api = services is not None and services.profile_api
    if url and question:
        destination = running(url, credentials)
        ask_functions, has_profile_api = destination.ask_functions, destination.profile_api
    if question and not has_profile_api:
        raise ServiceUnavailable(
            f"{question['include']} cannot be fetched, because AMPLITUDE_PROFILE_API is off; use --cohort with "
            "--properties or --membership"
        )
    return settings, services, ask_functions


def braze_target(settings: Settings, services: Services | None) -> BrazeTarget:
    client, endpoint, api_key = braze_client(settings), settings.braze_rest_endpoint, settings.braze_api_key
    if client is None or endpoint is None or api_key is None:
        raise click.ClickException("BRAZE_REST_ENDPOINT and BRAZE_API_KEY are required; set both")
    limiter = services.braze_rate_limiter if services is not None else None
    return BrazeTarget(client, limiter or braze_limiter(settings, None)[0], endpoint, api_key)


@contextmanager
def open_state(
    services: Services | None, path: Path, on_lost: Callable[[], None], *, dry_run: bool
) -> Iterator[SyncState]:
    """Open and lock the state. A dry run does not lock the state in Redis, because it writes nothing."""
    redis_state: RedisSyncState | None = services.sync_state if services is not None else None
    if redis_state is None:
        with closing(SqliteState(path, create=not dry_run)) as file_state:
            yield file_state
    elif dry_run:
        yield redis_state
    else:
        with redis_state.locked(on_lost):
            yield redis_state
