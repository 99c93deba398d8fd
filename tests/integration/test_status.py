"""The status page in a real browser: it draws what happened, and says what is wrong and when it is mended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.serving import make_server

from proxy.errors import UpstreamRejected
from tests.browser import Browser, Scheme
from tests.conftest import SECRET, Service
from tests.fakes import FakeClock, FakeSource

CHARTS = ("quota", "answers", "answer", "call", "backlog", "errors")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """Serve the application, whose clock the test moves, over HTTP."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


def open_status(browser: Browser, url: str) -> None:
    browser.open(url.replace("://", f"://braze:{SECRET}@") + "/status")
    browser.find("#looked.good")


def words(browser: Browser) -> str:
    return browser.find("#findings .notice").text


def test_the_page_draws_the_last_hour_and_says_what_is_wrong_and_when_it_is_mended(
    app: Flask, url: str, source: FakeSource, clock: FakeClock, browser: Browser
) -> None:
    open_status(browser, url)
    assert words(browser).startswith("All is well")
    assert browser.find("#answers-of").text == "nobody asked in the last hour"

    client = app.test_client()
    for number in range(20):
        client.get(f"/v1/cohorts?user_id=user-{number % 10}", headers={"X-API-Key": SECRET})
    source.fault = UpstreamRejected()
    client.get("/v1/cohorts?user_id=user-11", headers={"X-API-Key": SECRET})
    clock.advance(10)
    open_status(browser, url)
    assert words(browser).startswith("Amplitude rejects")
    assert "AMPLITUDE_SECRET_KEY" in words(browser)
    assert browser.find("#answers-now").text == "48 %"
    assert browser.find("#errors-now").text == "1"
    assert [one.text for one in browser.all("#errors-legend li")] == ["credentials rejected"]
    assert [len(browser.all(f"#answers .bar.{series}")) for series in "abcd"] == [1, 0, 1, 1]
    assert browser.find("#quota-now").text == "11"
    for chart in CHARTS:
        assert browser.find(f"#{chart} svg").get_attribute("aria-label")

    source.fault = None
    client.get("/v1/cohorts?user_id=user-12", headers={"X-API-Key": SECRET})
    clock.advance(70)
    open_status(browser, url)
    assert words(browser).startswith("All is well")
    assert browser.complaints() == []
    asked = {urlsplit(one).netloc.rpartition("@")[2] for one in browser.requested()}
    assert asked == {urlsplit(url).netloc}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_status_page_fits_its_window(service: Service, browser: Browser, width: int, scheme: Scheme) -> None:
    browser.dress(width=width, scheme=scheme)
    open_status(browser, service.url)
    browser.find("#errors svg")
    assert browser.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    ground = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 380) is (scheme == "light")
    assert browser.complaints() == []
