"""Checks the connection to Braze, and the settings of the directions between Amplitude and Braze."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from proxy.braze.limits import PROFILE_FIELDS, STEERING_NAMES, OmittedValue, fit_attribute, fit_event
from proxy.braze.track import Accepted, Failed, RateLimited, Refused, TooLarge, TrackClient, Unavailable
from proxy.cli.formats import format_count
from proxy.settings import Settings
from proxy.sync.stream_objects import ALL, OWN_EVENT_PREFIX

Mark = Literal["ok", "warn", "wrong", "?"]
"""The result of a check; "?" if another problem prevented the check."""


def braze_findings(client: TrackClient, settings: Settings) -> Iterator[tuple[Mark, str]]:
    """Send a request without objects. Braze answers 400 if the key and the instance are right, and writes nothing."""
    match client.send([]):
        case Refused(reason):
            yield "wrong", f"braze: {reason}"
        case Failed(status=400) | Accepted() | TooLarge():
            yield "ok", "braze: Braze accepts the key at this instance (a request without objects; nothing was written)"
        case RateLimited():
            yield (
                "warn",
                "braze: Braze returned status 429, so other programs use the rate limit too; lower "
                "BRAZE_REQUESTS_PER_MINUTE, and run the command again to check the key",
            )
        case Failed(reason=reason) | Unavailable(reason=reason):
            yield (
                "wrong",
                f"braze: {settings.braze_rest_endpoint} gives no usable answer ({reason}); check BRAZE_REST_ENDPOINT, "
                "the network, the HTTP proxy and the status page of Braze",
            )


def direction_findings(settings: Settings) -> Iterator[tuple[Mark, str]]:
    """Yield a description of each direction that is switched on."""
    if settings.forward_events or settings.forward_properties:
        yield from _event_stream_findings(settings)
    if settings.braze_rest_endpoint is not None:
        state = "in Redis" if settings.redis_url else "in the file of --state"
        yield (
            "ok",
            f"sync: python -m proxy sync writes to {settings.braze_rest_endpoint}, with at most "
            f"{format_count(settings.braze_requests_per_minute, 'request')} a minute; the state is {state}",
        )
    if settings.amplitude_api_key is not None:
        yield "ok", f"currents: POST /v1/webhooks/braze/currents sends events to {settings.ingest_url}"


def _event_stream_findings(settings: Settings) -> Iterator[tuple[Mark, str]]:
    events, properties = settings.forward_events, settings.forward_properties
    skipped = (
        (
            "FORWARD_EVENTS has events that came from Braze",
            {name for name in events if name.startswith(OWN_EVENT_PREFIX)},
        ),
        (
            "FORWARD_EVENTS has names that Braze does not accept",
            {name for name in events if isinstance(fit_event(name, {}), OmittedValue)},
        ),
        ("FORWARD_PROPERTIES has fields of Braze", properties & (PROFILE_FIELDS | STEERING_NAMES)),
        (
            "FORWARD_PROPERTIES has names that Braze does not accept",
            {name for name in properties if isinstance(fit_attribute(name, None), OmittedValue)},
        ),
    )
    never = frozenset[str]().union(*(names for _, names in skipped))
    forwarded = " and ".join(
        f"{'all' if ALL in names else ', '.join(sorted(names))} as {kind}"
        for names, kind in ((events - never, "events"), (properties - never, "custom attributes"))
        if names
    )
    users = "creates unknown users" if settings.braze_create_users else "ignores users that it does not know"
    yield (
        "ok",
        f"event stream: POST /v1/webhooks/amplitude/users forwards to Braze: {forwarded or 'nothing'}; Braze {users}",
    )
    for problem, names in skipped:
        if names:
            yield "warn", f"event stream: {problem}, which are never forwarded; remove {', '.join(sorted(names))}"
    if all(key.caller.scope == "read" for key in settings.caller_keys):
        yield (
            "warn",
            "event stream: PROXY_API_KEYS has no key with the scope push, so Amplitude's messages get status 403; "
            "create a key: python -m proxy new-key amplitude --scope push",
        )
