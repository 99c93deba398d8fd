"""Plans the fewest calls that fetch a set of parts, and splits a response into those parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, Section, prediction, recommendation


@dataclass(frozen=True, slots=True)
class Call:
    """One call to Amplitude and the parts that it fetches. A call fetches properties or one set of computations."""

    parts: frozenset[Part]
    rec_ids: tuple[str, ...] = ()
    rec_type: str | None = None
    prediction_ids: tuple[str, ...] = ()
    propensity_type: str | None = None

    @property
    def computations(self) -> Part | None:
        """Return the set of computations that this call fetches, or None."""
        return next((part for part in self.parts if part.section == "computations"), None)

    def parameters(self, identity: Identity) -> dict[str, str]:
        """Return the query parameters of this call, as documented for the User Profile API."""
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
            # Amplitude's pages contradict each other on whether get_computations and comp_id may be combined.
            query |= {"comp_id": computed.id} if computed.id else {"get_computations": "true"}
        if self.prediction_ids:
            query |= {"get_propensity": "true", "prediction_id": ",".join(self.prediction_ids)}
            query["propensity_type"] = self.propensity_type or "score"
        return query


def plan_calls(wanted: Collection[Part], extra_parts: Collection[Part] = ()) -> list[Call]:
    """Return the fewest calls that fetch all `wanted` parts. Add `extra_parts` where they need no additional call.

    A call has one `rec_type` and one `propensity_type`. Amplitude returns properties and computations in the same
    field, so a call fetches properties or one set of computations. `extra_parts` contains no recommendations, because
    each fetched recommendation logs an exposure.
    """
    recommended = _by_type(wanted, "recommendations")
    predicted = _by_type(wanted, "propensities")
    same_field = [part for part in wanted if part == PROPERTIES]
    same_field += [part for part in wanted if part.section == "computations"]
    needed = max(len(recommended), len(predicted), len(same_field), 1 if wanted else 0)
    calls = []
    for number in range(needed):
        parts: set[Part] = set(same_field[number : number + 1])
        if number == 0:
            parts |= {part for part in (*wanted, *extra_parts) if part == COHORTS}
            parts |= {part for part in extra_parts if part == PROPERTIES and not same_field}
        rec_type, rec_ids = recommended[number] if number < len(recommended) else (None, ())
        propensity_type, prediction_ids = predicted[number] if number < len(predicted) else (None, ())
        parts |= {recommendation(rec_id, rec_type) for rec_id in rec_ids}
        parts |= {prediction(id, propensity_type or "score") for id in prediction_ids}
        calls.append(Call(frozenset(parts), rec_ids, rec_type, prediction_ids, propensity_type))
    return calls


def _by_type(wanted: Collection[Part], section: Section) -> list[tuple[str | None, tuple[str, ...]]]:
    types: dict[str | None, list[str]] = {}
    for part in wanted:
        if part.section == section:
            types.setdefault(part.type, []).append(part.id)
    return [(kind, tuple(ids)) for kind, ids in types.items()]


def split_response(call: Call, user_data: Mapping[str, Any]) -> tuple[dict[Part, Any], set[Part]]:
    """Split Amplitude's `userData` into a value for each part of `call`.

    Also return the parts with an undocumented type. Null or a missing key is an empty value, as documented for users
    without recommendations. A value of an undocumented type must not be cached as an empty value.
    """
    values: dict[Part, Any] = {}
    fields = {name: value for name, value in user_data.items() if value is not None}
    same_field = call.computations or PROPERTIES
    if same_field in call.parts and isinstance(properties := fields.get("amp_props", {}), dict):
        values[same_field] = properties
    if COHORTS in call.parts and isinstance(cohorts := fields.get("cohort_ids", []), list):
        values[COHORTS] = cohorts
    if isinstance(entries := fields.get("recommendations", []), list):
        for rec_id in call.rec_ids:
            entry = _entry("rec_id", rec_id, entries, alone=len(call.rec_ids) == 1)
            values[recommendation(rec_id, call.rec_type)] = entry
    if isinstance(entries := fields.get("propensities", []), list):
        for prediction_id in call.prediction_ids:
            entry = _entry("pred_id", prediction_id, entries, alone=len(call.prediction_ids) == 1)
            if entry is None and len(call.prediction_ids) == 1 and not entries:
                entry = {"prop": fields.get("propensity")}
            values[prediction(prediction_id, call.propensity_type or "score")] = entry.get("prop") if entry else None
    return values, set(call.parts) - values.keys()


def _entry(key: str, wanted: str, entries: list[Any], *, alone: bool) -> dict[str, Any] | None:
    """Return the entry with the id `wanted`. `alone`: the call has a single id, so its entry may lack the id."""
    candidates = [entry for entry in entries if isinstance(entry, dict)]
    for entry in candidates:
        id = entry.get(key)
        if id == wanted or (isinstance(id, int) and str(id) == wanted):
            return entry
    if alone and len(candidates) == 1 and candidates[0].get(key) is None:
        return candidates[0]
    return None
