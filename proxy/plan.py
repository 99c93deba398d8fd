"""The parts wanted -> the fewest calls whose answers can be told apart; and the telling apart. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.parts import COHORTS, PROPERTIES, Identity, Part, recommendation


@dataclass(frozen=True, slots=True)
class Call:
    """One call to Amplitude: what it brings."""

    parts: frozenset[Part]
    rec_ids: tuple[str, ...] = ()
    rec_type: str | None = None

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
        return query


def plan(wanted: Collection[Part], along: Collection[Part] = ()) -> list[Call]:
    """Return the fewest calls that bring all of `wanted`, with `along` riding free on the first.

    A call has one `rec_type`, so recommendations of two types need two calls. Nothing wanted, no call:
    `along` alone is never worth one. A recommendation never rides along, for each one logs an exposure.
    """
    if not wanted:
        return []
    by_type: dict[str | None, list[str]] = {}
    for part in wanted:
        if part.section == "recommendations":
            by_type.setdefault(part.type, []).append(part.id)
    calls = []
    riding = frozenset(part for part in (*wanted, *along) if part.section != "recommendations")
    for rec_type, rec_ids in by_type.items() or [(None, [])]:
        asked = frozenset(recommendation(rec_id, rec_type) for rec_id in rec_ids)
        calls.append(Call(asked | riding, tuple(rec_ids), rec_type))
        riding = frozenset()
    return calls


def tell_apart(call: Call, user_data: Mapping[str, Any]) -> tuple[dict[Part, Any], set[Part]]:
    """Split Amplitude's `userData` into what it says of each part of `call`, and the parts it says wrongly.

    Null or a missing key is an empty answer, as documented for users without recommendations; a value of
    another type than documented is none, and must not be kept as if it were empty.
    """
    values: dict[Part, Any] = {}
    said = {name: value for name, value in user_data.items() if value is not None}
    if PROPERTIES in call.parts and isinstance(properties := said.get("amp_props", {}), dict):
        values[PROPERTIES] = properties
    if COHORTS in call.parts and isinstance(cohorts := said.get("cohort_ids", []), list):
        values[COHORTS] = cohorts
    if isinstance(entries := said.get("recommendations", []), list):
        entries = [entry for entry in entries if isinstance(entry, dict)]
        for rec_id in call.rec_ids:
            values[recommendation(rec_id, call.rec_type)] = _entry(rec_id, entries, alone=len(call.rec_ids) == 1)
    return values, set(call.parts) - values.keys()


def _entry(rec_id: str, entries: list[dict[str, Any]], *, alone: bool) -> dict[str, Any] | None:
    for entry in entries:
        named = entry.get("rec_id")
        if named == rec_id or (isinstance(named, int) and str(named) == rec_id):
            return entry
    if alone and len(entries) == 1 and entries[0].get("rec_id") is None:
        return entries[0]
    return None
