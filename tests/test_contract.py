"""Each paragraph of the contract has a test, and random requests get answers that keep its promises."""

from __future__ import annotations

import re

import pytest

from tests.bench import random_requests
from tests.support.contract import PARAGRAPHS
from tests.support.service import ROOT, Service


def test_contract__each_paragraph__is_named_by_a_test() -> None:
    named = re.compile(r'^@pytest\.mark\.contract\("([^"]+)"\)$', re.M)
    files = (ROOT / "tests").rglob("test_*.py")
    marked = {name for file in files for name in named.findall(file.read_text(encoding="utf-8"))}
    assert marked == PARAGRAPHS.keys()


@pytest.mark.parametrize("seed", [1, 2])
def test_service__random_requests__no_unexpected_5xx_and_no_missing_key(service: Service, seed: int) -> None:
    """The short form of `python -m tests.bench.random_requests`."""
    dice = random_requests.Dice(seed)
    _, port = service.address
    answered = 0
    for _ in range(400):
        route, request = dice.request()
        status, headers, body = random_requests.exchange(port, request)
        assert random_requests.fault_in(route, request, status, headers, body) is None, request
        answered += status == 200
    assert answered > 50, "most requests must be nearly valid, or they test nothing"
