"""What is wrong is said in plain words, each with what to do."""

from __future__ import annotations

import pytest

from proxy.monitoring.diagnosis import State, findings

FAULTS = {
    "rejects this service's credentials": State(upstream_errors=frozenset({"upstream_rejected"}), outage=True),
    "Amplitude is failing": State(upstream_errors=frozenset({"upstream_unavailable"}), outage=True),
    "Some calls to Amplitude fail": State(upstream_errors=frozenset({"upstream_timeout"})),
    "does not document": State(upstream_errors=frozenset({"upstream_invalid"})),
    "(429)": State(quota_closed=True, quota_spent=True),
    "The quota is spent just now": State(quota_spent=True),
    "Redis is gone": State(redis_gone=True),
    "The backlog is full": State(backlog_users=90, backlog_max=100),
    "leave the backlog unserved": State(dropped=1, backlog_max=100),
    "7 requests were refused": State(refused=7),
    "1 request was refused": State(refused=1),
}


def test_when_nothing_is_wrong_it_says_so_and_there_is_nothing_to_mend() -> None:
    (only,) = findings(State())
    assert (only.level, only.what, only.mend) == ("good", "All is well", "")


@pytest.mark.contract("3 status")
@pytest.mark.parametrize(("words", "state"), FAULTS.items(), ids=FAULTS)
def test_a_fault_is_named_alone_with_what_it_means_and_how_to_mend_it(words: str, state: State) -> None:
    (only,) = findings(state)
    assert words in only.what
    assert only.level in ("warn", "bad")
    assert only.meaning
    assert only.mend


def test_the_worst_comes_first_and_all_is_well_is_not_said_beside_it() -> None:
    found = findings(State(redis_gone=True, quota_spent=True, draining=True))
    assert [finding.level for finding in found] == ["bad", "warn", "warn"]


def test_what_everybody_gets_depends_on_whether_anything_is_kept() -> None:
    assert "Nothing is kept yet" in findings(State(quota_spent=True, kept=False))[0].meaning
    assert "get that" in findings(State(quota_spent=True))[0].meaning
