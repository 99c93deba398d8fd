"""Valid and invalid requests, generated from the OpenAPI document: all answers are as documented.

FUZZ_EXAMPLES sets the number of requests of each kind for each operation. With `-s`, pytest shows the total.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from proxy.api.openapi.document import document
from proxy.app import create_app
from proxy.monitoring.clock import Clock
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeClock, PopulatedSource
from tests.support.openapi import operations

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
OPERATIONS = [(path, method) for path, method, _ in operations(document())]
DATA = [(path, method) for path, method in OPERATIONS if path.startswith("/v1/") and path != "/v1/snapshots"]
# Some parameters of these routes need other parameters, and /v1/userprofile answers an unknown user with a 400. Random
# bytes are no list of users, and a random cohort has no snapshot. Random text is not the name of a value of Braze.
CONDITIONAL = ("/v1/profile", "/v1/userprofile", "/v1/snapshots/{cohort_id}", "/playground/render")


@schemathesis.serializer("application/x-ndjson")
def as_sent(_: schemathesis.SerializationContext, value: Any) -> Any:
    return value


@pytest.fixture(scope="module")
def statuses() -> Iterator[Counter[int]]:
    counts: Counter[int] = Counter()
    yield counts
    print(f"\n{counts.total()} requests, by status: {dict(sorted(counts.items()))}")


@pytest.fixture(scope="module")
def start_sandbox() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def schema(start_sandbox: ExitStack) -> schemathesis.BaseSchema:
    batch = start_sandbox.enter_context(Sandbox())
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "100000"}
    env |= {"AMPLITUDE_API_KEY": batch.batch.key, "AMPLITUDE_INGEST_URL": f"{batch.url}/batch"}
    clock = FakeClock()
    app = create_app(Settings.from_env(env), fetch=PopulatedSource(clock).fetch, clock=Clock(now=clock))
    document = with_forms(json.loads(app.test_client().get("/openapi.json").data))
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    # With generated credentials, most requests would only get a 401.
    schema.config.generation.update(with_security_parameters=False)
    return schema


def with_forms(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with a form as second kind of body of each data route, as in the description of the body."""
    for path, method in DATA:
        item = document["paths"][path]
        if method == "POST" and "get" in item:
            fields = {
                parameter["name"]: parameter["schema"]
                for parameter in item["get"]["parameters"]
                if parameter.get("in") == "query"
            }
            name = item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            form = {**document["components"]["schemas"][name], "properties": fields}
            item["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"] = {"schema": form}
    return document


def fuzz(
    operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode, statuses: Counter[int]
) -> None:
    # Values are trimmed and unknown parameters are ignored, so an invalid request may still be answered.
    excluded: list[CheckFunction] = [negative_data_rejection]
    if operation.path in CONDITIONAL:
        excluded.append(positive_data_acceptance)
    has_ids = operation.path.startswith("/v1/") and not operation.path.startswith(("/v1/webhooks/", "/v1/snapshots"))

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def send(case: schemathesis.Case[Any]) -> None:
        values: Any = case.body if operation.method == "post" else case.query
        if has_ids and mode.is_positive and "device_id" not in values:
            # One of the two ids is required. The document says so only in words, because generators of clients do not
            # understand the schema for this rule.
            values.setdefault("user_id", "ava")
        answer = case.call_and_validate(headers={"X-API-Key": SECRET}, excluded_checks=excluded)
        statuses[answer.status_code] += 1
        assert answer.status_code != 401

    send()


@pytest.mark.contract("3 openapi")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_operation__documented_request__accepted_and_answered_as_documented(
    schema: schemathesis.BaseSchema, statuses: Counter[int], path: str, method: str
) -> None:
    fuzz(schema[path][method], GenerationMode.POSITIVE, statuses)


@pytest.mark.parametrize(("path", "method"), DATA)
def test_v1_operation__request_against_the_document__answered_as_documented(
    schema: schemathesis.BaseSchema, statuses: Counter[int], path: str, method: str
) -> None:
    fuzz(schema[path][method], GenerationMode.NEGATIVE, statuses)
