"""Each problem has one finding, with its meaning and a fix."""

from __future__ import annotations

import pytest

from proxy.monitoring.diagnosis import State, findings

PROBLEMS = {
    "rejects this service's credentials": State(upstream_errors=frozenset({"upstream_rejected"}), outage=True),
    "Amplitude is down": State(upstream_errors=frozenset({"upstream_unavailable"}), outage=True),
    "Some calls to Amplitude fail": State(upstream_errors=frozenset({"upstream_timeout"})),
    "differ from its documentation": State(upstream_errors=frozenset({"upstream_invalid"})),
    "no event of Braze Currents is delivered": State(currents_rejected=True),
    "Braze refuses the API key": State(braze_refused=True),
    "Braze's rate limit is reached": State(braze_paused=True),
    "1 forwarded object is uncertain": State(uncertain=1),
    "3 forwarded objects are uncertain": State(uncertain=3),
    "sync failed": State(sync_result="failed", sync_error="Braze returned status 401", sync_age=100_000),
    "sync is incomplete": State(sync_result="incomplete"),
    "27 hours ago": State(sync_result="complete", sync_age=27 * 3600),
    "429": State(quota_closed=True, quota_spent=True),
    "Quota used up": State(quota_spent=True),
    "Redis is unavailable": State(redis_unavailable=True, quota_spent=True),
    "Redis is full": State(redis_full=True),
    "The backlog is full": State(backlog_users=90, backlog_max=100),
    "removed from the backlog": State(dropped=1, backlog_max=100),
    "7 requests were refused": State(refused=7),
    "has expired: c31, c7": State(expired_snapshots=("c31", "c7")),
    "1 request was refused": State(refused=1),
    "20 % of the answers": State(profile_api=False, answers=100, not_available=20),
}


def test_findings__nothing_wrong__one_good_finding_without_a_fix() -> None:
    recent = State(sync_result="complete", sync_age=25.9 * 3600)
    for state in (State(), recent, State(profile_api=False, answers=1000, not_available=99)):
        (only,) = findings(state)
        assert (only.level, only.what, only.fix) == ("good", "All is well", "")
        assert ("quota" in only.meaning) is state.profile_api


@pytest.mark.contract("3 status")
@pytest.mark.parametrize(("words", "state"), PROBLEMS.items(), ids=PROBLEMS)
def test_findings__one_problem__one_finding_with_meaning_and_fix(words: str, state: State) -> None:
    (only,) = findings(state)
    assert words in only.what
    assert only.level in ("warn", "bad")
    assert only.meaning
    assert only.fix


def test_findings__several_problems__worst_first_and_no_all_clear() -> None:
    problems = findings(State(redis_full=True, quota_spent=True, draining=True))
    assert [finding.level for finding in problems] == ["bad", "warn", "warn"]


def test_findings__empty_cache__meaning_says_that_nothing_is_cached() -> None:
    assert "Nothing is cached" in findings(State(quota_spent=True, cached=False))[0].meaning
    assert "Cached users" in findings(State(quota_spent=True))[0].meaning


def test_findings__redis_unavailable_without_profile_api__meaning_names_no_calls() -> None:
    (only,) = findings(State(redis_unavailable=True, profile_api=False))
    assert "call" not in only.meaning
    assert "pushes fail" in only.meaning
