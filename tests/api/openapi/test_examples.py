"""The examples and credentials of the OpenAPI document, tried on the real service before the sandbox."""

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
DATA = sorted({path for path, item in DOCUMENT["paths"].items() if path.startswith("/v1/") and "get" in item})
HOOKS = sorted(path for path in DOCUMENT["paths"] if path.startswith("/v1/webhooks/"))
USERS = {"ava": "ava", "ben": "ben", "unknown": "nobody", "blank": ""}


def question(path: str) -> dict[str, str]:
    """Return the examples of the parameters of a URL, as a client that reads the document would send them."""
    values = {}
    for parameter in DOCUMENT["paths"][path]["get"]["parameters"]:
        if "example" in parameter:
            value = parameter["example"]
            assert isinstance(value, list) is (parameter["schema"]["type"] == "array")
            values[parameter["name"]] = ",".join(value) if isinstance(value, list) else value
    return values


@pytest.mark.contract("3 openapi")
@pytest.mark.parametrize("path", DATA)
def test_every_example_is_what_the_service_answers(service: Service, path: str) -> None:
    responses = DOCUMENT["paths"][path]["get"]["responses"]
    examples: dict[str, Any] = responses["200"]["content"]["application/json"]["examples"]
    assert "ava" in examples
    for name, example in examples.items():
        if name == "missing":
            continue
        answer = requests.get(
            service.url + path, question(path) | {"user_id": USERS[name]}, auth=("braze", SECRET), timeout=10
        )
        assert answer.status_code == 200
        body = answer.json()
        if example["value"].get("as_of") is not None:
            assert body.pop("as_of") > example["value"]["as_of"]
            body["as_of"] = example["value"]["as_of"]
        assert body == example["value"]


@pytest.mark.parametrize("path", HOOKS)
def test_the_example_of_a_webhook_is_taken_as_it_says(service: Service, path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    sent = operation["requestBody"]["content"]["application/json"]["example"]
    expected = operation["responses"]["200"]["content"]["application/json"]["example"]
    sent = sent | {name: time.time() for name in ("computed_time", "event_time") if name in sent}  # or it is too old
    assert requests.post(service.url + path, json=sent, auth=("braze", SECRET), timeout=10).json() == expected


def test_the_example_of_a_missing_answer_is_what_the_service_says_without_quota(service: Service) -> None:
    for path in DATA:
        examples = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["examples"]
        if path == "/v1/userprofile":
            continue
        missing, blank = examples["missing"]["value"], examples["blank"]["value"]
        assert missing == blank | {"error": "quota_exhausted", "user_id": "ava"}


def test_every_kind_of_credentials_that_the_document_names_opens_the_routes_that_take_it(service: Service) -> None:
    basic = base64.b64encode(f"braze:{SECRET}".encode()).decode()
    sent = {
        "basic": {"Authorization": f"Basic {basic}"},
        "bearer": {"Authorization": f"Bearer {SECRET}"},
        "apiKey": {"Authorization": f"Api-Key {SECRET}"},
        "xApiKey": {"X-API-Key": SECRET},
    }
    assert sent.keys() == DOCUMENT["components"]["securitySchemes"].keys()
    for path, method, operation in operations(DOCUMENT):
        for scheme in (name for way in operation["security"] for name in way):
            answer = requests.request(method, service.url + path, headers=sent[scheme], timeout=10)
            typeless = method == "POST" and path not in DATA
            asked_for_nobody = 415 if typeless else 400 if path.startswith("/v1/") else 200
            assert answer.status_code == asked_for_nobody, "let in"


def test_a_url_and_headers_are_refused_where_the_document_says_and_not_before(service: Service) -> None:
    about = DOCUMENT["info"]["description"].replace("\n", " ")
    limits = re.search(
        r"URL over (\d+) KiB is a 414 .+ more than (\d+) headers, one over (\d+) KiB, or more than (\d+) KiB in all, "
        "a 431",
        about,
    )
    assert limits
    url, count, field, together = (int(number) for number in limits.groups())

    def ask(length: int, headers: dict[str, str]) -> requests.Response:
        target = f"{service.url}/v1/cohorts?user_id=ava&more="
        every = {"X-API-Key": SECRET} | headers
        return requests.get(target + "x" * (length - len(target.removeprefix(service.url))), headers=every, timeout=10)

    few, many = ({f"X-More-{number}": "x" for number in range(size)} for size in (count - 10, count + 1))
    large = {f"X-More-{number}": "x" * (together * 1024 // 4 - 32) for number in range(4)}
    # What the client itself sends beside them is about 200 bytes, in seven headers.
    less = large | {"X-More-0": large["X-More-0"][:-200]}
    for status, length, headers in (
        (200, url * 1024 - 32, {}),
        (414, url * 1024, {}),
        (200, 100, {"X-More": "x" * (field * 1024 - 32)}),
        (431, 100, {"X-More": "x" * field * 1024}),
        (200, 100, few),
        (431, 100, many),
        (200, 100, less),
        (431, 100, large),
    ):
        answer = ask(length, headers)
        assert answer.status_code == status
        if status != 200:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert faults(DOCUMENT, DOCUMENT["components"]["schemas"]["Problem"], answer.json()) == []
            assert re.fullmatch(r".+ (?:is|are) too (?:long|large); send .+", answer.json()["detail"])
