"""JSON Schemas of response bodies, from their types."""

from __future__ import annotations

from typing import Any, is_typeddict

from msgspec.json import schema_components

from proxy.api import bodies
from proxy.profile.parts import SECTIONS, Section

Schema = dict[str, Any]


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to one of the document's components."""
    return {"$ref": f"#/components/{kind}/{name}"}


def answer_name(section: Section | None) -> str:
    """Return the component's name for the answers of `section`; None is the profile."""
    return f"{(section or 'profile').capitalize()}Answer"


def components() -> dict[str, Schema]:
    """Return the schema of every response body, by name."""
    types = {name: kind for name, kind in vars(bodies).items() if is_typeddict(kind)}
    schemas: dict[str, Schema] = schema_components(types.values(), ref_template=ref("{name}")["$ref"])[1]
    for name, schema in schemas.items():
        # msgspec sorts the keys of a TypedDict, and leaves it open.
        keys = types[name].__annotations__
        schema["properties"] = {key: schema["properties"][key] for key in keys}
        schema["required"] = [key for key in keys if key in schema.get("required", ())]
        schema["additionalProperties"] = False
    del schemas["AmplitudesRecommendation"]["additionalProperties"]
    del schemas["FirstRecommendation"]

    envelope = schemas.pop("Envelope")
    profile = envelope | {
        "title": answer_name(None),
        "description": "The envelope, and all keys of each section that `include` names.",
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
        # A section is there whole or not at all.
        profile["dependentRequired"] |= {key: [other for other in keys if other != key] for key in keys}
    schemas[answer_name(None)] = profile
    return schemas
