"""Compares answers with the OpenAPI document: status, headers, content type and body."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

Document = dict[str, Any]

EVERYWHERE = {"Content-Type", "Content-Length", "X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy"}
"""Headers of every answer, about the body and security. Operations do not list these headers."""


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation for every operation in the document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def faults_in(
    document: Document, operation: dict[str, Any], answer: TestResponse, *, has_body: bool = True
) -> list[str]:
    """Return the differences between the answer and the responses of the operation. has_body: false for HEAD."""
    status = str(answer.status_code)
    responses = operation["responses"]
    response = responses.get(status) or responses.get(f"{status[0]}XX")
    if response is None:
        return [f"status {status} is not documented"]
    if not has_body:
        response = {name: part for name, part in _resolved(document, response).items() if name != "content"}
    return differences(document, response, answer)


def differences(document: Document, response: dict[str, Any], answer: TestResponse) -> list[str]:
    """Return the differences between the answer and a documented response."""
    response = _resolved(document, response)
    headers = {name: _resolved(document, header) for name, header in response.get("headers", {}).items()}
    problems = [f"header {name} is not documented" for name in answer.headers.keys() - headers.keys() - EVERYWHERE]
    for name, header in headers.items():
        if name in answer.headers:
            text = answer.headers[name]
            value = int(text) if header["schema"]["type"] == "integer" and text.isdigit() else text
            problems += [f"header {name}: {fault}" for fault in faults(document, header["schema"], value)]
        elif header.get("required"):
            problems.append(f"header {name} is missing")
    content = response.get("content")
    if not content:
        return problems + (["the answer has an undocumented body"] if answer.data else [])
    kind = answer.mimetype or "nothing"
    if kind not in content:
        return [*problems, f"content type {kind} is not documented"]
    body = json.loads(answer.data) if kind.endswith("json") else answer.text
    return problems + faults(document, content[kind]["schema"], body)


def _resolved(document: Document, value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        steps = value["$ref"].removeprefix("#/").split("/")
        value = functools.reduce(operator.getitem, steps, document)
    return value


def faults(document: Document, schema: dict[str, Any], value: Any) -> list[str]:
    """Return the differences between `value` and the schema."""
    # The schema refers to the components of the document.
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [f"{error.json_path} {error.message}" for error in validator.iter_errors(value)]


def scope_of(operation: dict[str, Any]) -> str | None:
    """Return the scope that an operation of the document needs; None for a public operation."""
    scopes = {scope for requirement in operation["security"] for roles in requirement.values() for scope in roles}
    assert len(scopes) <= 1
    return scopes.pop() if scopes else None
