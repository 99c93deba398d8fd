"""The examples, credentials and limits of the OpenAPI document, sent to the real service."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import pytest
import requests

from proxy.api.openapi.document import document
from tests.conftest import SECRET, Service
from tests.support.openapi import faults, operations

DOCUMENT = document()
DATA = sorted(
    {path for path, item in DOCUMENT["paths"].items() if path.startswith("/v1/") and {"get", "post"} <= item.keys()}
)
HOOKS = sorted(path for path in DOCUMENT["paths"] if path.startswith("/v1/webhooks/"))
RELAY = "/v1/webhooks/braze/currents"
USERS = {"ava": "ava", "ben": "ben", "unknown": "stranger", "blank": ""}


def example_parameters(path: str) -> dict[str, str]:
    """Return the example parameters of a route, as a client that reads the document sends them."""
    values = {}
    for parameter in DOCUMENT["paths"][path]["get"]["parameters"]:
        if "example" in parameter:
            value = parameter["example"]
            assert isinstance(value, list) is (parameter["schema"].get("type") == "array")
            values[parameter["name"]] = ",".join(value) if isinstance(value, list) else value
    return values


@pytest.mark.contract("3 openapi")
@pytest.mark.parametrize("path", DATA)
def test_data_route__example_request__documented_example_answer(service: Service, path: str) -> None:
    responses = DOCUMENT["paths"][path]["get"]["responses"]
    examples: dict[str, Any] = responses["200"]["content"]["application/json"]["examples"]
    assert "ava" in examples
    for name, example in examples.items():
        if name == "missing":
            continue
        answer = requests.get(
            service.url + path, example_parameters(path) | {"user_id": USERS[name]}, auth=("braze", SECRET), timeout=10
        )
        assert answer.status_code == 200
        body = answer.json()
        if example["value"].get("as_of") is not None:
            assert body.pop("as_of") > example["value"]["as_of"]
            body["as_of"] = example["value"]["as_of"]
        assert body == example["value"]


@pytest.mark.parametrize("path", HOOKS)
def test_webhook__example_request__documented_example_answer(service: Service, path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    sent = operation["requestBody"]["content"]["application/json"]["example"]
    expected = operation["responses"]["200"]["content"]["application/json"]["example"]
    sent = sent | {
        name: time.time() for name in ("computed_time", "event_time") if name in sent
    }  # the times in the example are too old
    assert requests.post(service.url + path, json=sent, auth=("braze", SECRET), timeout=10).json() == expected


def test_missing_example__each_data_route__blank_example_with_quota_exhausted(service: Service) -> None:
    for path in DATA:
        examples = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["examples"]
        if path == "/v1/userprofile":
            continue
        missing, blank = examples["missing"]["value"], examples["blank"]["value"]
        assert missing == blank | {"error": "quota_exhausted", "user_id": "ava"}


def test_credentials__each_documented_scheme__accepted_on_its_routes(service: Service) -> None:
    basic = base64.b64encode(f"braze:{SECRET}".encode()).decode()
    sent = {
        "basic": {"Authorization": f"Basic {basic}"},
        "bearer": {"Authorization": f"Bearer {SECRET}"},
        "apiKey": {"Authorization": f"Api-Key {SECRET}"},
        "xApiKey": {"X-API-Key": SECRET},
    }
    assert sent.keys() == DOCUMENT["components"]["securitySchemes"].keys()
    for path, method, operation in operations(DOCUMENT):
        for scheme in (name for requirement in operation["security"] for name in requirement):
            answer = requests.request(method, service.url + path, headers=sent[scheme], timeout=10)
            typeless = method == "POST" and path not in DATA
            expected = 415 if typeless else 400 if path.startswith("/v1/") else 200
            if path.startswith("/v1/snapshots"):
                expected = {"PUT": 415, "DELETE": 404}.get(method, 200)
            if path == RELAY:
                expected = 200  # the connection test of Braze
            assert answer.status_code == expected, "the credentials were not accepted"


def test_url_and_headers__below_and_above_documented_limits__200_or_414_or_431(service: Service) -> None:
    about = DOCUMENT["info"]["description"].replace("\n", " ")
    limits = re.search(
        r"URL over (\d+) KiB causes a 414.+ More than (\d+) headers, a header over (\d+) KiB, or more than (\d+) KiB "
        "of headers in total causes a 431",
        about,
    )
    assert limits
    url, count, field, total = (int(number) for number in limits.groups())

    def ask(length: int, headers: dict[str, str]) -> requests.Response:
        target = f"{service.url}/v1/cohorts?user_id=ava&more="
        all_headers = {"X-API-Key": SECRET} | headers
        return requests.get(
            target + "x" * (length - len(target.removeprefix(service.url))), headers=all_headers, timeout=10
        )

    below_count, above_count = ({f"X-More-{number}": "x" for number in range(size)} for size in (count - 10, count + 1))
    above_total = {f"X-More-{number}": "x" * (total * 1024 // 4 - 32) for number in range(4)}
    # The client adds about 200 bytes of its own, in seven headers.
    below_total = above_total | {"X-More-0": above_total["X-More-0"][:-200]}
    for status, length, headers in (
        (200, url * 1024 - 32, {}),
        (414, url * 1024, {}),
        (200, 100, {"X-More": "x" * (field * 1024 - 32)}),
        (431, 100, {"X-More": "x" * field * 1024}),
        (200, 100, below_count),
        (431, 100, above_count),
        (200, 100, below_total),
        (431, 100, above_total),
    ):
        answer = ask(length, headers)
        assert answer.status_code == status
        if status != 200:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert faults(DOCUMENT, DOCUMENT["components"]["schemas"]["Problem"], answer.json()) == []
            assert re.fullmatch(r".+ (?:is|are) too (?:long|large); send .+", answer.json()["detail"])
