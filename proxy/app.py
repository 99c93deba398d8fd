"""Builds the Flask application around the services (composition root)."""

from __future__ import annotations

import os
from collections.abc import Callable

from flask import Flask

from proxy.amplitude.calls import Call
from proxy.amplitude.client import Fetched
from proxy.composition.services import build_services
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.parts import Identity
from proxy.settings import Settings
from proxy.web import (
    auth,
    currents,
    data_middleware,
    errors,
    forget,
    health,
    profiles,
    request_body,
    request_log,
    services,
    snapshots,
    stream_middleware,
    webhooks,
)
from proxy.web.flask_app import AnyText, ServiceFlask
from proxy.web.pages import assets, docs, playground, status


def create_app(
    settings: Settings | None = None,
    *,
    fetch: Callable[[Identity, Call], Fetched] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Flask:
    """Return the application. Starts no thread, opens no connection and does not configure logging.

    `settings`: by default read from the environment; raises SettingsError if the environment is invalid.
    `fetch` replaces calls to Amplitude, and `clock` replaces the system clock, in tests.
    """
    settings = settings or Settings.from_env(os.environ)
    app = ServiceFlask("proxy", static_folder=None, template_folder="web/pages/templates")
    # One byte over the limit: Werkzeug silently truncates a body without a length; the extra byte shows the excess.
    app.config["MAX_CONTENT_LENGTH"] = request_body.MAX_BODY_BYTES + 1
    # Braze follows no redirects, so a trailing or double slash must not redirect.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    # The default, because the name of another converter would be part of the route in metrics and log lines.
    app.url_map.converters["default"] = AnyText
    app_services = build_services(settings, fetch, clock)
    services.install(app, app_services)
    request_log.install(app, app_services)
    auth.install(app, app_services)
    errors.install(app)
    for module in (profiles, forget, webhooks, currents, snapshots, health, assets, docs, playground, status):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(snapshots.removal)
    stream_middleware.install(app, app_services)
    data_middleware.install(app, app_services)
    return app
