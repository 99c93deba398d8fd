"""The tables of README.md and the guides, compared with the code."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, Field, fields
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.api.errors import BLANK_ID
from proxy.api.openapi.document import document
from proxy.cli.formats import format_minutes
from proxy.cli.warmup.estimate import Plan
from proxy.monitoring.metrics import Metrics
from proxy.profile.errors import UpstreamError
from proxy.settings import Settings
from proxy.web.auth import ACCESS
from tests.conftest import ROOT
from tests.support.docs import PAGES, README, fragment, table
from tests.support.fakes import FakeClock

SETTINGS = table("settings")
GUIDES = {path.stem: text for path, text in PAGES.items()}


def test_readme__size__is_at_most_8_kib() -> None:
    assert len(README.read_bytes()) <= 8192


def test_readme__each_number_gained__is_in_the_benchmarks() -> None:
    numbers = [item.split("**")[1] for item in fragment("gains").items]
    assert len(numbers) == 5
    assert [number for number in numbers if not re.search(rf"\b{re.escape(number)}", GUIDES["benchmarks"])] == []


@pytest.mark.contract("4 settings")
def test_settings_table__variables__are_the_settings() -> None:
    assert SETTINGS.keys() == {setting.name.upper() for setting in fields(Settings)}


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_settings_table__default_and_meaning__are_those_of_the_setting(setting: Field[Any]) -> None:
    default, meaning = SETTINGS[setting.name.upper()]
    assert meaning == setting.metadata["help"], f"| `{setting.name.upper()}` | {default} | {setting.metadata['help']} |"
    if setting.default is MISSING:
        assert default == "required"
    elif setting.default in (None, (), frozenset()):
        assert default == "none"
    else:
        assert setting.metadata["read"](default.strip("`")) == setting.default


@pytest.mark.contract("5 plan")
def test_plan_table__each_row__is_what_the_command_calculates() -> None:
    *rows, (_, *speeds) = fragment("plan").rows
    assert len(rows) == 5
    for recipients, *times in rows:
        for calls, (time, speed) in enumerate(zip(times, speeds, strict=True), start=1):
            plan = Plan(int(recipients.replace(",", "")), calls, 600, 0.8)
            assert (time, speed) == (format_minutes(plan.minutes), str(plan.messages_a_minute))


def test_errors_table__words__are_all_error_words() -> None:
    assert table("errors").keys() == {BLANK_ID, *(kind.word for kind in UpstreamError.__subclasses__())}


def test_envelope_table__fields__are_those_of_every_answer() -> None:
    answer = json.loads(fragment("example recommendations").block("json"))
    envelope = list(answer)[: list(answer).index("items")]
    assert [name.strip("` ") for names in table("envelope") for name in names.split(",")] == envelope


def test_statuses_table__statuses__are_those_of_the_openapi_document() -> None:
    openapi = document()
    shared = [
        response["content"]["application/problem+json"] for response in openapi["components"]["responses"].values()
    ]
    statuses = {str(content["example"]["status"]) for content in shared}
    statuses |= set(re.findall(r"\b4\d\d\b", openapi["info"]["description"]))
    assert table("statuses").keys() == statuses


def test_codes_table__codes__are_those_of_problems_in_the_openapi_document() -> None:
    assert table("codes").keys() == set(document()["components"]["schemas"]["ProblemCode"]["enum"])


def test_routes_table__routes_methods_and_scopes__are_those_of_the_application(app: Flask) -> None:
    scopes: dict[str, dict[str, str]] = {}
    for rule in app.url_map.iter_rules():
        access = ACCESS[rule.endpoint.partition(".")[0]]
        methods = dict.fromkeys(rule.methods or (), access.scope if access else "none")
        scopes.setdefault(rule.rule.replace("<", "{").replace(">", "}"), {}).update(methods)
    assert {route: (methods, needed) for route, (methods, needed, _) in table("routes").items()} == {
        route: (
            ", ".join(sorted(by_method, key=["GET", "HEAD", "POST", "PUT", "DELETE"].index)),
            ", ".join(sorted(set(by_method.values()), key=["none", "read", "push", "admin"].index)),
        )
        for route, by_method in scopes.items()
    }


def test_generators_table__versions__are_those_of_the_tests() -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+) ", (ROOT / "tests/requirements.txt").read_text(), re.M))
    pinned |= json.loads((ROOT / "tests/clients/package.json").read_text())["dependencies"]
    for generator, (version, _) in table("generators").items():
        assert pinned[generator] == version


def test_metrics_table__names_and_types__are_those_exported() -> None:
    exported = dict(re.findall(r"^# TYPE (\S+) (\S+)$", Metrics().text().decode(), re.M))
    assert {name: kind for name, (kind, _) in table("metrics").items()} == exported


def test_packages_table__entries__are_those_of_the_package() -> None:
    packages = {f"{path.parent.name}/" for path in (ROOT / "proxy").glob("*/__init__.py")}
    modules = {path.name for path in (ROOT / "proxy").glob("[!_]*.py")}
    assert table("packages").keys() == packages | modules


def test_layers__in_the_guide__are_those_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert fragment("layers").block("text").splitlines() == layers


@pytest.mark.contract("3 webhook faults")
def test_skip_reasons_table__a_batch_with_every_problem__is_counted_by_these_reasons(
    client: FlaskClient, caller: dict[str, str], clock: FakeClock
) -> None:
    def user(**more: Any) -> dict[str, Any]:
        return {"user_id": "u", "event_time": clock(), "user_properties": {"plan": "gold"}} | more

    nested: Any = 1
    for _ in range(101):
        nested = [nested]
    users = [
        3,
        user(user_id=None),
        user(user_id="\n\x00"),
        user(user_properties={"plan": float("nan")}),
        user(user_properties={"plan": nested}),
        user(user_properties=None),
        user(user_properties={}),
        user(event_time="soon"),
        user(event_time=clock() + 601),
        user(event_time=1),
        user(user_properties={f"p{number}": 1 for number in range(1001)}),
        user(user_id="forgotten", event_time=clock() - 1),
    ]
    client.delete("/v1/profile?user_id=forgotten", headers=caller)
    answer = client.post("/v1/webhooks/amplitude/users", json=users, headers=caller)
    assert answer.json is not None
    assert answer.json["skipped_by_reason"].keys() == table("skip reasons").keys()
