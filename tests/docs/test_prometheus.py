"""The alert rules and the scrape example for Prometheus."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from proxy.api.openapi.document import document
from proxy.web import services
from tests.conftest import ROOT, SECRET, Service, free_port
from tests.docs.test_references import ANCHORS
from tests.support.docs import table
from tests.support.fakes import FakeSource
from tests.support.wait import until

FOLDER = ROOT / "docs" / "prometheus"
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
SELECTOR = re.compile(r"\b(ccproxy_\w+|up\b)(?:\{(.*?)\})?")
LABEL = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool in the top folder."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed; run apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["check rules docs/prometheus/alerts.yaml", "check config docs/prometheus/scrape.yaml"],
)
def test_file__promtool__finds_nothing(command: str) -> None:
    result = promtool(*command.split())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_alerts__series_of_each_problem__fire_in_time() -> None:
    result = promtool("test", "rules", "tests/docs/alerts.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts__each_rule__has_a_unit_test() -> None:
    tests = yaml.safe_load((ROOT / "tests" / "docs" / "alerts.yaml").read_text())["tests"]
    fired = {
        match
        for test in tests
        for check in test["promql_expr_test"]
        for sample in check["exp_samples"]
        for match in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == RULES.keys()


def test_alerts__metrics_and_labels__are_exported(
    client: FlaskClient, caller: dict[str, str], source: FakeSource
) -> None:
    client.get("/v1/cohorts?user_id=u")
    client.get("/v1/cohorts?user_id=", headers=caller)
    client.get("/v1/recommendations?user_id=u&rec_id=home", headers=caller)
    client.post("/v1/webhooks/amplitude/cohorts", headers=caller)
    services.installed(client.application).metrics.forwarded("events", "accepted", 1)
    client.put("/v1/snapshots/c31", headers=caller, data=b'"u"', content_type="application/x-ndjson")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics", headers=caller).text):
        for name in (family.name, *(sample.name for sample in family.samples)):
            labels.setdefault(f"{name}_total" if family.type == "counter" else name, set())
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    # Prometheus adds these.
    labels["up"] = {"job"}
    used = [match for rule in RULES.values() for match in SELECTOR.findall(rule["expr"])]
    assert len(used) >= 12
    for rule in RULES.values():
        metrics = [metric for metric, _ in SELECTOR.findall(rule["expr"])]
        grouped = {name for names in re.findall(r"by \((.*?)\)", rule["expr"]) for name in names.split(", ")}
        assert grouped <= {"job"}.union(*(labels[metric] for metric in metrics)), rule["alert"]
    for metric, selector in used:
        assert metric in labels
        assert {name for name, _ in LABEL.findall(selector)} <= labels[metric], metric


def test_alerts__routes__are_all_data_routes() -> None:
    data_routes = {
        path
        for path, operations in document()["paths"].items()
        if path.startswith("/v1/") and "post" in operations and "get" in operations
    }
    patterns = {
        value
        for rule in RULES.values()
        for _, selector in SELECTOR.findall(rule["expr"])
        for name, value in LABEL.findall(selector)
        if name == "route"
    }
    assert len(patterns) == 1
    (pattern,) = patterns
    assert {path for path in document()["paths"] if re.fullmatch(pattern, path)} == data_routes


@pytest.mark.parametrize("name", RULES)
def test_alert__annotations__say_what_to_do_and_where_to_read(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "runbook"}
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (ROOT / path).is_file()
    assert not anchor or anchor in ANCHORS[ROOT / path]


def test_alerts_table__rows__are_the_rules() -> None:
    severities = {name: cells[0] for name, cells in table("alerts").items()}
    assert severities == {name: rule["labels"]["severity"] for name, rule in RULES.items()}


@pytest.mark.slow
def test_prometheus__example_files__scrape_the_service_and_evaluate_the_rules(service: Service, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed; run apt-get install prometheus")
    shutil.copy(FOLDER / "alerts.yaml", tmp_path)
    (tmp_path / "secret").write_text(SECRET)
    text = (FOLDER / "scrape.yaml").read_text()
    for shown, actual in (
        ("scheme: https", "scheme: http"),
        ("username: prometheus", "username: braze"),
        ("/etc/prometheus/connected-content.secret", str(tmp_path / "secret")),
        ("your-host", service.url.removeprefix("http://")),
    ):
        assert shown in text
        text = text.replace(shown, actual)
    configuration = tmp_path / "prometheus.yaml"
    configuration.write_text(f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{text}")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={configuration}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]

    def query(path: str) -> Any:
        try:
            return requests.get(f"{url}/api/v1/{path}", timeout=5).json().get("data")
        except (requests.ConnectionError, requests.JSONDecodeError):
            return None

    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            up = 'query?query=up{job="connected-content"}'
            until(lambda: (query(up) or {}).get("result"), "Prometheus scraped nothing", 30)
            assert query(up)["result"][0]["value"][1] == "1", query("targets")
            until(
                lambda: all(rule["health"] == "ok" for rule in query("rules")["groups"][0]["rules"]),
                "a rule was not evaluated",
                30,
            )
        finally:
            process.terminate()
