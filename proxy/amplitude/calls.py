"""The parts wanted -> the fewest calls whose answers can be told apart; and the telling apart. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, Section, prediction, recommendation


@dataclass(frozen=True, slots=True)
class Call:
    """One call to Amplitude: what it brings. At most one of properties and one set of computations."""

    parts: frozenset[Part]
    rec_ids: tuple[str, ...] = ()
    rec_type: str | None = None
    prediction_ids: tuple[str, ...] = ()
    propensity_type: str | None = None

    @property
    def computations(self) -> Part | None:
        """Return the set of computations that this call brings."""
        return next((part for part in self.parts if part.section == "computations"), None)

    def parameters(self, identity: Identity) -> dict[str, str]:
        """Return the query of this call, as Amplitude's User Profile API documents it."""
        query = {name: value for name, value in identity._asdict().items() if value is not None}
        if self.rec_ids:
            query |= {"get_recs": "true", "rec_id": ",".join(self.rec_ids)}
            if self.rec_type is not None:
                query["rec_type"] = self.rec_type
        if PROPERTIES in self.parts:
            query["get_amp_props"] = "true"
        if COHORTS in self.parts:
            query["get_cohort_ids"] = "true"
        if (computed := self.computations) is not None:
            # Pages differ on what get_computations together with comp_id brings, so the two never go together.
            query |= {"comp_id": computed.id} if computed.id else {"get_computations": "true"}
        if self.prediction_ids:
            query |= {"get_propensity": "true", "prediction_id": ",".join(self.prediction_ids)}
            query["propensity_type"] = self.propensity_type or "score"
        return query


def plan_calls(wanted: Collection[Part], along: Collection[Part] = ()) -> list[Call]:
    """Return the fewest calls that bring all of `wanted`, with `along` riding free on the first that has room.

    A call has one `rec_type` and one `propensity_type`, and what it says of properties and of computations
    comes back in one field, where the two, or two sets, cannot be told apart. Nothing wanted, no call: `along`
    alone is never worth one. A recommendation never rides along, for each one logs an exposure.
    """
    recommended = _by_type(wanted, "recommendations")
    predicted = _by_type(wanted, "propensities")
    in_one_field = [part for part in wanted if part == PROPERTIES]
    in_one_field += [part for part in wanted if part.section == "computations"]
    needed = max(len(recommended), len(predicted), len(in_one_field), 1 if wanted else 0)
    calls = []
    for number in range(needed):
        parts: set[Part] = set(in_one_field[number : number + 1])
        if number == 0:
            parts |= {part for part in (*wanted, *along) if part == COHORTS}
            parts |= {part for part in along if part == PROPERTIES and not in_one_field}
        rec_type, rec_ids = recommended[number] if number < len(recommended) else (None, ())
        propensity_type, prediction_ids = predicted[number] if number < len(predicted) else (None, ())
        parts |= {recommendation(rec_id, rec_type) for rec_id in rec_ids}
        parts |= {prediction(one, propensity_type or "score") for one in prediction_ids}
        calls.append(Call(frozenset(parts), rec_ids, rec_type, prediction_ids, propensity_type))
    return calls


def _by_type(wanted: Collection[Part], section: Section) -> list[tuple[str | None, tuple[str, ...]]]:
    types: dict[str | None, list[str]] = {}
    for part in wanted:
        if part.section == section:
            types.setdefault(part.type, []).append(part.id)
    return [(kind, tuple(ids)) for kind, ids in types.items()]


def split_response(call: Call, user_data: Mapping[str, Any]) -> tuple[dict[Part, Any], set[Part]]:
    """Split Amplitude's `userData` into what it says of each part of `call`, and the parts it says wrongly.

    Null or a missing key is an empty answer, as documented for users without recommendations; a value of
    another type than documented is none, and must not be kept as if it were empty.
    """
    values: dict[Part, Any] = {}
    said = {name: value for name, value in user_data.items() if value is not None}
    in_one_field = call.computations or PROPERTIES
    if in_one_field in call.parts and isinstance(properties := said.get("amp_props", {}), dict):
        values[in_one_field] = properties
    if COHORTS in call.parts and isinstance(cohorts := said.get("cohort_ids", []), list):
        values[COHORTS] = cohorts
    if isinstance(entries := said.get("recommendations", []), list):
        for rec_id in call.rec_ids:
            entry = _entry("rec_id", rec_id, entries, alone=len(call.rec_ids) == 1)
            values[recommendation(rec_id, call.rec_type)] = entry
    if isinstance(entries := said.get("propensities", []), list):
        for one in call.prediction_ids:
            entry = _entry("pred_id", one, entries, alone=len(call.prediction_ids) == 1)
            if entry is None and len(call.prediction_ids) == 1 and not entries:
                entry = {"prop": said.get("propensity")}
            values[prediction(one, call.propensity_type or "score")] = entry.get("prop") if entry else None
    return values, set(call.parts) - values.keys()


def _entry(key: str, wanted: str, entries: list[Any], *, alone: bool) -> dict[str, Any] | None:
    """Return the entry whose id is `wanted`; a single one without an id answers a single question."""
    found = [entry for entry in entries if isinstance(entry, dict)]
    for entry in found:
        named = entry.get(key)
        if named == wanted or (isinstance(named, int) and str(named) == wanted):
            return entry
    if alone and len(found) == 1 and found[0].get(key) is None:
        return found[0]
    return None
