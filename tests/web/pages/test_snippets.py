"""The shipped snippets: python-liquid and Ruby's Liquid render the same messages, also when Amplitude fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from proxy.cli.client import running_service
from proxy.liquid import scanner, tag_syntax
from proxy.liquid.lint import message
from proxy.liquid.types import Ask
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.web.pages.playground import snippets
from tests.conftest import SECRET, Service
from tests.support import liquid

SNIPPETS = snippets()
EXPECTED = {
    "Products picked for the user": {
        "ava": "Chosen for you:\n- trail-shoe\n- rain-shell\n- head-torch",
        "ben": "Our bestsellers:\n- see them all at example.com/bestsellers",
    },
    "Greeting with first name and points": {
        "ava": "Hi Ava!\nYou have 420 points to spend.",
        "ben": "Hi Ben!",
        "stranger": "Hi there!",
        "": "Hi there!",
    },
    "Different text for members of a cohort": {"ava": "Your VIP code: FASTLANE", "ben": "Join our VIP club"},
    "Thanks for the number of orders": {"ava": "Thank you for 12 orders!", "ben": "Welcome! Here is how it works."},
    "Urgent text for likely buyers": {"ava": "Before it is gone", "cleo": "Have a look"},
    "Name membership and products with one tag": {
        "ava": "Ava (VIP),\n- trail-shoe\n- rain-shell\n- head-torch",
        "ben": "Ben,\n- our bestseller",
    },
    "No message without recommendations": {
        "ava": "Chosen for you: trail-shoe, rain-shell, head-torch",
        "ben": "Our bestsellers",
    },
    "Retry without recommendations": {
        "ava": "Chosen for you: trail-shoe, rain-shell, head-torch",
        "ben": "Our bestsellers",
    },
    "User id in the body instead of the address": {
        "ava": "Chosen for you: trail-shoe, rain-shell, head-torch",
        "dário & söhne": "Chosen for you: item, with comma, ítem/ünïcode",
    },
}
USERS = ("ava", "ben", "cleo", "dário & söhne", "stranger to all", "user-7", "")


@pytest.fixture(scope="module")
def failing(start_module_service: Callable[..., Service]) -> Iterator[Ask]:
    with Sandbox() as sandbox:
        sandbox.break_with(Fault("status", status=500))
        yield running_service(start_module_service(sandbox).url, f"braze:{SECRET}")


@pytest.fixture
def ask(service: Service) -> Ask:
    return running_service(service.url, f"braze:{SECRET}")


def test_snippets__all__have_expected_messages_and_cover_every_route() -> None:
    assert list(EXPECTED) == list(SNIPPETS)
    routes = {name for text in SNIPPETS.values() for name in re.findall(r"/v1/(\w+)", text)}
    assert routes == tag_syntax.ROUTES - {"userprofile"}


@pytest.mark.parametrize("title", SNIPPETS)
def test_snippet__linted__no_problem(title: str) -> None:
    found = message.findings(SNIPPETS[title], scanner.markups(SNIPPETS[title]))
    assert [finding for finding in found if finding.level == "problem"] == []


@pytest.mark.parametrize(("title", "user"), [(title, user) for title, users in EXPECTED.items() for user in users])
def test_snippet__each_engine__expected_message(ask: Ask, engine: liquid.Engine, title: str, user: str) -> None:
    assert engine(SNIPPETS[title], user, ask).strip() == EXPECTED[title][user]


@pytest.mark.contract("3 playground")
@pytest.mark.parametrize("title", SNIPPETS)
def test_snippet__every_user__both_engines_render_the_same(ask: Ask, ruby: liquid.Engine, title: str) -> None:
    for user in USERS:
        assert liquid.python(SNIPPETS[title], user, ask) == ruby(SNIPPETS[title], user, ask), user


@pytest.mark.parametrize("title", SNIPPETS)
def test_snippet__amplitude_fails__default_message_or_abort(failing: Ask, engine: liquid.Engine, title: str) -> None:
    sent = engine(SNIPPETS[title], "ava", failing).strip()
    if title == "No message without recommendations":
        assert sent == "aborted: the recommendations are missing"
    else:
        assert re.match(r"Our bestsellers|Hi there!|Join our|Welcome!|Have a look|Hello,", sent), sent
