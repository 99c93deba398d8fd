"""The status page and the playground of a service without the User Profile API, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import requests

from proxy.sandbox.server import Sandbox
from tests.conftest import SECRET, Service
from tests.support.browser import Browser

pytestmark = pytest.mark.slow


def test_pages__profile_api_off__no_quota_cards_and_words_that_fit(
    start_service: Callable[..., Service], sandbox: Sandbox, browser: Browser
) -> None:
    service = start_service(sandbox, AMPLITUDE_PROFILE_API="off", CACHE_PUSHED_SECONDS="60")
    user = {"user_id": "ava", "event_time": time.time() - 70, "whole": True, "user_properties": {"first_name": "Ava"}}
    webhook = f"{service.url}/v1/webhooks/amplitude/users"
    assert requests.post(webhook, json=user, headers={"X-API-Key": SECRET}, timeout=10).json()["applied"] == 1

    signed_in = service.url.replace("://", f"://braze:{SECRET}@")
    browser.open(f"{signed_in}/status")
    browser.find("#updated.good")
    visible = (
        "return [...document.querySelectorAll('.plot h2')].filter((h2) => h2.offsetParent).map((h2) => h2.innerText)"
    )
    titles = ["Answers from the cache", "Response time", "Answers with missing data"]
    assert browser.driver.execute_script(visible) == titles
    assert "makes no calls" in browser.text("#profile-api-off")
    assert "User Profile API is off" in browser.text("#findings")
    assert browser.errors() == []

    browser.open(f"{signed_in}/playground")

    def shows(source: str) -> bool:
        # The words are in a closed disclosure.
        return source in str(browser.find("#tags").get_property("textContent"))

    for user_id, source in (
        ("ava", "From the cache, 1 minute old, no longer fresh, no call"),
        ("ben", "No data: nothing was pushed or exported about this user, no call"),
    ):
        browser.find("#user").clear()
        browser.find("#user").send_keys(user_id)
        browser.press("#render")
        browser.until(partial(shows, source), source)
    browser.driver.execute_script("document.getElementById('editor').shadowRoot.querySelector('.cm-content').focus()")
    browser.driver.execute_cdp_cmd("Input.insertText", {"text": "/v1/recommendations?rec_id=a"})
    assert browser.driver.execute_script("return document.getElementById('will-expose').hidden")
    assert browser.errors() == []
