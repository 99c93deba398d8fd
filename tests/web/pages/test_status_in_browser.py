"""The status page in a real browser: its charts, and its findings during a fault and after the fix."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.serving import make_server

from proxy.app import create_app
from proxy.profile.errors import UpstreamRejected
from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings
from proxy.web.services import installed
from tests.conftest import KEYS, SECRET, Service, free_port
from tests.support.browser import Browser, Scheme
from tests.support.fakes import FakeClock, FakeSource
from tests.support.wait import until

pytestmark = pytest.mark.slow

CHARTS = ("quota", "answers", "answer", "call", "backlog", "errors")
PAGE_CONTENT = """
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


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve the application over HTTP, and yield its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """Serve the application over HTTP. The test advances its clock."""
    with serving(app) as url:
        yield url


def open_status(browser: Browser, url: str) -> None:
    browser.open(url.replace("://", f"://braze:{SECRET}@") + "/status")
    browser.find("#updated.good")


def findings_text(browser: Browser, begin: str) -> str:
    """Wait until the text of the findings starts with `begin`, and return it. The page updates itself."""

    def look() -> str | None:
        text = str(browser.driver.execute_script("return document.getElementById('findings').innerText"))
        return text if text.startswith(begin) else None

    return browser.until(look, begin)


def page_content(browser: Browser) -> dict[str, Any]:
    """Return the texts and charts of the page, all read at the same moment."""
    text: dict[str, Any] = browser.driver.execute_script(PAGE_CONTENT, CHARTS)
    return text


@pytest.fixture
def fast_browser(browser: Browser) -> Iterator[Browser]:
    """Return a browser whose pages run their intervals 50 times faster."""
    quick = "const real = window.setInterval; window.setInterval = (call, ms) => real(call, ms / 50);"
    devtools = browser.driver.execute_cdp_cmd
    added = devtools("Page.addScriptToEvaluateOnNewDocument", {"source": quick})
    yield browser
    browser.open("about:blank")  # otherwise the page would send requests to a stopped server
    browser.errors()
    devtools("Page.removeScriptToEvaluateOnNewDocument", added)


@pytest.mark.contract("3 status")
def test_status_page__fault_then_fix__charts_and_findings_follow(
    app: Flask, url: str, source: FakeSource, clock: FakeClock, fast_browser: Browser
) -> None:
    browser = fast_browser
    open_status(browser, url)
    assert findings_text(browser, "All is well")
    assert page_content(browser)["#answers-of"] == "no answers in the last hour"
    assert browser.text("#callers") == "braze: admin"

    client = app.test_client()
    warming = {"X-API-Key": SECRET, "Priority": "u=7"}
    client.get("/v1/cohorts?user_id=", headers=warming)
    for number in range(20):
        client.get(f"/v1/cohorts?user_id=user-{number % 10}", headers={"X-API-Key": SECRET})
    source.fault = UpstreamRejected()
    client.get("/v1/cohorts?user_id=user-11", headers={"X-API-Key": SECRET})
    clock.advance(10)
    assert "AMPLITUDE_SECRET_KEY" in findings_text(browser, "Amplitude rejects")
    page = browser.until(
        lambda: text if (text := page_content(browser))["#answers-now"] == "48 %" else None, "the share"
    )
    assert (page["#errors-now"], page["#errors-legend"]) == ("1", "credentials rejected")
    assert page["#answers-of"] == "of 21 answers in the last hour, not counting 1 background request of warm"
    assert (page["#quota-now"], page["#quota-of"]) == ("11", "of 600 calls used, 589 left this minute")
    assert page["bars"] == [1, 0, 1, 1]
    assert all(page["charts"])

    source.fault = None
    client.get("/v1/cohorts?user_id=user-12", headers={"X-API-Key": SECRET})
    clock.advance(70)
    assert findings_text(browser, "All is well")
    assert browser.errors() == []
    hosts = {urlsplit(loaded).netloc.rpartition("@")[2] for loaded in browser.requested()}
    assert hosts == {urlsplit(url).netloc}


@pytest.mark.contract("3 status")
@pytest.mark.parametrize("width", [375, 1280])
def test_status_page__snapshots__each_has_its_age_and_fits(
    app: Flask, url: str, clock: FakeClock, browser: Browser, width: int
) -> None:
    browser.set_display(width=width)
    open_status(browser, url)
    assert not browser.all("#snapshots-card")[0].is_displayed()
    headers = {"X-API-Key": SECRET, "Content-Type": "application/x-ndjson"}
    now = clock.now()
    clock.advance(-86_500)
    longest = "c" * 512
    for cohort, members, age in (("c31", 1, 86_450), ("c7", 1200, 80_000), (longest, 3, 18_000), ("vip", 2, 30)):
        clock.advance(now - age - clock.now())
        lines = "".join(f'"user-{number}"\n' for number in range(members))
        answer = app.test_client().put(f"/v1/snapshots/{cohort}", data=lines, headers=headers)
        assert answer.status_code == 200
    clock.advance(now - clock.now())
    open_status(browser, url)
    browser.find("#snapshots-card")
    texts = [" ".join(item.text.split()) for item in browser.all("#snapshots li")]
    assert texts[:3] == [
        "c31: 1 member, 24 hours old expired",
        "c7: 1,200 members, 22 hours old expires in 2 hours",
        f"{longest}: 3 members, 5 hours old expires in 19 hours",
    ]
    assert [badge.get_attribute("class") for badge in browser.all("#snapshots .badge")] == [
        "badge bad",
        "badge warn",
        "badge good",
        "badge good",
    ]
    assert browser.problems("light") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_status_page__each_width_and_scheme__fits_without_problems(
    service: Service, browser: Browser, width: int, scheme: Scheme
) -> None:
    browser.set_display(width=width, scheme=scheme)
    open_status(browser, service.url)
    browser.find("#errors svg")
    assert browser.problems(scheme) == []


def test_status_page__started_two_minutes_ago__charts_begin_with_the_data(
    app: Flask, url: str, clock: FakeClock, browser: Browser
) -> None:
    open_status(browser, url)
    history = installed(app).history
    for minutes, axis in ((2, "5 minutes ago"), (30, "32 minutes ago"), (60, "1 hour ago")):
        for _ in range(minutes * 6):
            app.test_client().get("/v1/cohorts?user_id=u", headers={"X-API-Key": SECRET})
            clock.advance(10)
            history.tick()
        # The page uses its own clock.
        browser.driver.execute_script(
            "const now = arguments[0]; Date.now = () => now * 1000; return update()", clock.now()
        )
        texts = [text.text for text in browser.all("#answers svg text")]
        assert texts[-2:] == [axis, "now"]
    assert browser.all("#quota .limit") == [], "a limit far above the data would flatten the line"


def test_status_page__redis_unavailable__card_says_that_no_call_is_sent(
    start_service: Callable[..., Service], sandbox: Sandbox, browser: Browser
) -> None:
    service = start_service(sandbox, REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    until(lambda: service.get("/readyz").json()["redis"] == "gone", "the service did not notice that Redis is missing")
    open_status(browser, service.url)
    card = page_content(browser)["#quota-of"]
    assert card == "of 600 calls used. No call is sent now, because Redis is unavailable"


@pytest.mark.contract("3 status")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_status_page__directions__cards_have_state_and_reason_and_fit(
    braze_sandbox: Sandbox, source: FakeSource, browser: Browser, width: int, scheme: Scheme
) -> None:
    settings = {
        "AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "FORWARD_EVENTS": "*",
        "BRAZE_REST_ENDPOINT": braze_sandbox.url, "BRAZE_API_KEY": braze_sandbox.braze.key,
    }  # fmt: skip
    app = create_app(Settings.from_env(settings), fetch=source.fetch)
    braze_sandbox.braze.faults.set(Fault("no-permission", times=1))
    event = {"user_id": "ava", "event_type": "Order", "uuid": "1"}
    app.test_client().post("/v1/webhooks/amplitude/users", json=event, headers={"X-API-Key": SECRET})
    browser.set_display(width=width, scheme=scheme)
    with serving(app) as url:
        open_status(browser, url)
        assert browser.text("#event-stream .badge") == "Braze refuses the API key"
        assert "users.track" in browser.text("#event-stream")
        assert not browser.all("#currents-card")[0].is_displayed()
        assert not browser.all("#sync-card")[0].is_displayed()
        assert browser.problems(scheme) == []
        assert browser.errors() == []
        browser.open("about:blank")
