"""Defines the query of a request: its sections, ids and options, without the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Literal, NamedTuple

from proxy.profile.aliases import NO_ALIASES, Aliases
from proxy.profile.parts import (
    COHORTS,
    PROPERTIES,
    Identity,
    Part,
    Section,
    computations,
    prediction,
    recommendation,
)

OnError = Literal["default", "retry"]

PropensityType = Literal["score", "pct"]

_numbers = count(1)


@dataclass(frozen=True)
class ProfileQuery:
    """The sections, ids and options of a request. An id may be an alias."""

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
    number: int = field(init=False, compare=False, repr=False, default_factory=_numbers.__next__)
    """Identifies this object in caches without keeping it in memory. Never reused."""

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Return the requested parts. The first missing part determines the error."""
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
                    parts += [self.prediction(id) for id in self.prediction_ids]
        return tuple(dict.fromkeys(parts))

    @cached_property
    def recommendations(self) -> tuple[tuple[str, Part], ...]:
        """Return each of `rec_ids` with its part."""
        ids = ((rec_id, self.aliases.id_of("recommendations", rec_id)) for rec_id in self.rec_ids)
        return tuple((rec_id, recommendation(id, self.rec_type)) for rec_id, id in ids)

    @cached_property
    def cohorts(self) -> tuple[tuple[str, str], ...]:
        """Return each of `cohort_ids` with its id in Amplitude. Without `cohort_ids`, return all cohort aliases."""
        names = self.cohort_ids or self.aliases.names("cohorts")
        return tuple((name, self.aliases.id_of("cohorts", name)) for name in names)

    @cached_property
    def requested_cohorts(self) -> frozenset[str]:
        """Return the ids in Amplitude of `cohort_ids`."""
        return frozenset(self.aliases.id_of("cohorts", name) for name in self.cohort_ids)

    @cached_property
    def computations(self) -> Part:
        """Return the part of `comp_ids`."""
        return computations({self.aliases.id_of("computations", id) for id in self.comp_ids})

    def prediction(self, prediction_id: str) -> Part:
        """Return the part of one prediction id or alias."""
        return prediction(self.aliases.id_of("predictions", prediction_id), self.propensity_type)


ANY_QUERY = ProfileQuery(())
"""A query without parts."""


class ProfileRequest(NamedTuple):
    """A query and its user."""

    identity: Identity
    query: ProfileQuery

    @property
    def anonymous(self) -> bool:
        """Return whether every id was blank, because the template was rendered for an anonymous user."""
        return self.identity == (None, None)
