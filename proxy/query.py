"""Parameters -> Ask: what a caller may say, and what it means. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from proxy.errors import BadRequest
from proxy.parts import COHORTS, PROPERTIES, SECTIONS, Identity, Part, Section, recommendation

MAX_LENGTH = 512
MAX_ENTRIES = 20
OnError = Literal["default", "retry"]
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of what callers may send: `many` takes a comma separated list (in JSON also an array)."""

    name: str
    help: str
    many: bool = False
    words: tuple[str, ...] = ()
    holds_comma: bool = False


USER_ID = Parameter("user_id", "the user's id in Amplitude")
DEVICE_ID = Parameter("device_id", "the device's id in Amplitude")
ON_ERROR = Parameter("on_error", "what to answer when something is missing", words=get_args(OnError))
REC_ID = Parameter("rec_id", "the recommendations to show", many=True)
REC_TYPE = Parameter("rec_type", "`model`, `random`, or any word Amplitude comes to know; absent obeys the experiment")
KEYS = Parameter("keys", "only the properties of these exact names", many=True, holds_comma=True)
COHORT_ID = Parameter("cohort_id", "speak only of these cohorts", many=True, holds_comma=True)
INCLUDE = Parameter("include", "the sections to answer", many=True, words=SECTIONS)

COMMON = (USER_ID, DEVICE_ID, ON_ERROR)
OF_SECTION: Mapping[Section, tuple[Parameter, ...]] = {
    "recommendations": (REC_ID, REC_TYPE),
    "properties": (KEYS,),
    "cohorts": (COHORT_ID,),
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request wants: which sections of which user, narrowed how."""

    identity: Identity
    sections: tuple[Section, ...]
    rec_ids: tuple[str, ...] = ()
    rec_type: str | None = None
    keys: tuple[str, ...] = ()
    cohort_ids: tuple[str, ...] = ()
    on_error: OnError = "default"

    @property
    def anonymous(self) -> bool:
        """Say whether every id given was blank: a template rendered for an anonymous user."""
        return self.identity == (None, None)

    @property
    def parts(self) -> list[Part]:
        """Return the parts asked, in the order in which a missing one is named as the error."""
        parts: list[Part] = []
        for section in self.sections:
            if section == "recommendations":
                parts += [recommendation(rec_id, self.rec_type) for rec_id in self.rec_ids]
            else:
                parts.append(PROPERTIES if section == "properties" else COHORTS)
        return parts


def parameters_of(section: Section | None) -> tuple[Parameter, ...]:
    """Return the parameters a route knows: those of its section, or all and `include` for the profile (None)."""
    if section is not None:
        return COMMON + OF_SECTION[section]
    return (*COMMON, INCLUDE, *(parameter for some in OF_SECTION.values() for parameter in some))


def parse(section: Section | None, given: Iterable[tuple[str, Any]]) -> Ask:
    """Return what is asked of the route of `section` (None: the profile).

    `given`: names and values as sent, repeats included; text from a URL or form, or what `from_json` returned.
    Raises BadRequest, whose text names the parameter and the mend and repeats no value.
    """
    known = {parameter.name: parameter for parameter in parameters_of(section)}
    sent: dict[str, Any] = {}
    for name, value in given:
        if name in known:
            if name in sent:
                raise BadRequest(f"{name} is given more than once: send it once, in the URL or in the body")
            sent[name] = value

    def one(parameter: Parameter) -> str | None:
        return _one(parameter, sent[parameter.name]) if parameter.name in sent else None

    def many(parameter: Parameter) -> tuple[str, ...]:
        return _many(parameter, sent[parameter.name]) if parameter.name in sent else ()

    if USER_ID.name not in sent and DEVICE_ID.name not in sent:
        raise BadRequest("no user: send user_id or device_id, e.g. user_id={{${user_id} | url_param_escape}}")
    identity = Identity(one(USER_ID), one(DEVICE_ID))
    on_error: OnError = "retry" if one(ON_ERROR) == "retry" else "default"

    if section is not None:
        sections: tuple[Section, ...] = (section,)
    else:
        included = many(INCLUDE)
        if not included:
            raise BadRequest(f"include is missing: name one or more of {', '.join(SECTIONS)}")
        sections = tuple(known_section for known_section in SECTIONS if known_section in included)

    asked = {parameter.name for name in sections for parameter in OF_SECTION[name]}
    rec_ids = many(REC_ID) if REC_ID.name in asked else ()
    if "recommendations" in sections and not rec_ids:
        raise BadRequest("rec_id is missing: name one or more recommendations, e.g. rec_id=abc123")
    return Ask(
        identity,
        sections,
        rec_ids=rec_ids,
        rec_type=one(REC_TYPE) if REC_TYPE.name in asked else None,
        keys=many(KEYS) if KEYS.name in asked else (),
        cohort_ids=many(COHORT_ID) if COHORT_ID.name in asked else (),
        on_error=on_error,
    )


class _Number(str):
    """A JSON number as it was written, so that an id keeps every digit."""

    __slots__ = ()


def from_json(body: bytes) -> list[tuple[str, Any]]:
    """Return names and values of a JSON body. BadRequest unless it is one object with each key once."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        if len(set(names)) < len(names):
            raise BadRequest("the JSON body has a key twice: send each once")
        return dict(found)

    def refuse(_: str) -> None:
        raise BadRequest("the JSON body holds NaN or Infinity, which are not JSON")

    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=refuse,
        )
    except (ValueError, RecursionError):
        raise BadRequest('the body is not JSON: send an object, e.g. {"user_id": "12345"}') from None
    if not isinstance(document, dict):
        raise BadRequest('the JSON body is not an object: send e.g. {"user_id": "12345"}')
    return list(document.items())


def _one(parameter: Parameter, value: Any) -> str | None:
    if not isinstance(value, str):
        raise BadRequest(f"{parameter.name} must be a string or a number")
    text = _clean(parameter, value)
    if text and parameter.words and text not in parameter.words:
        raise BadRequest(f"{parameter.name} is not a known word: use {' or '.join(parameter.words)}")
    return text or None


def _many(parameter: Parameter, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        entries: Sequence[Any] = value.split(",")
    elif isinstance(value, list):
        entries = value
    else:
        raise BadRequest(f"{parameter.name} must be a string, a number or an array of those")
    if not all(isinstance(entry, str) for entry in entries):
        raise BadRequest(f"{parameter.name} may hold only strings and numbers")
    cleaned = (_clean(parameter, entry) for entry in entries)
    kept = tuple(dict.fromkeys(entry for entry in cleaned if entry))
    if len(kept) > MAX_ENTRIES:
        raise BadRequest(f"{parameter.name} has {len(kept)} entries: {MAX_ENTRIES} at most")
    if not parameter.holds_comma and any("," in entry for entry in kept):
        raise BadRequest(f"{parameter.name} has an entry with a comma, which Amplitude would read as two")
    if parameter.words and not set(kept) <= set(parameter.words):
        raise BadRequest(f"{parameter.name} has an unknown word: use {', '.join(parameter.words)}")
    return kept


def _clean(parameter: Parameter, text: str) -> str:
    text = str(text).strip()
    if len(text) > MAX_LENGTH:
        raise BadRequest(f"{parameter.name} is too long: {MAX_LENGTH} characters at most")
    if _UNSPEAKABLE.search(text):
        raise BadRequest(f"{parameter.name} holds a control character or is not valid Unicode: escape or remove it")
    return text
