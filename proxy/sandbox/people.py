"""The users of the sandbox, which are the same at every start."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LAST_UPDATED = 1_763_856_000  # Unix seconds; fixed, so that answers can be compared
REC_IDS = ("homepage", "also-bought")
COMPUTATIONS = {"comp-orders": "orders", "comp-spend": "lifetime_spend", "comp-zip": "zip"}
"""The name of the value in an answer, by computation id."""
PREDICTIONS = ("pred-buy", "pred-churn")


@dataclass(frozen=True)
class Person:
    """A user. `recommendations` is None for a dormant user, inactive for 90 days."""

    user_id: str | None
    device_id: str | None
    about: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    cohort_ids: tuple[str, ...] = ()
    recommendations: Mapping[str, Mapping[str, Any]] | None = None
    computations: Mapping[str, str] = field(default_factory=dict)
    propensities: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Score and percentile by prediction id."""


def _recommendation(rec_id: str, items: list[str], *, control: bool = False) -> dict[str, Any]:
    return {
        "rec_id": rec_id,
        "child_rec_id": rec_id,
        "items": items,
        "is_control": control,
        "recommendation_source": "random" if control else "model",
        "last_updated": LAST_UPDATED,
    }


_NAMED = (
    Person(
        "ava",
        "device-ava",
        "has recommendations, properties, cohorts, computations and propensities",
        {
            "gp:first_name": "Ava",
            "gp:email": "ava@example.com",
            "gp:loyalty_points": 420,
            "gp:newsletter": True,
            "gp:sizes": ["38", "M"],
            "library": "amplitude-ts/2.11.1",
            "country": "Portugal",
        },
        ("vip", "c31"),
        {
            "homepage": _recommendation("homepage", ["trail-shoe", "rain-shell", "head-torch"]),
            "also-bought": _recommendation("also-bought", ["merino-sock", "soft-flask"]),
        },
        {"orders": "12", "lifetime_spend": "1849.50", "zip": "02134"},
        {"pred-buy": (0.83, 97), "pred-churn": (0.04, 8)},
    ),
    Person(
        "ben",
        "device-ben",
        "is in the control group, so messages must show the default content",
        {"gp:first_name": "Ben", "gp:loyalty_points": 15},
        ("newsletter",),
        {
            "homepage": _recommendation("homepage", ["garden-hose", "desk-lamp"], control=True),
            "also-bought": _recommendation("also-bought", ["tea-towel"], control=True),
        },
        {"orders": "0"},
        {"pred-buy": (0.11, 20)},
    ),
    Person("cleo", "device-cleo", "is inactive, and has no recommendations", {"gp:first_name": "Cleo"}),
    Person(
        "dário & söhne",
        "device-dário",
        "has names and values with special characters",
        {
            "gp:first name": 'Dário "D" O\'Neil <b>&amp;</b>',
            "first_name": "Dário",
            "gp:first_name": "DÁRIO",
            "[Amplitude] City": "São Paulo",
            "gp:plan.type": "gold",
            "gp:plan-type": "silver",
            "gp:1st order": "2024-02-11",
            "gp:日本": "Japan",
            "gp:emoji": "🎽",
            "gp:liquid": "{{ 'not' | append: ' rendered' }}",
            "gp:null": None,
            "gp:nested": {"a b": [1, 2.5, {"c": False}]},
            "gp:long": 12345678901234567890,
        },
        ("c3", "c31", "7"),
        {"homepage": _recommendation("homepage", ["item, with comma", "ítem/ünïcode"])},
    ),
    Person(
        None,
        "device-only",
        "is a device without a user id",
        {"platform": "iOS"},
        ("app-users",),
        {"homepage": _recommendation("homepage", ["starter-pack"])},
    ),
)
_BY_USER = {person.user_id: person for person in _NAMED if person.user_id}
_BY_DEVICE = {person.device_id: person for person in _NAMED}
_NUMBERED = re.compile(r"user-([1-9][0-9]{0,8})\Z")


def example_people() -> tuple[Person, ...]:
    """Return the named users."""
    return _NAMED


def find(user_id: str | None, device_id: str | None) -> Person | None:
    """Return the user with this user id, or else with this device id; None if the user is unknown.

    `user-1` to `user-999999999` are for load tests: about 2 % are unknown, 5 % dormant and 10 % in the control group.
    """
    if user_id:
        return _BY_USER.get(user_id) or _crowd(user_id)
    return _BY_DEVICE.get(device_id)


def has_user(user_id: str) -> bool:
    """Return whether `user_id` is the id of a named or numbered user, including users unknown to Amplitude."""
    return user_id in _BY_USER or _NUMBERED.match(user_id) is not None


def _crowd(user_id: str) -> Person | None:
    if not _NUMBERED.match(user_id):
        return None
    dice = random.Random(user_id)  # noqa: S311  # the same user at every start
    kind = dice.random()
    if kind < 0.02:
        return None
    points = dice.randrange(1000)
    recommendations = {
        rec_id: _recommendation(rec_id, [f"sku-{dice.randrange(10_000):04}" for _ in range(10)], control=kind < 0.17)
        for rec_id in REC_IDS
    }
    return Person(
        user_id,
        f"device-{user_id}",
        "is a numbered user for load tests",
        {
            "gp:first_name": dice.choice(["Noor", "Mateo", "Yuki", "Ines", "Tariq", "Freya"]),
            "gp:loyalty_points": points,
            **{f"gp:attribute {number:02}": f"value {dice.randrange(10**12):012}" for number in range(40)},
        },
        tuple(f"c{number}" for number in sorted(dice.sample(range(100), 5))),
        None if kind < 0.07 else recommendations,
        {"orders": str(dice.randrange(30)), "lifetime_spend": f"{dice.randrange(500_000) / 100:.2f}"},
        {prediction: (round(dice.random(), 4), dice.randrange(101)) for prediction in PREDICTIONS},
    )
