"""The table of promises in CONTRACT.md names tests that exist; and random requests keep the promises."""

from __future__ import annotations

import re

import pytest

from tests.bench import random_requests
from tests.conftest import ROOT, Service


def test_every_promise_names_tests_that_exist() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    rows = [line for line in (ROOT / "tests" / "CONTRACT.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 40
    for row in rows[1:]:
        if "---" not in row:
            named = re.findall(r"`(test_\w+)`", row)
            assert named, row
            assert set(named) <= defined, row


@pytest.mark.parametrize("seed", [1, 2])
def test_random_requests_meet_no_unpromised_5xx_and_no_missing_key(service: Service, seed: int) -> None:
    """The short form of `python -m tests.bench.random_requests`."""
    dice = random_requests.Dice(seed)
    port = int(service.url.rpartition(":")[2])
    answered = 0
    for _ in range(400):
        route, request = dice.request()
        status, headers, body = random_requests.exchange(port, request)
        assert random_requests.fault_in(route, request, status, headers, body) is None, request
        answered += status == 200
    assert answered > 50, "most requests must be nearly right, or nothing is tried"
