"""The pages of the real service in a real browser: content, layout and no blocked resources."""

from __future__ import annotations

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.conftest import SECRET, Service
from tests.support.browser import Browser, Scheme

pytestmark = pytest.mark.slow

OPERATION = "#operations-Data-getRecommendations"


@pytest.mark.contract("3 docs")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page__each_width_and_scheme__fits_without_problems(
    service: Service, browser: Browser, path: str, width: int, scheme: Scheme
) -> None:
    browser.set_display(width=width, scheme=scheme)
    browser.open(service.url + path)
    browser.find("h1, .info .title")
    if path == "/docs":
        browser.find(f"{OPERATION} .opblock-summary-control")
    assert browser.problems(scheme) == []
    assert all(url.startswith((service.url, "data:")) for url in browser.requested())


def authorize(browser: Browser) -> None:
    """Enter Basic credentials on the open page."""
    browser.press(".btn.authorize")
    browser.find("#auth-basic-username").send_keys("braze")
    browser.find("#auth-basic-password").send_keys(SECRET)
    basic = next(
        container
        for container in browser.all(".auth-container")
        if container.find_elements("id", "auth-basic-username")
    )
    basic.find_element("css selector", ".btn.authorize").click()
    browser.press(".btn.modal-btn.auth.btn-done")


def execute(browser: Browser, operation: str) -> tuple[str, dict[str, Any]]:
    """Execute an open operation with its prefilled form. Return the status and the body that the page shows."""
    browser.press(f"{operation} .btn.execute")
    live = f"{operation} .live-responses-table .response"
    status = browser.text(f"{live} .response-col_status").split()[0]
    return status, json.loads(browser.text(f"{live} .response-col_description .highlight-code code"))


@pytest.mark.contract("3 docs")
def test_docs__route_executed_with_basic_credentials__shows_the_answer(service: Service, browser: Browser) -> None:
    # The address may have credentials in it, for example after a link from the playground.
    browser.open(f"{service.url.replace('://', f'://braze:{SECRET}@')}/docs")
    authorize(browser)
    browser.press(f"{OPERATION} .opblock-summary-control")
    status, body = execute(browser, OPERATION)
    assert status == "200"
    assert body["ok"] is True
    assert body["user_id"] == "ava"
    assert body["items"] == ["trail-shoe", "rain-shell", "head-torch"]
    assert browser.errors() == []


@pytest.mark.parametrize("operation", ["#operations-Data-postProfile", "#operations-Drop-in-postUserprofile"])
def test_docs__prefilled_body_executed__200(service: Service, browser: Browser, operation: str) -> None:
    browser.open(f"{service.url}/docs")
    authorize(browser)
    browser.press(f"{operation} .opblock-summary-control")
    status, body = execute(browser, operation)
    assert status == "200"
    assert "trail-shoe" in json.dumps(body)
    assert browser.errors() == []


@pytest.mark.parametrize("operation", [OPERATION, "#operations-Data-postProfile"])
def test_docs__open_route_on_a_phone__fits_without_problems(service: Service, browser: Browser, operation: str) -> None:
    browser.set_display(width=390)
    browser.open(f"{service.url}/docs")
    browser.press(f"{operation} .opblock-summary-control")
    browser.find(f"{operation} .btn.execute")
    assert browser.problems("light") == []


@pytest.mark.contract("3 landing page")
def test_landing_page__keyboard_only__opens_the_docs(service: Service, browser: Browser) -> None:
    browser.open(f"{service.url}/")
    focused = []
    for _ in range(12):
        active = browser.driver.switch_to.active_element
        active.send_keys("\ue004")  # Tab
        active = browser.driver.switch_to.active_element
        focused.append(active.get_attribute("href"))
        if active.get_attribute("class") == "button quiet":
            break
    assert focused[0] == f"{service.url}/#main", "the first link skips the navigation"
    assert focused[-2:] == [f"{service.url}/playground", f"{service.url}/docs"]
    browser.driver.switch_to.active_element.send_keys("\ue007")  # Enter
    browser.find(OPERATION)
    assert browser.driver.current_url == f"{service.url}/docs"
    assert browser.errors() == []


def test_docs__keyboard_only__focus_is_outlined(service: Service, browser: Browser) -> None:
    browser.set_display(scheme="dark")  # in the dark scheme, Swagger UI removes most outlines
    browser.open(f"{service.url}/docs")
    browser.driver.execute_script("arguments[0].focus()", browser.find(f"{OPERATION} .opblock-summary-control"))
    styles, classes = set(), set()
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        script = "const e = document.activeElement; return [getComputedStyle(e).outlineStyle, e.className]"
        style, name = browser.driver.execute_script(script)
        styles.add(style)
        classes.add(name)
    assert "opblock-summary-control" in classes
    assert styles == {"solid"}


def test_browser_complaints__style_blocked_by_the_policy__reported(service: Service, browser: Browser) -> None:
    """Prove that the tests above can fail."""
    browser.open(f"{service.url}/")
    browser.driver.execute_script("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
    assert any("style-src" in complaint for complaint in browser.errors())
