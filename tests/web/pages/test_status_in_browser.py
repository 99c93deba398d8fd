"""The status page in a real browser: it draws what happened, and says what is wrong and when it is mended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.serving import make_server

from proxy.profile.errors import UpstreamRejected
from tests.conftest import SECRET, Service
from tests.support.browser import Browser, Scheme
from tests.support.fakes import FakeClock, FakeSource

pytestmark = pytest.mark.slow

CHARTS = ("quota", "answers", "answer", "call", "backlog", "errors")
DRAWN = """
const texts = ["#answers-now", "#answers-of", "#errors-now", "#errors-legend", "#quota-now", "#quota-of"];
return {
  ...Object.fromEntries(texts.map((selector) => [selector, document.querySelector(selector).innerText.trim()])),
  bars: [..."abcd"].map((series) => document.querySelectorAll(`#answers .bar.${series}`).length),
  charts: arguments[0].map((chart) => document.querySelector(`#${chart} svg`)?.getAttribute("aria-label")),
};
"""


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


def words(browser: Browser, begin: str) -> str:
    """Return what is said to be wrong, as soon as it begins like this: the page is redrawn under our eyes."""

    def look() -> str | None:
        text = str(browser.driver.execute_script("return document.getElementById('findings').innerText"))
        return text if text.startswith(begin) else None

    return browser.until(look, begin)


def drawn(browser: Browser) -> dict[str, Any]:
    """Return what the page shows now, read at one moment."""
    text: dict[str, Any] = browser.driver.execute_script(DRAWN, CHARTS)
    return text


@pytest.fixture
def hurried(browser: Browser) -> Iterator[Browser]:
    """Return a window in whose pages a second is over in a fiftieth of one."""
    quick = "const real = window.setInterval; window.setInterval = (call, ms) => real(call, ms / 50);"
    devtools = browser.driver.execute_cdp_cmd
    added = devtools("Page.addScriptToEvaluateOnNewDocument", {"source": quick})
    yield browser
    browser.open("about:blank")  # it would go on to ask when nobody answers any more
    browser.errors()
    devtools("Page.removeScriptToEvaluateOnNewDocument", added)


@pytest.mark.contract("3 status")
def test_the_page_draws_the_last_hour_and_says_what_is_wrong_and_when_it_is_mended(
    app: Flask, url: str, source: FakeSource, clock: FakeClock, hurried: Browser
) -> None:
    browser = hurried
    open_status(browser, url)
    assert words(browser, "All is well")
    assert drawn(browser)["#answers-of"] == "nobody asked in the last hour"

    client = app.test_client()
    for number in range(20):
        client.get(f"/v1/cohorts?user_id=user-{number % 10}", headers={"X-API-Key": SECRET})
    source.fault = UpstreamRejected()
    client.get("/v1/cohorts?user_id=user-11", headers={"X-API-Key": SECRET})
    clock.advance(10)
    assert "AMPLITUDE_SECRET_KEY" in words(browser, "Amplitude rejects")
    page = browser.until(lambda: text if (text := drawn(browser))["#answers-now"] == "48 %" else None, "the share")
    assert (page["#errors-now"], page["#errors-legend"]) == ("1", "credentials rejected")
    assert (page["#quota-now"], page["#quota-of"]) == ("11", "of 600 calls used, 589 left this minute")
    assert page["bars"] == [1, 0, 1, 1]
    assert all(page["charts"])

    source.fault = None
    client.get("/v1/cohorts?user_id=user-12", headers={"X-API-Key": SECRET})
    clock.advance(70)
    assert words(browser, "All is well")
    assert browser.errors() == []
    hosts = {urlsplit(loaded).netloc.rpartition("@")[2] for loaded in browser.requested()}
    assert hosts == {urlsplit(url).netloc}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_status_page_fits_its_window(service: Service, browser: Browser, width: int, scheme: Scheme) -> None:
    browser.set_display(width=width, scheme=scheme)
    open_status(browser, service.url)
    browser.find("#errors svg")
    assert browser.problems(scheme) == []
