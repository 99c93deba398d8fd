"""The pages in a real browser, before the real service: they show what they should, and nothing is blocked."""

from __future__ import annotations

import json

import pytest

from tests.browser import Browser, Scheme
from tests.conftest import SECRET, Service

OPERATION = "#operations-Data-getRecommendations"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_fits_its_window_and_has_nothing_to_complain_of(
    service: Service, browser: Browser, path: str, width: int, scheme: Scheme
) -> None:
    browser.dress(width=width, scheme=scheme)
    browser.open(service.url + path)
    browser.find("h1, .info .title")
    if path == "/docs":
        browser.find(f"{OPERATION} .opblock-summary-control")
    assert browser.complaints() == []
    assert all(url.startswith((service.url, "data:")) for url in browser.requested())
    inside = browser.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert inside, "the page can be scrolled sideways"
    ground = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 380) is (scheme == "light"), ground


def test_a_route_is_tried_on_the_page_with_basic_credentials(service: Service, browser: Browser) -> None:
    browser.open(f"{service.url}/docs")
    browser.press(".btn.authorize")
    browser.find("#auth-basic-username").send_keys("braze")
    browser.find("#auth-basic-password").send_keys(SECRET)
    basic = next(one for one in browser.all(".auth-container") if one.find_elements("id", "auth-basic-username"))
    basic.find_element("css selector", ".btn.authorize").click()
    browser.press(".btn.modal-btn.auth.btn-done")

    browser.press(f"{OPERATION} .opblock-summary-control")
    browser.press(f"{OPERATION} .btn.execute")
    live = f"{OPERATION} .live-responses-table .response"
    assert browser.find(f"{live} .response-col_status").text.split()[0] == "200"
    shown = json.loads(browser.find(f"{live} .response-col_description .highlight-code code").text)
    assert shown["ok"] is True
    assert shown["user_id"] == "ava"
    assert shown["items"] == ["trail-shoe", "rain-shell", "head-torch"]
    assert browser.complaints() == []


def test_the_first_page_leads_to_the_docs_by_keyboard(service: Service, browser: Browser) -> None:
    browser.open(f"{service.url}/")
    focused = []
    for _ in range(12):
        active = browser.driver.switch_to.active_element
        active.send_keys("\ue004")  # Tab
        active = browser.driver.switch_to.active_element
        focused.append(active.get_attribute("href"))
        if active.get_attribute("class") == "button":
            break
    assert focused[0] == f"{service.url}/#main", "the first stop skips the navigation"
    assert focused[-1] == f"{service.url}/docs"
    browser.driver.switch_to.active_element.send_keys("\ue007")  # Enter
    browser.find(OPERATION)
    assert browser.driver.current_url == f"{service.url}/docs"
    assert browser.complaints() == []


def test_what_a_policy_blocks_is_a_complaint(service: Service, browser: Browser) -> None:
    """Show that the tests above can fail."""
    browser.open(f"{service.url}/")
    browser.driver.execute_script("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
    assert any("style-src" in complaint for complaint in browser.complaints())
