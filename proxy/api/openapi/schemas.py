"""Builds the JSON Schemas of response bodies from their types."""

from __future__ import annotations

from typing import Any, is_typeddict

from msgspec.json import schema_components

from proxy.api import bodies
from proxy.profile.parts import SECTIONS, Section

Schema = dict[str, Any]


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to a component of the document."""
    return {"$ref": f"#/components/{kind}/{name}"}


def answer_name(section: Section | None) -> str:
    """Return the name of the component for answers of `section`; None is the profile."""
    return f"{(section or 'profile').capitalize()}Answer"


def components() -> dict[str, Schema]:
    """Return the schema of every response body, by name."""
    types = {name: kind for name, kind in vars(bodies).items() if is_typeddict(kind)}
    schemas: dict[str, Schema] = schema_components(types.values(), ref_template=ref("{name}")["$ref"])[1]
    for name, schema in schemas.items():
        # msgspec sorts the keys of a TypedDict, and allows additional keys.
        keys = types[name].__annotations__
        schema["properties"] = {key: schema["properties"][key] for key in keys}
        schema["required"] = [key for key in keys if key in schema.get("required", ())]
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
