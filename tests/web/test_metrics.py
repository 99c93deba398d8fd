"""/metrics: events and states under stable names, without user ids or secrets."""

from __future__ import annotations

import json
import platform
import re
from random import Random

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from proxy import __version__
from proxy.app import create_app
from proxy.monitoring.sync_runs import SyncRun, add_run
from proxy.profile.errors import QuotaExhausted, UpstreamRejected, UpstreamUnavailable
from proxy.profile.parts import Identity
from proxy.settings import Settings
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeClock, FakeSource

REDIS_NOWHERE = "redis://127.0.0.1:1"


def read(client: FlaskClient) -> dict[str, float]:
    """Return the value of every sample by its name and labels, without the prefix `ccproxy_`."""
    text = client.get("/metrics", headers={"X-API-Key": SECRET}).text
    metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            metrics[sample.name.removeprefix("ccproxy_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return metrics


def ask(client: FlaskClient, question: str, **headers: str) -> None:
    client.get(f"/v1/{question}", headers={"X-API-Key": SECRET, **headers})


def install_snapshot(client: FlaskClient, cohort_id: str, *user_ids: str) -> None:
    lines = "".join(f'"{user_id}"\n' for user_id in user_ids)
    headers = {"X-API-Key": SECRET, "Content-Type": "application/x-ndjson"}
    assert client.put(f"/v1/snapshots/{cohort_id}", data=lines, headers=headers).status_code == 200


@pytest.mark.contract("3 metrics")
def test_metrics__with_or_without_credentials__prometheus_text_or_401(client: FlaskClient) -> None:
    assert client.get("/metrics").status_code == 401
    answer = client.get("/metrics", headers={"X-API-Key": SECRET})
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.contract("3 metrics")
def test_requests_total__hits_misses_and_failures__counted_by_route_status_and_cache(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    ask(client, "cohorts?user_id=u")
    ask(client, "cohorts?user_id=u")
    ask(client, "cohorts/?user_id=u")
    clock.advance(1000)
    ask(client, "cohorts?user_id=u")
    source.fault = UpstreamUnavailable()
    clock.advance(2000)
    ask(client, "cohorts?user_id=u")
    ask(client, "cohorts?user_id=another")
    ask(client, "cohorts?user_id=another&on_error=retry")
    ask(client, "cohorts?user_id=")
    ask(client, "nothing-like-it/u")
    metrics = read(client)
    of_route = "route=/v1/cohorts,status="
    assert metrics[f"requests_total{{cache=hit,{of_route}200}}"] == 2
    assert metrics[f"requests_total{{cache=stale,{of_route}200}}"] == 2, "a stale copy and a copy after a failed call"
    assert metrics[f"requests_total{{cache=miss,{of_route}200}}"] == 2
    assert metrics[f"requests_total{{cache=miss,{of_route}500}}"] == 1
    assert metrics[f"requests_total{{cache=none,{of_route}200}}"] == 1
    assert metrics["requests_total{cache=none,route=none,status=404}"] == 1
    assert metrics["answers_missing_total{error=upstream_unavailable}"] == 2
    assert metrics["answers_missing_total{error=blank_id}"] == 1
    assert metrics["request_duration_seconds_count{route=/v1/cohorts}"] == 8


def test_upstream_calls__success_and_failure__counted_by_outcome_with_exposures(
    client: FlaskClient, source: FakeSource
) -> None:
    ask(client, "recommendations?user_id=u&rec_id=a,b")
    ask(client, "recommendations?user_id=u&rec_id=a,b")
    source.fault = UpstreamUnavailable()
    ask(client, "cohorts?user_id=another")
    metrics = read(client)
    assert metrics["upstream_call_duration_seconds_count{outcome=ok}"] == 1
    assert metrics["upstream_call_duration_seconds_count{outcome=upstream_unavailable}"] == 1
    assert metrics["exposures_total"] == 2


@pytest.mark.contract("3 metrics")
def test_quota_metrics__calls_a_minute_later_and_a_429__used_left_and_closed(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    for number in range(3):
        ask(client, f"cohorts?user_id=u{number}")
    metrics = read(client)
    assert [metrics[f"quota_calls_{word}"] for word in ("used", "left", "limit")] == [3, 597, 600]
    clock.advance(61)
    assert read(client)["quota_calls_used"] == 0
    source.fault = QuotaExhausted(retry_after=60)
    ask(client, "cohorts?user_id=u9")
    metrics = read(client)
    assert (metrics["quota_closed"], metrics["quota_calls_left"]) == (1, 0)


def test_cache_and_backlog_metrics__evictions_and_full_backlog__exact_values(
    source: FakeSource, clock: FakeClock
) -> None:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "CACHE_MAX_MB": "1"}
    biography = Random(1).randbytes(200_000).hex()  # noqa: S311  # does not compress
    source.user_data = {"user_id": "u", "amp_props": {"biography": biography}}
    app = create_app(Settings.from_env(env | {"BACKLOG_MAX_USERS": "0"}), fetch=source.fetch, clock=clock)
    client = app.test_client()
    for number in range(10):
        ask(client, f"cohorts?user_id=u{number}")
    metrics = read(client)
    store = installed(app).store
    assert (metrics["cache_bytes"], metrics["cache_records"]) == (store.memory.size, store.memory.records)
    assert metrics["cache_max_bytes"] == 1024 * 1024
    assert metrics["cache_evictions_total"] == 10 - store.memory.records > 0
    assert read(client)["cache_evictions_total"] == 10 - store.memory.records, "each eviction is counted once"
    installed(app).rate_limiter.pause(1000)
    ask(client, "cohorts?user_id=late")
    metrics = read(client)
    assert (metrics["backlog_users"], metrics["backlog_dropped_total"]) == (0, 1)


def test_outage_and_redis_metrics__outage_or_redis_unreachable__1(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    metrics = read(client)
    assert (metrics["upstream_outage"], metrics["redis_gone"]) == (0, 0)
    source.fault = UpstreamRejected()
    ask(client, "cohorts?user_id=u")
    assert read(client)["upstream_outage"] == 1

    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "REDIS_URL": REDIS_NOWHERE}
    app = create_app(Settings.from_env(env), fetch=source.fetch, clock=clock)
    installed(app).store.get(Identity("u", None))
    assert read(app.test_client())["redis_gone"] == 1
    redis = installed(app).redis
    assert redis
    redis.stop()


def test_callers_refused__wrong_or_no_credentials__counted_by_reason(client: FlaskClient, source: FakeSource) -> None:
    client.get("/v1/cohorts?user_id=u", headers={"X-API-Key": "wrong"})
    client.get("/v1/cohorts?user_id=u")
    assert read(client)["callers_refused_total{why=credentials}"] == 2


def test_background_requests__cached_fetched_and_missing__counted_apart(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    ask(client, "cohorts?user_id=u", Priority="u=7")
    ask(client, "cohorts?user_id=u", Priority="u=7")
    source.fault = UpstreamUnavailable()
    clock.advance(61)
    ask(client, "cohorts?user_id=another&on_error=retry", Priority="u=7")
    metrics = read(client)
    assert metrics["background_requests_total{cache=miss,error=none}"] == 1
    assert metrics["background_requests_total{cache=hit,error=none}"] == 1
    assert metrics["background_requests_total{cache=miss,error=upstream_unavailable}"] == 1
    assert not [name for name in metrics if name.startswith(("answers_missing", "request")) and "/v1/cohorts" in name]
    assert not [name for name in metrics if name.startswith("answers_missing")]


@pytest.mark.contract("6 snapshots")
def test_snapshots__two_cohorts_and_one_expired__members_age_and_finding(client: FlaskClient, clock: FakeClock) -> None:
    install_snapshot(client, "c31", "ava", "ben")
    clock.advance(86_400)
    install_snapshot(client, "c7", "ava")
    metrics = read(client)
    assert metrics["snapshot_members{cohort_id=c31}"] == 2
    assert metrics["snapshot_members{cohort_id=c7}"] == 1
    assert metrics["snapshot_age_seconds{cohort_id=c31}"] == 86_400
    assert metrics["snapshot_age_seconds{cohort_id=c7}"] == 0
    status = client.get("/status.json", headers={"X-API-Key": SECRET}).get_json()
    assert [(snapshot["cohort_id"], snapshot["members"]) for snapshot in status["snapshots"]] == [("c31", 2), ("c7", 1)]
    assert [finding["what"] for finding in status["findings"]] == ["The snapshot of a cohort has expired: c31"]
    assert "snapshot_members" not in status["now"]
    client.delete("/v1/snapshots/c31", headers={"X-API-Key": SECRET})
    assert "snapshot_members{cohort_id=c31}" not in read(client)


def test_build_info__metrics__version_and_python_as_labels(client: FlaskClient) -> None:
    version = platform.python_version()
    assert read(client)[f"proxy_build_info{{python_version={version},version={__version__}}}"] == 1


@pytest.mark.contract("3 metrics")
@pytest.mark.parametrize("path", ["/v1/cohorts?user_id=visitor-42", "/v1/visitor-42", "/static/visitor-42"])
def test_metrics__ids_and_secrets_in_requests__not_in_the_text(app: Flask, client: FlaskClient, path: str) -> None:
    client.get(path, headers={"X-API-Key": SECRET, "X-Request-ID": "visitor-42"})
    client.open(path, method="VISITOR-42", headers={"X-API-Key": "visitor-42"})
    text = client.get("/metrics", headers={"X-API-Key": SECRET}).text
    assert "ccproxy_requests_total{" in text
    assert "visitor-42" not in text.lower()
    assert SECRET not in text


@pytest.mark.contract("3 grafana")
def test_grafana_dashboard__queries__use_exactly_the_served_metrics(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    answer = client.get("/static/grafana.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    dashboard = json.loads(answer.data)
    ask(client, "recommendations?user_id=u&rec_id=a")
    clock.advance(1)  # a background request waits for the next even slot of the quota
    ask(client, "cohorts?user_id=u", Priority="u=7")
    install_snapshot(client, "c31", "ava")
    metrics = installed(client.application).metrics
    metrics.relayed({"accepted": 1})
    metrics.forwarded("events", "accepted", 1)
    metrics.set_sync_runs_reader(lambda: add_run(None, SyncRun(clock.now(), "complete", users_sent=1)))
    source.fault = UpstreamUnavailable()
    ask(client, "cohorts?user_id=another")
    client.get("/v1/cohorts")
    served = {re.sub(r"\{.*", "", name) for name in read(client)}
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = [re.findall(r"\b(?:cc)?proxy_\w+", expression) for expression in expressions]
    assert all(names)
    queried = {name.removeprefix("ccproxy_") for found in names for name in found}
    assert queried <= served, queried - served
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in served}
    assert families == {re.sub(r"_(bucket|count|sum)$", "", name) for name in queried}, "the dashboard lacks a metric"
    labels = set(re.findall(r"by \(([\w, ]+)\)", " ".join(expressions)))
    assert labels == {
        "cache", "cache, error", "cohort_id", "error", "kind, outcome", "le", "outcome", "result",
        "route, status", "version, python_version",
        "why",
    }  # fmt: skip


@pytest.mark.contract("3 metrics")
def test_metrics__runs_of_sync__totals_and_the_last_run(client: FlaskClient) -> None:
    first = SyncRun(1_000.0, "complete", users_sent=10, users_unchanged=90, values=25, requests=2)
    second = SyncRun(2_000.0, "failed", error="Braze returned status 401", users_sent=1, users_failed=2, requests=1)
    runs = add_run(add_run(None, first), second)
    metrics = installed(client.application).metrics
    assert not [name for name in read(client) if name.startswith("sync_")], "no run is known"
    metrics.set_sync_runs_reader(lambda: runs)
    assert {name: value for name, value in read(client).items() if name.startswith("sync_")} == {
        "sync_runs_total{result=complete}": 1,
        "sync_runs_total{result=failed}": 1,
        "sync_objects_total{outcome=sent}": 11,
        "sync_objects_total{outcome=unchanged}": 90,
        "sync_objects_total{outcome=failed}": 2,
        "sync_values_total": 25,
        "sync_requests_total": 3,
        "sync_last_run_timestamp_seconds": 2_000,
        "sync_last_run_failed": 1,
    }
