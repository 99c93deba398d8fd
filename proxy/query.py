"""Parameters -> Ask: what is asked, and of which user. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, get_args

from proxy.aliases import NO_ALIASES, Aliases
from proxy.errors import BadRequest
from proxy.parameters import DEVICE_ID, USER_ID, Parameter, Sent, once, short, taken_identity
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

OnError = Literal["default", "retry"]
PropensityType = Literal["score", "pct"]
WISHES = 256
"""How many wishes are remembered: in a send the users differ, and what is wanted of them does not."""

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
    def cohorts(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return each of `cohort_ids`, or every name there is where none is asked, and its id in Amplitude: as JSON."""
        names = self.cohort_ids or self.aliases.known("cohorts")
        return tuple((write_text(name), write_text(self.aliases.id_of("cohorts", name))) for name in names)

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
    sent = once(_KNOWN[section], given)
    identity = taken_identity(sent)
    rest = tuple(sent.items())
    wish = _wish if short(rest) else _wish.__wrapped__
    return Ask(identity, wish(section, rest, aliases))


@lru_cache(WISHES)
def _wish(section: Section | None, given: tuple[tuple[str, Any], ...], aliases: Aliases) -> Wish:
    sent = Sent(given)
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


_KNOWN = {one: frozenset(parameter.name for parameter in parameters_of(one)) for one in (*SECTIONS, None)}

FORGETTING = (USER_ID, DEVICE_ID)


def parse_forgetting(given: Iterable[tuple[str, Any]]) -> Identity:
    """Return the ids to forget, one at least. Raises BadRequest as `parse` does."""
    ids = taken_identity(once({parameter.name for parameter in FORGETTING}, given))
    if not any(ids):
        raise BadRequest("no user: every id is blank, and nothing is kept about an anonymous user")
    return ids
