"""Finds ids and property names in tags that this user does not have, and lists the ones that the user has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from proxy.liquid import tag_syntax
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import Markup
from proxy.liquid.types import AskForTag, Finding, Request

_LISTED = 8


@dataclass(frozen=True, slots=True)
class Call:
    """A rendered tag: its piece of Liquid, its request and the JSON of its answer."""

    markup: Markup
    request: Request
    answer: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, str]:
        return tag_syntax.parameters(self.request.target, self.request.body)


def id_findings(
    source: str, calls: Sequence[Call], aliases: Mapping[str, Sequence[str]], ids_read: Sequence[str], ask: AskForTag
) -> Iterator[Finding]:
    """Yield a finding for each id that the user does not have.

    `aliases`: the operator's short names by kind. `ids_read`: the ids that the message reads by name. `ask` is
    called for all cohorts and properties of the user, from the cache only.
    """
    for call in calls:
        if not call.answer.get("ok") or not call.answer.get("found"):
            continue
        member = _object(call.answer, "member")
        if missing := [name for name in _requested(call, "cohort_id") if member.get(name) is False]:
            known = _all(call, "cohorts", ask)
            memberships = _object(known, "member")
            has = [*_texts(known, "cohort_ids"), *memberships]
            in_cohorts = [name for name in dict.fromkeys(has) if memberships.get(name)]
            yield from _findings(
                source, call, missing, "cohort", "cohort_id", {*aliases.get("cohorts", ()), *has}, in_cohorts
            )
        properties = _object(call.answer, "properties_by_name")
        if missing := [name for name in _requested(call, "keys") if name in properties and properties[name] is None]:
            all_properties = _object(_all(call, "properties", ask), "properties_by_name")
            names = [name.removeprefix("gp:") for name in all_properties]
            yield from _findings(source, call, missing, "property", "keys", names, None)
        recommendations = _objects(call.answer, "recommendations_by_id")
        returned = _with_value(calls, "recommendations_by_id", is_returned)
        if missing := [name for name, entry in recommendations.items() if not is_returned(entry)]:
            known_ids = [*aliases.get("recommendations", ()), *returned, *ids_read]
            yield from _findings(source, call, missing, "recommendation", "rec_id", known_ids, returned)
        predictions = _objects(call.answer, "propensities_by_id")
        predicted = _with_value(calls, "propensities_by_id", _has_propensity)
        if missing := [name for name, entry in predictions.items() if not _has_propensity(entry)]:
            known_ids = [*aliases.get("predictions", ()), *predicted, *ids_read]
            yield from _findings(source, call, missing, "prediction", "prediction_id", known_ids, predicted)


def _findings(
    source: str,
    call: Call,
    missing: Iterable[str],
    kind: str,
    parameter: str,
    known: Iterable[str],
    has: Sequence[str] | None,
) -> Iterator[Finding]:
    """Yield a problem for an id that is similar to a known id, and a note for another id. `has`: None for no notes."""
    known = sorted({*known} - {*missing})
    for name in missing:
        span = _span(call.markup, parameter, name)
        problem = f"this user has no {kind} {name[:80]}"
        if kind == "cohort":
            problem = f"this user is not in the cohort {name[:80]}"
        if suggestion := similar(name, known):
            yield finding(source, span, "unknown-id", problem, f"write {suggestion}", replacement=suggestion)
        elif has is not None:
            shown = ", ".join(entry[:80] for entry in has[:_LISTED])
            owned = "is in" if kind == "cohort" else "has"
            fix = f"check the id; this user {owned} {shown}" if shown else "check the id in Amplitude"
            if aliased := [entry for entry in known if entry not in has]:
                fix += f"; other names on this service are {', '.join(entry[:80] for entry in aliased[:_LISTED])}"
            yield finding(source, span, "unknown-id", problem, fix, level="note")


def _requested(call: Call, parameter: str) -> list[str]:
    return [entry.strip() for entry in call.parameters.get(parameter, "").split(",")]


def _all(call: Call, section: str, ask: AskForTag) -> Mapping[str, Any]:
    identity = {name: value for name, value in call.parameters.items() if name in ("user_id", "device_id")}
    answer = ask(Request("GET", f"/v1/{section}?{urlencode(identity)}", cache_only=True))
    return tag_syntax.json_object(answer.body) if answer else {}


# Answers that the page keeps come back from a browser, and :rerender changes answers, so any field can have any type.
def _object(answer: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = answer.get(field)
    return value if isinstance(value, dict) else {}


def _objects(answer: Mapping[str, Any], field: str) -> Mapping[str, Mapping[str, Any]]:
    return {name: entry for name, entry in _object(answer, field).items() if isinstance(entry, dict)}


def _texts(answer: Mapping[str, Any], field: str) -> list[str]:
    value = answer.get(field)
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _with_value(calls: Iterable[Call], field: str, has_value: Any) -> list[str]:
    entries = [entry for call in calls for entry in _objects(call.answer, field).items()]
    return list(dict.fromkeys(name for name, entry in entries if has_value(entry)))


def is_returned(entry: Mapping[str, Any]) -> bool:
    """Return whether Amplitude returned this recommendation."""
    return any(entry.get(key) for key in ("items", "is_control", "child_rec_id", "source", "last_updated"))


def _has_propensity(entry: Mapping[str, Any]) -> bool:
    return entry.get("value") is not None


def _span(markup: Markup, parameter: str, name: str) -> tuple[int, int]:
    """Return the range of an id in its tag, or of the tag if the id is the value of an output."""
    after = max(0, markup.text.find(parameter))
    at = markup.text.find(name, after + len(parameter) if after else 0)
    return (markup.start + at, markup.start + at + len(name)) if at >= 0 else (
        markup.start, markup.start + len(markup.text)
    )  # fmt: skip
