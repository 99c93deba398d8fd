"""The playground of the real service, in a real browser."""

from __future__ import annotations

from typing import get_args
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from tests.conftest import SECRET, Service
from tests.support import picture
from tests.support.browser import Browser, Scheme

pytestmark = pytest.mark.slow

BROKEN = (
    "{% connected_content http://h/v1/properties?user_id={{${user_id}}} :basic_auth us :save p %}\n"
    "Hi {{ p.gp:first_name }}"
)

STOP = """
const focused = document.activeElement;
const style = getComputedStyle(focused);
const name = focused.labels?.[0]?.textContent || focused.getAttribute("aria-label") || focused.textContent;
const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
return {id: focused.id, name: name.trim(), outline: visible};
"""


def open_playground(browser: Browser, service: Service) -> None:
    browser.open(service.url.replace("://", f"://braze:{SECRET}@") + "/playground")
    browser.find("#template")


def write(browser: Browser, message: str) -> None:
    browser.driver.execute_script("arguments[0].value = ''", browser.find("#template"))
    browser.find("#template").send_keys(message)


def rendered_message(browser: Browser, word: str = "sent") -> str:
    browser.until(lambda: browser.find("#outcome").text == word, f"outcome {word}")
    return str(browser.driver.execute_script("return document.getElementById('message').textContent")).strip()


@pytest.mark.contract("3 playground access")
def test_playground__message_edited__rendered_message_changes(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    assert browser.find("#will-expose").text.startswith("This message requests a recommendation")
    browser.find("#user").send_keys("ava")
    browser.press("#render")
    assert rendered_message(browser).startswith("Chosen for you:\n- trail-shoe")
    card = browser.find(".call").text
    for text in ("GET /v1/recommendations", "recs", "status 200", "to Amplitude", "Exposure", '"trail-shoe"', " ms"):
        assert text in card
    assert "from the cache, " in card or "fetched from Amplitude" in card

    write(browser, BROKEN)
    assert not browser.driver.find_element("id", "will-expose").is_displayed()
    browser.press("#render")
    browser.until(lambda: browser.all("[data-rule=unescaped]"), "the findings")
    assert rendered_message(browser) == "Hi"
    rules = [item.get_attribute("data-rule") for item in browser.all(".findings li")]
    assert sorted(map(str, rules)) == ["insecure", "syntax", "unescaped", "unsafe-name"]
    browser.press("[data-rule=unsafe-name] .line")
    script = "const e = document.activeElement; return e.value.slice(e.selectionStart, e.selectionEnd)"
    assert browser.driver.execute_script(script) == "Hi {{ p.gp:first_name }}"

    write(browser, BROKEN.replace("gp:", "properties.").replace("http:", "https:") + "!{% abort_message('enough') %}")
    browser.press("#render")
    assert rendered_message(browser, "aborted") == ""
    assert browser.find("#reason").text == "aborted: enough"
    assert browser.errors() == []
    hosts = {urlsplit(url).netloc.rpartition("@")[2] for url in browser.requested()}
    assert hosts == {urlsplit(service.url).netloc}


def test_playground__keyboard_only__snippet_is_chosen_and_rendered(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    browser.driver.execute_script("document.getElementById('user').focus()")
    active = browser.driver.switch_to.active_element
    active.send_keys("ben\ue004")  # Tab, to the device
    browser.driver.switch_to.active_element.send_keys("\ue004")
    browser.driver.switch_to.active_element.send_keys("Greeting")
    assert "/v1/recommendations?" in str(browser.find("#template").get_property("value")), (
        "selecting a snippet does not load it"
    )
    browser.driver.switch_to.active_element.send_keys("\ue004")
    browser.driver.switch_to.active_element.send_keys(" ")  # Load
    assert "/v1/properties?" in str(browser.find("#template").get_property("value"))
    browser.driver.switch_to.active_element.send_keys("\ue009\ue007")  # Ctrl Enter
    assert rendered_message(browser) == "Hi Ben!"
    assert browser.errors() == []


def test_playground__copy_pressed__clipboard_has_the_message_unchanged(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    message = str(browser.find("#template").get_property("value"))
    assert "https://your-host/v1/recommendations?" in message
    browser.press("#copy")
    browser.until(lambda: browser.find("#copied").text == "copied", "copied")
    write(browser, "")
    browser.find("#template").send_keys(Keys.CONTROL, "v")
    browser.until(lambda: browser.find("#template").get_property("value") == message, "the copied message")
    assert browser.errors() == []


def test_playground__tab_key__controls_in_order_named_and_outlined(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    browser.find("#user").send_keys("ava")
    browser.press("#render")
    rendered_message(browser)
    browser.driver.execute_script("document.getElementById('user').focus()")
    stops = []
    for _ in range(9):
        stops.append(browser.driver.execute_script(STOP))
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert [stop["id"] for stop in stops] == [
        *("user", "device", "snippet", "load", "template", "render", "copy", "message"),
        "",  # the line of the first tag
    ]
    assert all(stop["name"] and stop["outline"] for stop in stops), stops


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_playground__each_width_and_scheme__fits_and_shows_the_message(
    service: Service, browser: Browser, width: int, scheme: Scheme
) -> None:
    browser.set_display(width=width, scheme=scheme)
    open_playground(browser, service)
    browser.find("#user").send_keys("ava")
    browser.press("#render")
    rendered_message(browser)
    top = browser.driver.execute_script("return document.getElementById('result').getBoundingClientRect().top")
    assert top < 600, "the result must be visible without scrolling"
    assert browser.problems(scheme) == []


def test_playground__markup_in_message_and_user_id__shown_as_text(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    write(browser, "<img src=x onerror='window.broken = 1'>{{${user_id}}}")
    browser.find("#user").send_keys("<script>window.broken = 1</script>")
    browser.press("#render")
    assert rendered_message(browser) == "<img src=x onerror='window.broken = 1'><script>window.broken = 1</script>"
    assert browser.driver.execute_script("return window.broken") is None
    assert browser.errors() == []


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_readme_picture__new_and_stored__webp_below_200_kb(service: Service, browser: Browser, scheme: Scheme) -> None:
    new_picture = picture.take(browser, service.url.replace("://", f"://braze:{SECRET}@"), scheme)
    stored_picture = (picture.FOLDER / picture.name(scheme)).read_bytes()
    assert new_picture[:4] == stored_picture[:4] == b"RIFF"
    assert new_picture[8:12] == stored_picture[8:12] == b"WEBP"
    assert max(len(new_picture), len(stored_picture)) < 200_000
