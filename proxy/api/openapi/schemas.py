"""JSON Schemas of response bodies, from their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.json import schema_components

from proxy.api import bodies
from proxy.profile.parts import Section

Schema = dict[str, Any]

_OF_SECTION: Mapping[Section, Any] = {
    "recommendations": bodies.Recommendations,
    "properties": bodies.Properties,
    "cohorts": bodies.Cohorts,
    "computations": bodies.Computations,
    "propensities": bodies.Propensities,
}
_OTHERS = (
    bodies.UserProfile,
    bodies.NotSeenBefore,
    bodies.NoAnswer,
    bodies.Problem,
    bodies.TryAgain,
    bodies.Forgotten,
    bodies.Health,
    bodies.Readiness,
    bodies.Unready,
    bodies.Status,
    bodies.Rendering,
    bodies.Taken,
)


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to one of the document's components."""
    return {"$ref": f"#/components/{kind}/{name}"}


def answer_name(section: Section | None) -> str:
    """Return the component's name for the answers of `section`; None is the profile."""
    return f"{(section or 'profile').capitalize()}Answer"


def components() -> dict[str, Schema]:
    """Return the schema of every response body, by name."""
    types = (bodies.Envelope, *_OF_SECTION.values(), *_OTHERS)
    schemas: dict[str, Schema] = schema_components(types, ref_template=ref("{name}")["$ref"])[1]
    for name, schema in schemas.items():
        # msgspec sorts the keys of a TypedDict, and leaves it open.
        keys = getattr(bodies, name).__annotations__
        schema["properties"] = {key: schema["properties"][key] for key in keys}
        schema["required"] = [key for key in keys if key in schema.get("required", ())]
        schema["additionalProperties"] = False
    del schemas["AmplitudesRecommendation"]["additionalProperties"]

    envelope = schemas.pop("Envelope")["properties"]
    profile: Schema = {
        "type": "object",
        "description": "The envelope, and all keys of each section that `include` names.",
        "properties": dict(envelope),
        "required": [*envelope],
        "dependentRequired": {},
        "additionalProperties": False,
    }
    for section, kind in _OF_SECTION.items():
        schema = schemas.pop(kind.__name__)
        profile["properties"] |= schema["properties"]
        # A section is there whole or not at all.
        keys = schema["required"]
        profile["dependentRequired"] |= {key: [other for other in keys if other != key] for key in keys}
        name = answer_name(section)
        answer = {"title": name, "properties": envelope | schema["properties"], "required": [*envelope, *keys]}
        schemas[name] = schema | answer
    schemas[answer_name(None)] = profile
    return schemas
