"""Routing of paths, and the objects that a request leaves in memory."""

import gc

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from proxy.profile.parts import SECTIONS
from proxy.web.services import installed

TARGET = "/v1/cohorts?user_id=ava"


@pytest.mark.parametrize("path", ["/v1/cohorts", "/v1/cohorts/", "//v1/cohorts", "/v1//cohorts", "/v1/<section>"])
def test_path__requested_three_times__same_statuses(client: FlaskClient, caller: dict[str, str], path: str) -> None:
    def statuses() -> list[int]:
        return [
            client.open(path, method=method, query_string="user_id=ava", headers=caller).status_code
            for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS")
        ]

    first = statuses()
    assert statuses() == first == statuses()


def test_unknown_path__404__detail_lists_the_routes(client: FlaskClient) -> None:
    detail = client.get("/v1/nonsense").get_json()["detail"]
    rules = {str(rule) for rule in client.application.url_map.iter_rules()}
    named = {word.strip(",;") for word in detail.split() if word.startswith("/")}
    assert {*(f"/v1/{section}" for section in SECTIONS), "/v1/profile", "/v1/userprofile", "/docs"} == named <= rules


@pytest.mark.parametrize("host", ["", "a..b", "x" * 300, "[::1", "proxy.example:8000"])
def test_data_route__any_host_header__200(client: FlaskClient, caller: dict[str, str], host: str) -> None:
    assert client.get(TARGET, headers=caller | {"Host": host}).status_code == 200


def test_data_route__service_mounted_below_a_path__200(client: FlaskClient, caller: dict[str, str]) -> None:
    answer = client.get(TARGET, headers=caller, environ_overrides={"SCRIPT_NAME": "/proxy"})
    assert answer.status_code == 200


def test_cached_answer__repeated__leaves_no_reference_cycles(app: Flask, caller: dict[str, str]) -> None:
    environ = EnvironBuilder(TARGET, headers=caller.items()).get_environ()

    def ask() -> None:
        body = app.wsgi_app(dict(environ), lambda *_: lambda _: None)
        assert b'"ok":true' in b"".join(body)

    def collected_after_requests() -> int:
        gc.collect()
        for _ in range(50):
            ask()
        return gc.collect()

    gc.disable()
    gc.freeze()  # otherwise each collection visits the objects of all tests
    try:
        collected = [collected_after_requests() for _ in range(4)]
    finally:
        gc.unfreeze()
        gc.enable()
    # Threads of other tests may end at the same time and leave objects. A leak of a request occurs in every round.
    assert min(collected) == 0


def test_ready_body__same_request_repeated__stored_at_the_second_hit(
    app: Flask, client: FlaskClient, caller: dict[str, str]
) -> None:
    store = installed(app).store
    sizes = []
    for _ in range(4):
        client.get("/v1/cohorts?user_id=u", headers=caller)
        sizes.append(store.memory.size)
    miss, once, second, ready = sizes
    assert miss == once < second == ready
