"""Parameters -> Ask: what a caller may say, and what it means. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, get_args

from proxy.aliases import NO_ALIASES, Aliases
from proxy.errors import BadRequest
from proxy.parts import (
    COHORTS,
    PROPERTIES,
    SECTIONS,
    Identity,
    Part,
    Section,
    computations,
    prediction,
    recommendation,
)
from proxy.strictjson import write_text

MAX_LENGTH = 512
MAX_ENTRIES = 20
OnError = Literal["default", "retry"]
PropensityType = Literal["score", "pct"]
BOOLEANS = ("true", "false")
_WISHES = 256
"""How many wishes are remembered: in a send the users differ, and what is wanted of them does not."""
_SHORT = 1000
"""Characters of a wish that is remembered."""
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
COMP_ID = Parameter("comp_id", "only these computations; without it, all of the user's", many=True)
PREDICTION_ID = Parameter("prediction_id", "the predictions whose propensities to answer", many=True)
PROPENSITY_TYPE = Parameter("propensity_type", "a score from 0 to 1, or a percentile", words=get_args(PropensityType))
INCLUDE = Parameter("include", "the sections to answer", many=True, words=SECTIONS)

COMMON = (USER_ID, DEVICE_ID, ON_ERROR)
OF_SECTION: Mapping[Section, tuple[Parameter, ...]] = {
    "recommendations": (REC_ID, REC_TYPE),
    "properties": (KEYS,),
    "cohorts": (COHORT_ID,),
    "computations": (COMP_ID,),
    "propensities": (PREDICTION_ID, PROPENSITY_TYPE),
}


@dataclass(frozen=True)
class Wish:
    """What one request wants of whatever user: which sections, narrowed how. Ids are as asked, or `aliases` of them."""

    sections: tuple[Section, ...]
    rec_ids: tuple[str, ...] = ()
    rec_type: str | None = None
    keys: tuple[str, ...] = ()
    cohort_ids: tuple[str, ...] = ()
    comp_ids: tuple[str, ...] = ()
    prediction_ids: tuple[str, ...] = ()
    propensity_type: PropensityType = "score"
    on_error: OnError = "default"
    aliases: Aliases = NO_ALIASES

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts asked, in the order in which a missing one is named as the error."""
        parts: list[Part] = []
        for section in self.sections:
            match section:
                case "recommendations":
                    parts += [part for _, part in self.recommendations]
                case "properties":
                    parts.append(PROPERTIES)
                case "cohorts":
                    parts.append(COHORTS)
                case "computations":
                    parts.append(self.computations)
                case "propensities":
                    parts += [self.prediction(one) for one in self.prediction_ids]
        return tuple(dict.fromkeys(parts))

    @cached_property
    def recommendations(self) -> tuple[tuple[str, Part], ...]:
        """Return each of `rec_ids` and the part that answers it."""
        ids = ((rec_id, self.aliases.id_of("recommendations", rec_id)) for rec_id in self.rec_ids)
        return tuple((rec_id, recommendation(id, self.rec_type)) for rec_id, id in ids)

    @cached_property
    def cohorts(self) -> tuple[tuple[str, str], ...]:
        """Return each of `cohort_ids` and its id in Amplitude."""
        return tuple((cohort, self.aliases.id_of("cohorts", cohort)) for cohort in self.cohort_ids)

    @cached_property
    def cohort_texts(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the same as JSON."""
        return tuple((write_text(cohort), write_text(id)) for cohort, id in self.cohorts)

    @cached_property
    def cohort_ids_are_plain(self) -> bool:
        """Say whether no id in Amplitude of `cohort_ids` holds a comma."""
        return not any("," in id for _, id in self.cohorts)

    @cached_property
    def computations(self) -> Part:
        """Return the part that answers `comp_ids`."""
        return computations({self.aliases.id_of("computations", one) for one in self.comp_ids})

    def prediction(self, prediction_id: str) -> Part:
        """Return the part that answers one of `prediction_ids`."""
        return prediction(self.aliases.id_of("predictions", prediction_id), self.propensity_type)


ANYTHING = Wish(())
"""What who has no particular wish asks."""


class Ask(NamedTuple):
    """What one request wants, and of which user."""

    identity: Identity
    wish: Wish

    @property
    def anonymous(self) -> bool:
        """Say whether every id given was blank: a template rendered for an anonymous user."""
        return self.identity == (None, None)


def parameters_of(section: Section | None) -> tuple[Parameter, ...]:
    """Return the parameters a route knows: those of its section, or all and `include` for the profile (None)."""
    if section is not None:
        return COMMON + OF_SECTION[section]
    return (*COMMON, INCLUDE, *(parameter for some in OF_SECTION.values() for parameter in some))


def parse(section: Section | None, given: Iterable[tuple[str, Any]], aliases: Aliases = NO_ALIASES) -> Ask:
    """Return what is asked of the route of `section` (None: the profile).

    `given`: names and values as sent, repeats included; text from a URL or form, or what `from_json` returned.
    Raises BadRequest, whose text names the parameter and the mend and repeats no value.
    """
    sent = _once(_KNOWN[section], given)
    identity = _identity(sent)
    rest = tuple(sent.items())
    wish = _wish if _short(rest) else _wish.__wrapped__
    return Ask(identity, wish(section, rest, aliases))


@lru_cache(_WISHES)
def _wish(section: Section | None, given: tuple[tuple[str, Any], ...], aliases: Aliases) -> Wish:
    sent = _Sent(given)
    on_error: OnError = "retry" if sent.one(ON_ERROR) == "retry" else "default"
    if section is not None:
        sections: tuple[Section, ...] = (section,)
    else:
        included = sent.many(INCLUDE)
        if not included:
            raise BadRequest(f"include is missing: name one or more of {', '.join(SECTIONS)}")
        sections = tuple(known for known in SECTIONS if known in included)
    sent.forget_all_but({ON_ERROR, *(parameter for name in sections for parameter in OF_SECTION[name])})

    wish = Wish(
        sections,
        rec_ids=sent.many(REC_ID),
        rec_type=sent.one(REC_TYPE),
        keys=sent.many(KEYS),
        cohort_ids=sent.many(COHORT_ID),
        comp_ids=sent.many(COMP_ID),
        prediction_ids=sent.many(PREDICTION_ID),
        propensity_type="pct" if sent.one(PROPENSITY_TYPE) == "pct" else "score",
        on_error=on_error,
        aliases=aliases,
    )
    if "recommendations" in sections and not wish.rec_ids:
        raise BadRequest("rec_id is missing: name one or more recommendations, e.g. rec_id=abc123")
    if "propensities" in sections and not wish.prediction_ids:
        raise BadRequest("prediction_id is missing: name one or more predictions, e.g. prediction_id=abc123")
    return wish


FORGETTING = (USER_ID, DEVICE_ID)


def parse_forgetting(given: Iterable[tuple[str, Any]]) -> Identity:
    """Return the ids to forget, one at least. Raises BadRequest as `parse` does."""
    ids = _identity(_once({parameter.name for parameter in FORGETTING}, given))
    if not any(ids):
        raise BadRequest("no user: every id is blank, and nothing is kept about an anonymous user")
    return ids


def readable_id(value: Any) -> str | None:
    """Return an id that comes from elsewhere as it is when a caller asks for it; None where no caller could."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return _clean(USER_ID, str(value)) or None
    except BadRequest:
        return None


GET_RECS = Parameter("get_recs", "answer recommendations; `rec_id` alone implies it", words=BOOLEANS)
GET_AMP_PROPS = Parameter("get_amp_props", "answer user properties", words=BOOLEANS)
GET_COHORT_IDS = Parameter("get_cohort_ids", "answer the user's cohorts", words=BOOLEANS)
GET_COMPUTATIONS = Parameter("get_computations", "answer all computations, or those in `comp_id`", words=BOOLEANS)
GET_PROPENSITY = Parameter("get_propensity", "answer the propensities in `prediction_id`", words=BOOLEANS)
DROP_IN = (
    USER_ID,
    DEVICE_ID,
    GET_RECS,
    REC_ID,
    REC_TYPE,
    GET_AMP_PROPS,
    GET_COHORT_IDS,
    GET_COMPUTATIONS,
    COMP_ID,
    GET_PROPENSITY,
    PREDICTION_ID,
    PROPENSITY_TYPE,
)


def parse_drop_in(given: Iterable[tuple[str, Any]], aliases: Aliases = NO_ALIASES) -> Ask:
    """Return what is asked in Amplitude's own parameters. Raises BadRequest as `parse` does."""
    sent = _once(_DROP_IN_NAMES, given)
    identity = _identity(sent)
    rest = tuple(sent.items())
    wish = _drop_in_wish if _short(rest) else _drop_in_wish.__wrapped__
    return Ask(identity, wish(rest, aliases))


@lru_cache(_WISHES)
def _drop_in_wish(given: tuple[tuple[str, Any], ...], aliases: Aliases) -> Wish:
    sent = _Sent(given)
    rec_ids, comp_ids, prediction_ids = sent.many(REC_ID), sent.many(COMP_ID), sent.many(PREDICTION_ID)
    recommended = sent.flag(GET_RECS, default=bool(rec_ids))
    if recommended and not rec_ids:
        raise BadRequest("get_recs needs rec_id: name one or more recommendations, e.g. rec_id=abc123")
    if sent.flag(GET_PROPENSITY) and not prediction_ids:
        raise BadRequest("get_propensity needs prediction_id: name one or more, e.g. prediction_id=abc123")
    asked: dict[Section, bool] = {
        "recommendations": recommended,
        "properties": sent.flag(GET_AMP_PROPS),
        "cohorts": sent.flag(GET_COHORT_IDS),
        "computations": sent.flag(GET_COMPUTATIONS, default=bool(comp_ids)),
        "propensities": sent.flag(GET_PROPENSITY),
    }
    return Wish(
        tuple(section for section in SECTIONS if asked[section]),
        rec_ids=rec_ids,
        rec_type=sent.one(REC_TYPE),
        comp_ids=comp_ids,
        prediction_ids=prediction_ids,
        propensity_type="pct" if sent.one(PROPENSITY_TYPE) == "pct" else "score",
        aliases=aliases,
    )


_KNOWN = {one: frozenset(parameter.name for parameter in parameters_of(one)) for one in (*SECTIONS, None)}
_DROP_IN_NAMES = frozenset(parameter.name for parameter in DROP_IN)


def _once(known: Collection[str], given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the known parameters of one request, each given once."""
    values: dict[str, Any] = {}
    for name, value in given:
        if name in known:
            if name in values:
                raise BadRequest(f"{name} is given more than once: send it once, in the URL or in the body")
            values[name] = value
    return values


def _identity(values: dict[str, Any]) -> Identity:
    """Take the ids out of `values`: what is left is the wish."""
    if USER_ID.name not in values and DEVICE_ID.name not in values:
        raise BadRequest("no user: send user_id or device_id, e.g. user_id={{${user_id} | url_param_escape}}")
    return Identity(_taken(USER_ID, values), _taken(DEVICE_ID, values))


def _taken(parameter: Parameter, values: dict[str, Any]) -> str | None:
    return _one(parameter, values.pop(parameter.name)) if parameter.name in values else None


def _short(given: Iterable[tuple[str, Any]]) -> bool:
    """Say whether the wish may be remembered: one of text only, and of so much that all of them are no burden."""
    length = 0
    for _, value in given:
        length += len(value) if isinstance(value, str) else _SHORT + 1
    return length <= _SHORT


class _Sent:
    """What one request gave beside the ids."""

    def __init__(self, given: Iterable[tuple[str, Any]]) -> None:
        self._values = dict(given)

    def forget_all_but(self, parameters: Collection[Parameter]) -> None:
        names = {parameter.name for parameter in parameters}
        self._values = {name: value for name, value in self._values.items() if name in names}

    def one(self, parameter: Parameter) -> str | None:
        return _one(parameter, self._values[parameter.name]) if parameter.name in self._values else None

    def many(self, parameter: Parameter) -> tuple[str, ...]:
        return _many(parameter, self._values[parameter.name]) if parameter.name in self._values else ()

    def flag(self, parameter: Parameter, *, default: bool = False) -> bool:
        value = self._values.get(parameter.name)
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            self._values[parameter.name] = value.lower()
        word = self.one(parameter)
        return default if word is None else word == "true"


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
    if not text.isprintable() and _UNSPEAKABLE.search(text):
        raise BadRequest(f"{parameter.name} holds a control character or is not valid Unicode: escape or remove it")
    return text
