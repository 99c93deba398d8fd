"""Estimates of the plan command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.formats import format_count, format_minutes
from proxy.cli.warmup.estimate import Plan
from tests.support.command import run


@pytest.mark.contract("5 plan")
@given(st.integers(1, 10**7), st.integers(1, 40), st.integers(1, 10**6), st.integers(1, 100))
def test_plan__any_send__stays_within_the_quota(recipients: int, calls: int, per_minute: int, percent: int) -> None:
    plan = Plan(recipients, calls, per_minute, percent / 100)
    assert plan.minutes * plan.calls_a_minute >= plan.calls > (plan.minutes - 1) * plan.calls_a_minute
    assert plan.messages_a_minute * calls <= plan.calls_a_minute < (plan.messages_a_minute + 1) * calls
    # Computed with integers: 29 % of 100 is 29, but 0.29 * 100 is less than 29.
    assert plan.calls_a_minute == max(1, per_minute * percent // 100)


def test_plan__tags__prints_the_requests_from_braze() -> None:
    printed = run("plan", "--recipients", "1000", "--tags", "2", "--calls", "2").stdout
    assert "4,000 to 6,000 from Braze to the service (2 tags, each requested 2 or 3 times per user)" in printed
    assert "2,000 calls (2 per user)" in printed


@pytest.mark.parametrize(
    ("minutes", "text"), [(0, "0 min"), (1, "1 min"), (60, "1 h"), (209, "3 h 29 min"), (3000, "50 h")]
)
def test_format_minutes__any_duration__hours_and_minutes(minutes: int, text: str) -> None:
    assert format_minutes(minutes) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 calls"), (1, "1 call"), (2000, "2,000 calls")])
def test_format_count__one__singular(number: int, text: str) -> None:
    assert format_count(number, "call") == text


def test_plan__any_send__compares_calls_with_a_download() -> None:
    rows = {line[:21].strip(): line[21:] for line in run("plan", "--recipients", "100000").stdout.splitlines()}
    assert rows["warming by calls"] == "3 h 29 min: 100,000 calls (1 per user), at 480 a minute"
    assert rows["warming by download"].startswith("about 2 min: no calls, and 1 of 500 cohort downloads a month; ")
    assert "2 of 500 cohort downloads a month" in run("plan", "--recipients", "2000001").stdout
