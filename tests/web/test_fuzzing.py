"""Valid and invalid requests, generated from the OpenAPI document: all answers are as documented.

FUZZ_EXAMPLES sets the number of requests of each kind for each operation. With `-s`, pytest shows the total.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
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
from proxy.settings import Settings
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeClock, PopulatedSource
from tests.support.openapi import operations

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
OPERATIONS = [(path, method) for path, method, _ in operations(document())]
DATA = [(path, method) for path, method in OPERATIONS if path.startswith("/v1/")]
# Some parameters of these routes need other parameters, and /v1/userprofile answers an unknown user with a 400.
CONDITIONAL = ("/v1/profile", "/v1/userprofile")


@pytest.fixture(scope="module")
def statuses() -> Iterator[Counter[int]]:
    counts: Counter[int] = Counter()
    yield counts
    print(f"\n{counts.total()} requests, by status: {dict(sorted(counts.items()))}")


@pytest.fixture(scope="module")
def schema() -> schemathesis.BaseSchema:
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "100000"}
    clock = FakeClock()
    app = create_app(Settings.from_env(env), fetch=PopulatedSource(clock).fetch, clock=Clock(now=clock))
    # schemathesis compiles a validator per schema: 22 MB and 0.3 s for each schema with a list of 20 ids.
    document = app.test_client().get("/openapi.json").text
    schema = schemathesis.openapi.from_dict(json.loads(document.replace("{0,512}", "{0,20}")))
    schema.app = app
    # With generated credentials, most requests would only get a 401.
    schema.config.generation.update(with_security_parameters=False)
    return schema


def fuzz(
    operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode, statuses: Counter[int]
) -> None:
    # Values are trimmed and unknown parameters are ignored, so an invalid request may still be answered.
    excluded: list[CheckFunction] = [negative_data_rejection]
    if operation.path in CONDITIONAL:
        excluded.append(positive_data_acceptance)
    by_url = operation.path.startswith("/v1/") and operation.method != "post"

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def send(case: schemathesis.Case[Any]) -> None:
        if by_url and mode.is_positive and "device_id" not in case.query:
            # One of the two ids is required. A schema can express this for a body, but not for the parameters of a URL.
            case.query.setdefault("user_id", "ava")
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
