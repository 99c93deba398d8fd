"""Builds the JSON Schemas of bodies from their types, and names the sets of words that several schemas share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from types import ModuleType
from typing import Any, get_args, is_typeddict

from msgspec.json import schema_components

from proxy.api.bodies import answers, changes, errors, monitoring, playground, requests
from proxy.api.bodies.vocabulary import MISSING_WORDS, RETRY_WORDS
from proxy.api.caller_keys import SCOPES
from proxy.api.errors import BLANK_ID, Code
from proxy.profile.parts import SECTIONS, Section
from proxy.profile.query import OnError, PropensityType

Schema = dict[str, Any]

_WORDS: Mapping[str, tuple[Sequence[str], str]] = {
    "ErrorWord": ([BLANK_ID, *MISSING_WORDS], "The reason why data is missing."),
    "MissingWord": (MISSING_WORDS, "The reason why a part of the data is missing."),
    "RetryWord": (RETRY_WORDS, "The reason why data is missing that a retry may bring."),
    "OnError": (get_args(OnError), "The status if data is missing: 200 (`default`) or 500 (`retry`)."),
    "ProblemCode": (get_args(Code), "The kind of a problem."),
    "PropensityType": (get_args(PropensityType), "A score from 0 to 1 (`score`) or a percentile (`pct`)."),
    "Scope": (
        SCOPES,
        "The routes that a key may use: `read` for the data routes, the playground, the status and the metrics, `push` "
        "for the webhooks, `admin` for every route.",
    ),
    "Section": (SECTIONS, "A section of an answer."),
}
"""The words and the description of each schema. Without names, generated clients have a type for each occurrence."""


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to a component of the document."""
    return {"$ref": f"#/components/{kind}/{name}"}


def answer_name(section: Section | None) -> str:
    """Return the name of the component for answers of `section`; None is the profile."""
    return f"{(section or 'profile').capitalize()}Answer"


def for_generators(value: Any) -> Any:
    """Return `value` with schemas that generators of clients understand.

    Shared words become references. The parts that msgspec omits, because they are the default, become explicit.
    """
    if isinstance(value, list):
        return [for_generators(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: for_generators(item) for key, item in value.items()}
    if "enum" in value:
        value["type"] = "string"
    if value.get("type") == "object" and "properties" not in value:
        value.setdefault("additionalProperties", True)
    name = next((name for name, (words, _) in _WORDS.items() if sorted(value.get("enum", ())) == sorted(words)), None)
    if name is None:
        return value
    return ref(name) | {key: item for key, item in value.items() if key not in ("type", "enum")}


def word_schemas() -> dict[str, Schema]:
    """Return the schemas that `for_generators` refers to."""
    return {
        name: {"type": "string", "description": description, "enum": list(words)}
        for name, (words, description) in _WORDS.items()
    }


def components() -> dict[str, Schema]:
    """Return the schema of every body that has a type, by name."""
    response_types = _types(answers, errors, changes, monitoring, playground)
    types = response_types | _types(requests)
    schemas: dict[str, Schema] = schema_components(types.values(), ref_template=ref("{name}")["$ref"])[1]
    for name, schema in schemas.items():
        # msgspec sorts the keys of a TypedDict, and allows additional keys.
        keys = types[name].__annotations__
        schema["properties"] = {key: schema["properties"][key] for key in keys}
        schema["required"] = [key for key in keys if key in schema.get("required", ())]
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])
        if name in response_types:
            schema["additionalProperties"] = False
    del schemas["AmplitudesRecommendation"]["additionalProperties"]
    del schemas["FirstRecommendation"]

    envelope = schemas.pop("Envelope")
    profile = envelope | {
        "title": answer_name(None),
        "description": "The common fields, and the fields of all sections in `include`.",
        "dependentRequired": {},
    }
    for section in SECTIONS:
        schema = schemas.pop(section.capitalize())
        keys, properties = schema["required"], schema["properties"]
        schemas[answer_name(section)] = schema | {
            "title": answer_name(section),
            "properties": envelope["properties"] | properties,
            "required": envelope["required"] + keys,
        }
        profile["properties"] = profile["properties"] | properties
        # All keys of a section are present, or none of them.
        profile["dependentRequired"] |= {key: [other for other in keys if other != key] for key in keys}
    schemas[answer_name(None)] = profile
    return schemas


def _types(*modules: ModuleType) -> dict[str, Any]:
    """Return the types of the bodies in `modules`, by name."""
    return {name: kind for module in modules for name, kind in vars(module).items() if is_typeddict(kind)}
