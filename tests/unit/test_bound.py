"""What a quota lets anybody achieve: known answers, and no schedule that beats the bound."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.bound import WINDOW_SECONDS, Chance, at_an_even_pace, of_any_policy

SOME_CHANCES = st.lists(
    st.tuples(st.floats(0, 200), st.floats(0, 100)).map(lambda pair: Chance(pair[0], pair[0] + pair[1])), max_size=60
)


def helped_at_once(chances: Sequence[Chance], per_minute: int, seed: int) -> int:
    """Return how many are helped by one who calls as soon as the window allows, for anybody who is waiting."""
    dice = random.Random(seed)  # noqa: S311  # chance, not secrets
    sent: list[float] = []
    left = list(chances)
    while left:
        free = sent[-per_minute] + WINDOW_SECONDS if len(sent) >= per_minute else float("-inf")
        now = max(free, min(one.first for one in left))
        left = [one for one in left if one.last >= now]
        if ready := [one for one in left if one.first <= now]:
            left.remove(dice.choice(ready))
            sent.append(now)
    return len(sent)


@pytest.mark.parametrize(
    ("lasts", "at_most"), [(10.0, 600), (59.9, 600), (60.0, 1200), (119.0, 1200), (120.0, 1800), (1e6, 4000)]
)
def test_a_quota_of_600_allows_600_calls_in_each_minute_begun(lasts: float, at_most: int) -> None:
    assert of_any_policy([Chance(0.0, lasts)] * 4000, 600) == at_most


def test_all_are_helped_where_the_quota_exceeds_their_number() -> None:
    chances = [Chance(number / 10, number / 10 + 5) for number in range(300)]

    assert of_any_policy(chances, 600) == 300
    assert at_an_even_pace(chances, 600, 0.3) == 300


def test_who_cannot_be_helped_in_time_counts_for_nothing() -> None:
    assert of_any_policy([Chance(1.0, 0.5)], 600) == 0


def test_the_even_pace_spends_a_tenth_at_once_and_the_rest_evenly() -> None:
    # 59 at once and one even call; after that one every 60/541 s until nobody can be helped.
    assert at_an_even_pace([Chance(0.0, 0.0)] * 1000, 600, 0.3) == 60
    assert at_an_even_pace([Chance(0.0, 10.0)] * 1000, 600, 0.3) == 60 + int(10 / (60 / 541))


@given(SOME_CHANCES, st.integers(1, 20), st.integers(0, 10))
def test_no_schedule_beats_the_bound(chances: list[Chance], per_minute: int, seed: int) -> None:
    bound = of_any_policy(chances, per_minute)

    assert at_an_even_pace(chances, per_minute, 0.3) <= bound
    assert helped_at_once(chances, per_minute, seed) <= bound


def test_a_schedule_that_knows_everything_reaches_the_bound() -> None:
    chances = [Chance(number / 100, 119.0) for number in range(4000)]

    assert helped_at_once(chances, 600, 1) == of_any_policy(chances, 600) == 1200
