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
"""Headers that no operation names: those of the body, and of security, which are on every answer."""


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return path, method and operation of everything in the document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def faults_in(document: Document, operation: dict[str, Any], answer: TestResponse) -> list[str]:
    """Return what differs between the answer and what the operation promises."""
    status = str(answer.status_code)
    responses = operation["responses"]
    response = responses.get(status) or responses.get(f"{status[0]}XX")
    return [f"{status} is not promised"] if response is None else differences(document, response, answer)


def differences(document: Document, response: dict[str, Any], answer: TestResponse) -> list[str]:
    """Return what differs between the answer and one promised response."""
    response = _resolved(document, response)
    headers = {name: _resolved(document, header) for name, header in response.get("headers", {}).items()}
    problems = [f"header {name} is not promised" for name in answer.headers.keys() - headers.keys() - EVERYWHERE]
    for name, header in headers.items():
        if name in answer.headers:
            text = answer.headers[name]
            value = int(text) if header["schema"]["type"] == "integer" and text.isdigit() else text
            problems += [f"header {name}: {fault}" for fault in faults(document, header["schema"], value)]
        elif header.get("required"):
            problems.append(f"header {name} is missing")
    content = response.get("content")
    if not content:
        return problems + (["a body where none is promised"] if answer.data else [])
    kind = answer.mimetype or "nothing"
    if kind not in content:
        return [*problems, f"{kind} is not promised"]
    body = json.loads(answer.data) if kind.endswith("json") else answer.text
    return problems + faults(document, content[kind]["schema"], body)


def _resolved(document: Document, value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        steps = value["$ref"].removeprefix("#/").split("/")
        value = functools.reduce(operator.getitem, steps, document)
    return value


def faults(document: Document, schema: dict[str, Any], value: Any) -> list[str]:
    """Return where `value` breaks the schema."""
    # References are to the document's components, so these go along.
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [f"{error.json_path} {error.message}" for error in validator.iter_errors(value)]
