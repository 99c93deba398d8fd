"""The OpenAPI document: it has every route, and every documented answer occurs as documented."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import TestResponse

from proxy.amplitude.client import Fetched
from proxy.api.caller_keys import SCOPES
from proxy.api.openapi.document import document
from proxy.api.openapi.examples import as_text
from proxy.app import create_app
from proxy.profile.errors import NotAvailable, UpstreamError, UpstreamUnavailable
from proxy.profile.record import Record
from proxy.profile.snapshot import MAX_MEMBERS
from proxy.settings import Settings
from proxy.storage.redis import RedisUnavailable
from proxy.sync.relay import RelayResult
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET
from tests.support.batch_upstream import API_KEY, BatchUpstream
from tests.support.fakes import FakeClock, FakeSource, PopulatedSource
from tests.support.openapi import differences, faults, faults_in, operations, scope_of
from tests.support.service import free_port

DOCUMENT = document()
OPERATIONS = [(path, method) for path, method, _ in operations(DOCUMENT)]
DATA = sorted(
    {path for path, item in DOCUMENT["paths"].items() if path.startswith("/v1/") and {"get", "post"} <= item.keys()}
)
SNAPSHOTS = [path for path in DOCUMENT["paths"] if path.startswith("/v1/snapshots")]
HOOKS = sorted(path for path in DOCUMENT["paths"] if path.startswith("/v1/webhooks/"))
RELAY = "/v1/webhooks/braze/currents"
RENDER = "/playground/render"
FLAT = [path for path in DATA if path != "/v1/userprofile"]


@pytest.fixture
def settings() -> Iterator[Settings]:
    with BatchUpstream() as upstream:
        yield Settings.from_env(
            {
                "AMPLITUDE_SECRET_KEY": "k",
                "AMPLITUDE_API_KEY": API_KEY,
                "AMPLITUDE_INGEST_URL": upstream.url,
                "PROXY_API_KEYS": KEYS,
            }
        )


@pytest.fixture
def source(clock: FakeClock) -> FakeSource:
    return PopulatedSource(clock)


def example_parameters(path: str, **changes: str) -> dict[str, str]:
    """Return the example parameters of a data route from the document, as text for a URL or form, with `changes`."""
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    return {**as_text(body["application/json"]["example"]), **changes}


def unreachable(*_: object) -> None:
    raise RedisUnavailable


def ask(client: FlaskClient, path: str, method: str = "GET", headers: Any = None, **changes: str) -> TestResponse:
    """Send the example request of a route, changed by `others`. The method decides between query and form."""
    headers = {"X-API-Key": SECRET} if headers is None else headers
    if path == RENDER:
        body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        message = {name: value for name, value in {**body, **changes}.items() if value}
        return client.post(path, headers=headers, json=message)
    if path in HOOKS:
        body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        if changes.get("template") == "":
            return client.post(path, headers=headers, json="no object")
        return client.post(path, headers=headers, json={**body, "more": changes.get("more", "") * 72})
    if path in SNAPSHOTS:
        return ask_for_snapshots(client, path, method, headers, **changes)
    if not path.startswith("/v1/"):
        return client.open(path, method=method, headers=headers)
    parameters = {name: value for name, value in example_parameters(path, **changes).items() if value}
    place = "data" if method == "POST" else "query_string"
    return client.open(path, method=method, headers=headers, **{place: parameters})  # type: ignore[arg-type]


def ask_for_snapshots(client: FlaskClient, path: str, method: str, headers: Any, **changes: str) -> TestResponse:
    """Send the example request of a route of snapshots."""
    lines = DOCUMENT["paths"]["/v1/snapshots/{cohort_id}"]["put"]["requestBody"]["content"]["application/x-ndjson"]
    if method == "DELETE" and "name" not in changes:
        ask(client, path, "PUT")
    with patch("proxy.web.snapshots.MAX_MEMBERS", 1 if "more" in changes else MAX_MEMBERS):
        return client.open(
            path.replace("{cohort_id}", "c31%20" if changes.get("template") == "" else "c31"),
            method=method,
            headers=headers,
            query_string={name: value for name, value in changes.items() if name == "as_of"},
            **({"data": lines["example"], "content_type": "application/x-ndjson"} if method == "PUT" else {}),
        )


def check(path: str, method: str, answer: TestResponse, status: int | None = None) -> None:
    """Check that the answer is as documented. HEAD has the responses of GET, without bodies."""
    assert status is None or answer.status_code == status, answer.text
    operation = DOCUMENT["paths"][path]["get" if method == "HEAD" else method.lower()]
    assert faults_in(DOCUMENT, operation, answer, has_body=method != "HEAD") == []


@pytest.mark.contract("3 openapi")
def test_document__validated__valid_openapi_3_1() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_document__examples__valid_by_their_schemas() -> None:
    def examples_in(value: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        if isinstance(value, dict):
            if isinstance(value.get("schema"), dict):
                named = value.get("examples", {})
                examples = [example["value"] for example in named.values()] + [
                    value[key] for key in value if key == "example"
                ]
                yield from ((value["schema"], example) for example in examples)
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from examples_in(item)

    examples = list(examples_in(DOCUMENT))
    assert len(examples) > 60
    for schema, example in examples:
        assert list(faults(DOCUMENT, schema, example)) == []


def test_openapi_json__requested__serves_the_document(client: FlaskClient) -> None:
    assert client.get("/openapi.json").json == json.loads(json.dumps(DOCUMENT))


PAGES = {"/", "/docs", "/openapi.json", "/playground", "/playground/frame", "/status", "/static/{name}"}
"""Routes for browsers and generators. Generated clients do not need them."""


@pytest.mark.contract("3 openapi")
def test_document__routes_and_methods__those_of_the_application_without_pages_and_head(app: Flask) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
    }
    gets = {path for path, method in routes if method == "GET"}
    assert {path for path, method in routes if method == "HEAD"} == gets
    assert gets >= PAGES
    assert {(path, method) for path, method in routes if path not in PAGES and method != "HEAD"} == set(OPERATIONS)


@pytest.mark.contract("3 openapi")
def test_document__for_generators__names_requests_and_words_and_avoids_regular_expressions_that_they_reject() -> None:
    assert DOCUMENT["servers"]
    schemas = DOCUMENT["components"]["schemas"]
    for path, _, operation in operations(DOCUMENT):
        if "requestBody" in operation:
            (schema,) = (content["schema"] for content in operation["requestBody"]["content"].values())
            is_upload = schema.get("format") == "binary"
            assert is_upload or "$ref" in next(iter(schema.get("anyOf", [schema]))), path
    assert not any("enum" in schema for schema in schemas_in(DOCUMENT["paths"]))
    for schema in schemas_in(DOCUMENT):
        assert "not" not in schema
        assert "enum" not in schema or schema["type"] == "string"
        assert schema.get("type") != "object" or schema.keys() & {"properties", "additionalProperties"}
        # No groups with `(?`, and only escapes that all libraries know.
        assert not re.search(r"\(\?|\\[^sx.]", schema.get("pattern", ""))
    for name in (name for name in schemas if name.endswith(("Request", "Message"))):
        for field in schemas[name]["properties"].values():
            assert field.keys() & {"type", "$ref"}, (name, field)
    assert schemas["CohortMessage"]["properties"]["in_cohort"]["type"] == "boolean"


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in the document; schemas are among them."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas_in(item)


def test_document__guarded_operations__describe_the_scope() -> None:
    for path, method, operation in operations(DOCUMENT):
        scope = scope_of(operation)
        assert (f"scope `{scope}`" in operation.get("description", "")) is bool(scope), (path, method)
    for scope in SCOPES:
        assert f"- `{scope}`: " in DOCUMENT["info"]["description"]


def test_document__operations__have_unique_ids_summaries_and_known_tags() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    names = [operation["operationId"] for _, _, operation in operations(DOCUMENT)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(DOCUMENT):
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= tags


def test_routes__no_credentials__401_only_where_documented(client: FlaskClient) -> None:
    for path, method, operation in operations(DOCUMENT):
        answer = ask(client, path, method, headers={})
        assert (answer.status_code == 401) is bool(operation["security"]), (path, method)


# One scenario for each documented status: a request that gets an answer with this status.


def not_modified(client: FlaskClient, path: str, method: str) -> TestResponse:
    tag = ask(client, path, method).headers["ETag"]
    return ask(client, path, method, {"X-API-Key": SECRET, "If-None-Match": tag})


def from_another_network_or_site(client: FlaskClient, path: str, method: str) -> TestResponse:
    if path in HOOKS:  # called from any network, but not by a page of another site
        return ask(client, path, method, headers={"X-API-Key": SECRET, "Sec-Fetch-Site": "cross-site"})
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "ALLOWED_NETWORKS": "192.0.2.0/24"}
    return ask(create_app(Settings.from_env(env)).test_client(), path, method)


def call_fails(client: FlaskClient, path: str, method: str) -> TestResponse:
    source_of(client).fault = next(kind() for kind in UpstreamError.__subclasses__())
    if path == "/readyz":
        ask(client, "/v1/cohorts")
    if method == "DELETE":
        installed(client.application).forget_service.forget = unreachable  # type: ignore[method-assign,assignment]
    if path in HOOKS:
        installed(client.application).ingester.push = unreachable  # type: ignore[method-assign,assignment]
    if path == RELAY:
        relay = installed(client.application).currents_relay
        assert relay is not None
        relay.relay = lambda _: RelayResult(0, {"not_delivered": 1}, UpstreamUnavailable())  # type: ignore[method-assign,assignment]
    if path in SNAPSHOTS:
        installed(client.application).snapshots.install = unreachable  # type: ignore[method-assign,assignment]
        installed(client.application).snapshots.remove = unreachable  # type: ignore[method-assign,assignment]
    return ask(client, path, method, on_error="retry")


def not_delivered(client: FlaskClient, path: str, method: str) -> TestResponse:
    if path != "/v1/webhooks/amplitude/users":
        return call_fails(client, path, method)
    connection = {"BRAZE_REST_ENDPOINT": f"http://127.0.0.1:{free_port()}", "BRAZE_API_KEY": "k", "FORWARD_EVENTS": "*"}
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, **connection}
    return ask(create_app(Settings.from_env(env)).test_client(), path, method)


def newer_snapshot(client: FlaskClient, path: str, method: str) -> TestResponse:
    ask(client, path, method)
    return ask(client, path, method, as_of=str(int(source_of(client).clock()) - 60))


def unknown_user_with_status(status: int) -> Callable[[FlaskClient, str, str], TestResponse]:
    def scenario(client: FlaskClient, path: str, method: str) -> TestResponse:
        unknown = Fetched(Record(unknown_at=source_of(client).clock(), unknown_status=status), {})
        client.application.extensions["connected-content-proxy"].executor.fetch = lambda *_: unknown
        return ask(client, path, method, user_id="stranger")

    return scenario


def source_of(client: FlaskClient) -> FakeSource:
    source: FakeSource = client.application.extensions["connected-content-proxy"].executor.fetch.__self__
    return source


SCENARIOS: dict[str, Callable[[FlaskClient, str, str], TestResponse]] = {
    "200": ask,
    "304": not_modified,
    "400": lambda client, path, method: ask(client, path, method, user_id="", template=""),
    "401": lambda client, path, method: ask(client, path, method, headers={}),
    "403": from_another_network_or_site,
    "404": lambda client, path, method: ask(client, path, method, name="another"),
    "4XX": unknown_user_with_status(404),
    "409": newer_snapshot,
    "413": lambda client, path, method: ask(client, path, method, more="x" * 512 * 1024),
    "415": lambda client, path, method: client.open(
        path, method=method, data="?", content_type="text/plain", headers={"X-API-Key": SECRET}
    ),
    "500": call_fails,
    "503": not_delivered,
}
DOCUMENTED_STATUSES = [
    (path, method, status)
    for path, operation_method, operation in operations(DOCUMENT)
    for method in (("GET", "HEAD") if operation_method == "GET" else (operation_method,))
    for status in operation["responses"]
]


@pytest.mark.contract("3 openapi")
@pytest.mark.parametrize(("path", "method", "status"), DOCUMENTED_STATUSES, ids=lambda value: str(value))
def test_route__each_documented_status__answers_as_documented(
    client: FlaskClient, path: str, method: str, status: str
) -> None:
    answer = SCENARIOS[status](client, path, method)
    check(path, method, answer, 404 if status == "4XX" else int(status))


@pytest.mark.parametrize("path", DATA)
def test_data_route__any_user__answers_as_documented(client: FlaskClient, clock: FakeClock, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        clock.advance(10_000)
        for user in ("ava", "ben", "cleo", "dário & söhne", "user-17", "stranger", " "):
            for _ in range(2):  # fetched, and from the cache
                check(path, method, ask(client, path, method, user_id=user))


@pytest.mark.contract("3 openapi")
@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("fault", UpstreamError.__subclasses__())
def test_data_route__any_upstream_error__answers_as_documented(
    client: FlaskClient, source: FakeSource, clock: FakeClock, path: str, fault: type[UpstreamError]
) -> None:
    source.fault = fault()
    for on_error in ("default", "retry"):
        for method in ("GET", "HEAD", "POST"):
            answer = ask(client, path, method, on_error=on_error)
            retried = on_error == "retry" and fault is not NotAvailable  # a retry cannot bring the data
            check(path, method, answer, 500 if retried or path not in FLAT else 200)
    source.fault = None
    clock.advance(100)  # after any pause of calls
    check(path, "GET", ask(client, path))
    clock.advance(1000)
    check(path, "GET", ask(client, path))
    clock.advance(10_000)
    source.fault = fault()
    check(path, "GET", ask(client, path), 200)


@pytest.mark.contract("3 openapi")
def test_data_route__status_500__document_has_exactly_the_error_words_that_occur(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    occurring = set()
    for kind in UpstreamError.__subclasses__():
        source.fault = kind()
        answer = ask(client, "/v1/cohorts", on_error="retry")
        occurring |= {answer.get_json()["error"]} if answer.status_code == 500 else set()
        clock.advance(100)  # after any pause of calls
    schemas = DOCUMENT["components"]["schemas"]
    (name,) = schemas["TryAgain"]["properties"]["error"].values()
    assert set(schemas[name.rpartition("/")[2]]["enum"]) == occurring


def test_profile__one_part_missing__answers_as_documented(
    client: FlaskClient, source: FakeSource, clock: FakeClock
) -> None:
    path = "/v1/profile"
    ask(client, "/v1/cohorts")
    source.fault = UpstreamError.__subclasses__()[0]()
    answer = ask(client, path)
    assert "fwd=partial; detail=" in answer.headers["Cache-Status"]
    check(path, "GET", answer, 200)


@pytest.mark.parametrize("path", DATA)
def test_data_route__json_example_or_form_example__same_answer(client: FlaskClient, path: str) -> None:
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    answer = client.post(path, json=body, headers={"X-API-Key": SECRET})
    check(path, "POST", answer, 200)
    assert answer.json == ask(client, path, "POST").json


@pytest.mark.contract("1 json bodies")
@pytest.mark.parametrize("path", DATA)
def test_data_route__text_in_json_in_place_of_lists_and_booleans__same_answer(client: FlaskClient, path: str) -> None:
    """The document has one simple form of each value, and the service accepts the others."""
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    expected, answer = (client.post(path, json=json_, headers={"X-API-Key": SECRET}) for json_ in (body, as_text(body)))
    assert answer.status_code == 200
    assert answer.json == expected.json


@pytest.mark.contract("1 repeated parameters")
@pytest.mark.parametrize("path", DATA)
def test_lists__repeated_in_url_or_form__same_answer_as_with_commas(client: FlaskClient, path: str) -> None:
    lists: dict[str, list[str]] = {
        parameter["name"]: ["cohorts", "properties"] if parameter["name"] == "include" else ["a", "b"]
        for parameter in DOCUMENT["paths"][path]["get"]["parameters"]
        if parameter.get("schema", {}).get("type") == "array"
    }
    headers, ids = {"X-API-Key": SECRET}, {"rec_id": "a", "prediction_id": "b", "user_id": "ava"}
    repeated: dict[str, Any] = {**ids, **lists}
    commas = {**ids, **{name: ",".join(values) for name, values in lists.items()}}
    expected = client.get(path, headers=headers, query_string=commas)
    assert expected.status_code == 200
    assert client.get(path, headers=headers, query_string=repeated).json == expected.json
    assert client.post(path, headers=headers, data=repeated).json == expected.json
    for name, (first, second) in lists.items():
        query = {**commas, name: first}
        answer = client.post(path, headers=headers, query_string=query, data={name: second})
        problem = answer.get_json(force=True)
        assert (answer.status_code, problem["code"], problem["parameter"]) == (400, "repeated_parameter", name)


@pytest.mark.parametrize("path", [*DOCUMENT["paths"], "/nowhere"])
def test_unknown_path_or_method__patch__shared_response_of_the_document(client: FlaskClient, path: str) -> None:
    shared = DOCUMENT["components"]["responses"]
    answer = client.patch(path)
    name = "NotFound" if path == "/nowhere" else "MethodNotAllowed"
    assert answer.status_code == shared[name]["content"]["application/problem+json"]["example"]["status"]
    assert differences(DOCUMENT, shared[name], answer) == []


def test_problem_examples__each_status__same_as_the_service(client: FlaskClient, source: FakeSource) -> None:
    for name, response in DOCUMENT["components"]["responses"].items():
        example = response["content"]["application/problem+json"]["example"]
        method = "POST" if example["status"] in (413, 415) else "GET"
        status = str(example["status"])
        if status == "400":
            answer = client.get("/v1/recommendations?user_id=ava", headers={"X-API-Key": SECRET})
        elif status == "404":
            answer = client.get("/nowhere")
        elif status == "405":
            answer = client.delete("/healthz")
        elif status == "500":
            source.fault = next(kind for kind in UpstreamError.__subclasses__() if kind.word == example["error"])()
            answer = ask(client, "/v1/cohorts", on_error="retry")
        else:
            answer = SCENARIOS[status](client, "/v1/cohorts", method)
        assert json.loads(answer.data) == example, name


def test_differences__key_added_or_missing__reported(client: FlaskClient) -> None:
    """Prove that the checks above can fail: for an answer with an added key, and with a missing key."""
    response = {"content": {"application/json": {"schema": DOCUMENT["components"]["schemas"]["CohortsAnswer"]}}}
    answer = ask(client, "/v1/cohorts")
    whole = json.loads(answer.data)
    for body in (whole | {"more": 1}, {key: whole[key] for key in whole.keys() - {"member"}}):
        answer.set_data(json.dumps(body))
        assert [fault for fault in differences(DOCUMENT, response, answer) if "header" not in fault]
