"""The playground of the real service, in a real browser."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from proxy.sandbox.server import Sandbox
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
const inner = focused.shadowRoot?.activeElement;
const style = getComputedStyle(focused);
const name = focused.labels?.[0]?.textContent || (inner ?? focused).getAttribute("aria-label") || focused.textContent;
const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
return {id: focused.id, name: name.trim(), outline: visible};
"""


def open_playground(browser: Browser, service: Service, fragment: str = "") -> None:
    """Open the page with an empty session."""
    url = service.url.replace("://", f"://braze:{SECRET}@")
    browser.open(url + "/healthz")
    browser.driver.execute_script("sessionStorage.clear()")
    browser.open(url + "/playground" + fragment)
    browser.until(lambda: text(browser), "the editor")


def in_editor(browser: Browser, script: str) -> Any:
    """Return the value of `script`, in which `root` is the shadow root of the editor."""
    return browser.driver.execute_script(f"const root = document.getElementById('editor').shadowRoot; return {script}")


def text(browser: Browser) -> str:
    lines = in_editor(browser, "[...root?.querySelectorAll('.cm-line') ?? []].map((line) => line.textContent)")
    return "\n".join(lines)


def is_changed(browser: Browser, before: str) -> bool:
    return text(browser) != before


def press_in_editor(browser: Browser, *keys: str) -> None:
    """Focus the editor, and press keys. A first Ctrl is held. selenium's send_keys would move the cursor."""
    in_editor(browser, "root.querySelector('.cm-content').focus()")
    actions = ActionChains(browser.driver)
    if keys[0] == Keys.CONTROL:
        actions.key_down(Keys.CONTROL).send_keys(*keys[1:]).key_up(Keys.CONTROL)
    else:
        actions.send_keys(*keys)
    actions.perform()


def write(browser: Browser, message: str) -> None:
    press_in_editor(browser, Keys.CONTROL, "a")
    press_in_editor(browser, Keys.DELETE)
    browser.driver.execute_cdp_cmd("Input.insertText", {"text": message})


def rendered_message(browser: Browser, word: str = "sent") -> str:
    browser.until(lambda: browser.text("#outcome").partition(",")[0] == word, f"outcome {word}")
    return str(browser.driver.execute_script("return document.getElementById('message').textContent")).strip()


@pytest.mark.contract("3 playground access")
def test_playground__message_edited__rendered_message_changes(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    assert browser.text("#will-expose").startswith("This message requests a recommendation")
    browser.find("#user").send_keys("ava")
    browser.press("#render")
    assert rendered_message(browser).startswith("Chosen for you:\n- trail-shoe")
    assert browser.text(".call") == "recs from /v1/recommendations", "the details are closed"
    browser.press(".call summary")
    card = browser.text(".call")
    for words in ("GET https://your-host/v1/recommendations", " ms.", "Amplitude was ", '"trail-shoe"'):
        assert words in card
    assert "From the cache, " in card or "Fetched from Amplitude, " in card

    write(browser, BROKEN)
    assert not browser.driver.find_element("id", "will-expose").is_displayed()
    browser.press("#render")
    browser.until(lambda: browser.all("[data-rule=unescaped]"), "the findings")
    assert rendered_message(browser) == "Hi"
    assert browser.find("#outcome").get_attribute("class") == "badge warn", "green only without problems"
    rules = [item.get_attribute("data-rule") for item in browser.all(".findings li")]
    assert {"insecure", "unescaped", "unsafe-name"} <= set(rules)
    assert in_editor(browser, "root.querySelectorAll('.cm-lintRange').length") > 0
    browser.press("[data-rule=unsafe-name] .line")
    assert browser.driver.execute_script("return getSelection().toString()") == ".gp:first_name"

    write(browser, BROKEN.replace("gp:", "properties.").replace("http:", "https:") + "!{% abort_message('enough') %}")
    browser.press("#render")
    assert rendered_message(browser, "aborted") == ""
    assert browser.text("#reason") == "aborted: enough"
    assert browser.errors() == []
    hosts = {urlsplit(url).netloc.rpartition("@")[2] for url in browser.requested()}
    assert hosts == {urlsplit(service.url).netloc}


def test_playground__recommendation_typed__no_call_to_amplitude(
    start_service: Callable[..., Service], browser: Browser
) -> None:
    with Sandbox() as sandbox:
        service = start_service(sandbox)
        open_playground(browser, service)
        browser.find("#user").send_keys("ava")
        tag = "{% connected_content https://h/v1/recommendations?user_id={{${user_id} | url_param_escape}}&rec_id="
        write(browser, tag)
        for part in ("home", "page", " :save recs %}", "{{ recs.items[0] }}"):
            press_in_editor(browser, part)
            browser.until(lambda: browser.find("#result").get_attribute("class"), "the rendering")
            time.sleep(0.6)  # longer than the pause after which the page renders
        assert rendered_message(browser, "press Render") == ""
        assert "press Render" in browser.text(".call")
        assert sandbox.calls == []

        browser.press("#render")
        assert rendered_message(browser) == "trail-shoe"
        assert len(sandbox.calls) == 1
        press_in_editor(browser, Keys.CONTROL, Keys.END)
        press_in_editor(browser, " and {{ recs.items[1] }}")
        browser.until(lambda: rendered_message(browser) == "trail-shoe and rain-shell", "the typed message")
        browser.find("#user").send_keys("2")
        assert rendered_message(browser, "press Render") == "and"
        assert len(sandbox.calls) == 1
        assert browser.errors() == []


def test_demo__opened__rendered_for_the_first_user_and_chips_switch(
    start_service: Callable[..., Service], sandbox: Sandbox, browser: Browser
) -> None:
    service = start_service(sandbox, PLAYGROUND_DEMO_USERS="ava,ben")
    open_playground(browser, service)
    assert rendered_message(browser).startswith("Chosen for you:\n- trail-shoe")
    assert browser.find("#user").get_property("value") == "ava"
    browser.press("#chips li:nth-child(2) button")
    browser.until(lambda: rendered_message(browser).startswith("Our bestsellers"), "the message of ben")
    assert [chip.get_attribute("aria-pressed") for chip in browser.all("#chips button")] == ["false", "true"]
    assert browser.driver.switch_to.active_element.text == "ben", "the chip keeps the focus"
    write(browser, "Hi {{${user_id}}}!")
    browser.until(lambda: rendered_message(browser) == "Hi ben!", "the typed message")
    assert browser.errors() == []


def test_playground__finding_with_a_fix__applied_with_one_click(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    # A character outside of the basic plane: the service counts one character, and the browser two units.
    write(browser, "😀 {% connected_content http://h/v1/cohorts?user_id={{${user_id}}} :save c %}😀")
    browser.until(lambda: len(browser.all(".findings .apply")) == 2, "two fixes")
    for _ in range(2):
        before = text(browser)
        browser.press(".findings .apply")
        browser.until(partial(is_changed, browser, before), "the fix")
    fixed = "😀 {% connected_content https://h/v1/cohorts?user_id={{${user_id} | url_param_escape}} :save c %}😀"
    assert text(browser) == fixed
    assert browser.errors() == []


def test_playground__value_selected__inserted_at_the_cursor(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    browser.find("#user").send_keys("ava")
    write(browser, "{% connected_content https://h/v1/properties?user_id={{${user_id} | url_param_escape}} :save p %}")
    browser.press("#render")
    browser.until(lambda: browser.all("#tree .branch .branch summary"), "the tree")
    browser.press("#tree .branch .branch summary")
    browser.until(lambda: browser.all("#tree .branch .branch .value"), "the values")
    names = [row.text for row in browser.all("#tree .branch .branch .value")]
    assert "{{ p.properties.first_name }} → Ava" in names
    row = browser.all("#tree .branch .branch .value")[names.index("{{ p.properties.first_name }} → Ava")]
    press_in_editor(browser, Keys.CONTROL, Keys.END)
    row.click()
    assert text(browser).endswith("%}{{ p.properties.first_name }}")
    browser.until(lambda: rendered_message(browser) == "Ava", "the value")
    assert browser.errors() == []


BUSY = """
const real = window.fetch;
const busy = document.getElementById("form").dataset.busy;
window.tries = 0;
window.fetch = async (url, options) => {
  window.tries += 1;
  if (window.tries > 1) return real(url, options);
  const empty = {message: "", tags: [], findings: [], answers: []};
  return Response.json({outcome: "refused", good: false, reason: busy, ...empty});
};
"""


def test_playground__service_renders_other_messages__tried_again(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    write(browser, "Hello")
    browser.until(lambda: rendered_message(browser) == "Hello", "the typed message")
    browser.driver.execute_script(BUSY)
    browser.press("#render")
    browser.until(lambda: browser.driver.execute_script("return window.tries") == 2, "another try")
    assert rendered_message(browser) == "Hello"
    assert browser.errors() == []


def test_playground__name_that_only_braze_knows__test_value_is_rendered_and_kept(
    service: Service, browser: Browser
) -> None:
    open_playground(browser, service)
    write(browser, "{{custom_attribute.${plan}}}")
    field = browser.find("#test-values input")
    assert browser.text("#test-values label") == "custom_attribute.${plan}"
    field.send_keys("pro")
    browser.until(lambda: rendered_message(browser) == "pro", "the test value")
    assert browser.driver.switch_to.active_element == field, "the field keeps the focus"
    browser.driver.refresh()
    browser.until(lambda: text(browser), "the editor")
    assert browser.find("#test-values input").get_property("value") == "pro"
    assert rendered_message(browser) == "pro"
    assert browser.errors() == []


def test_playground__test_value_in_json__is_a_list_and_a_number(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    write(browser, "{% catalog_items games 12 %}{{ items[0].title }}{% if custom_attribute.${n} > 2 %}!{% endif %}")
    browser.find("#test-values [placeholder]").send_keys("Tides")
    browser.until(lambda: browser.all("[data-rule=test-value]"), "the note about the text")
    browser.find("#test-values [placeholder]").clear()
    browser.find("#test-values [placeholder]").send_keys('[{"id": "12", "title": "Tides"}]')
    browser.all("#test-values input")[-1].send_keys("3")
    browser.until(lambda: rendered_message(browser) == "Tides!", "the test values")
    browser.driver.refresh()
    browser.until(lambda: text(browser), "the editor")
    assert rendered_message(browser) == "Tides!"
    assert browser.find("#test-values [placeholder]").get_property("value") == '[{"id": "12", "title": "Tides"}]'


MAIL = """<html><head><style>p { color: rgb(1, 2, 3); background: url(https://other.example/a.png) }</style></head>
<body style="margin: 7px" onload="window.broken = 1"><p style="font-weight: 700">Hi</p>
<script>window.broken = 1</script>
<img src="https://other.example/pixel.png" alt="Logo"><a href="https://other.example/">link</a></body></html>"""


def test_playground__message_in_html__shown_without_scripts_and_files(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    write(browser, MAIL)
    browser.press("#as-html")
    frame = browser.find("#frame")
    browser.driver.switch_to.frame(frame)
    try:
        paragraph = browser.find("p")
        assert paragraph.value_of_css_property("color") == "rgba(1, 2, 3, 1)"
        assert paragraph.value_of_css_property("font-weight") == "700"
        assert browser.find("body").value_of_css_property("margin-top") == "7px"
        assert not browser.all("script, [onload], [href], [src]")
    finally:
        browser.driver.switch_to.default_content()
    assert browser.driver.execute_script("return [window.broken, frames[0].broken]") == [None, None]
    assert browser.errors() == []
    assert all(url.startswith(service.url.split("@")[-1]) or "127.0.0.1" in url for url in browser.requested())


def link_to(message: bytes) -> str:
    compressor = zlib.compressobj(wbits=-15)
    compressed = compressor.compress(message) + compressor.flush()
    return "#message=" + base64.urlsafe_b64encode(compressed).decode().rstrip("=")


# Patterns whose time grows with the square of the length would take more than half a minute.
@pytest.mark.parametrize(("start", "repeated"), [("", "<a "), ("<p>", "<q "), ("<p><style>", "url(")])
def test_playground__link_to_many_unclosed_pieces__shown_in_time(
    service: Service, browser: Browser, start: str, repeated: str
) -> None:
    message = start + repeated * (250_000 // len(repeated))
    browser.driver.set_script_timeout(10)
    open_playground(browser, service, link_to(message.encode()))
    browser.until(lambda: browser.text("#outcome").startswith("sent"), "the rendering")
    browser.driver.execute_script("document.getElementById('as-html').click()")
    # A message without any complete tag is text.
    assert browser.driver.execute_script("return document.getElementById('html').hidden") == (start == "")
    assert browser.errors() == []


def test_playground__link_to_a_huge_message__ignored(service: Service, browser: Browser) -> None:
    open_playground(browser, service, link_to(b"a" * 200_000_000))
    assert text(browser).startswith("{% connected_content"), "the first example"
    browser.driver.execute_script("location.hash = arguments[0]", link_to(b"Hello"))
    browser.until(lambda: text(browser) == "Hello", "the message of a later link")
    assert browser.errors() == []


def test_playground__reloaded__message_and_user_remain_in_this_tab_only(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    write(browser, "Hello {{${user_id}}}")
    browser.find("#user").send_keys("ava")
    browser.driver.refresh()
    browser.until(lambda: text(browser) == "Hello {{${user_id}}}", "the message")
    assert browser.find("#user").get_property("value") == "ava"
    assert browser.driver.execute_script("return localStorage.length") == 0
    browser.driver.execute_script("navigator.clipboard.writeText = () => Promise.reject(new Error())")
    browser.press("#share")
    browser.until(lambda: "address bar" in browser.text("#copied"), "the link")
    link = urlsplit(browser.driver.current_url)
    assert link.query == ""
    assert link.fragment.startswith("message=")
    open_playground(browser, service, "#" + link.fragment)
    browser.until(lambda: text(browser) == "Hello {{${user_id}}}", "the message of the link")
    assert browser.find("#user").get_property("value") == "", "a link has no user"
    assert urlsplit(browser.driver.current_url).fragment == ""
    assert browser.errors() == []


def test_playground__keyboard_only__snippet_is_chosen_and_rendered(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    browser.driver.execute_script("document.getElementById('snippet').focus()")
    browser.driver.switch_to.active_element.send_keys("Greeting")
    assert "/v1/recommendations?" in text(browser), "selecting a snippet does not load it"
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(" ")  # Load
    assert "/v1/properties?" in text(browser)
    browser.driver.execute_script("document.getElementById('user').focus()")
    browser.driver.switch_to.active_element.send_keys("ben")
    browser.driver.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
    assert rendered_message(browser) == "Hi Ben!"
    press_in_editor(browser, "Dear ")
    press_in_editor(browser, Keys.CONTROL, Keys.ENTER)
    browser.until(lambda: rendered_message(browser).startswith("Dear"), "the message")
    assert text(browser).startswith("Dear {% connected_content"), "Ctrl+Enter adds no line"
    assert browser.errors() == []


def test_playground__copy_pressed__clipboard_has_the_message_unchanged(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    message = text(browser)
    assert "https://your-host/v1/recommendations?" in message
    browser.press("#copy")
    browser.until(lambda: browser.text("#copied") == "copied", "copied")
    write(browser, "")
    press_in_editor(browser, Keys.CONTROL, "v")
    browser.until(lambda: text(browser) == message, "the copied message")
    assert browser.errors() == []


def test_playground__tab_key__controls_in_order_named_and_outlined(service: Service, browser: Browser) -> None:
    open_playground(browser, service)
    browser.find("#user").send_keys("ava")
    browser.press("#render")
    rendered_message(browser)
    browser.driver.execute_script("document.getElementById('user').focus()")
    stops = []
    for _ in range(12):
        stops.append(browser.driver.execute_script(STOP))
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert [stop["id"] for stop in stops[:10]] == [
        *("user", "", "render", "snippet", "load", "editor", "copy", "share"),
        "",  # the device id
        "message",
    ]
    assert all(stop["name"] and stop["outline"] for stop in stops), stops


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_playground__each_width_and_scheme__fits_and_keeps_user_and_button_in_sight(
    service: Service, browser: Browser, width: int, scheme: Scheme
) -> None:
    browser.set_display(width=width, scheme=scheme)
    open_playground(browser, service)
    browser.find("#user").send_keys("ava")
    browser.press("#render")
    rendered_message(browser)
    top = browser.driver.execute_script("return document.getElementById('result').getBoundingClientRect().top")
    assert top < 600, "the result must be visible without scrolling"
    browser.driver.execute_script("scrollTo(0, document.body.scrollHeight)")
    for name in ("user", "render"):
        box = browser.driver.execute_script(f"return document.getElementById('{name}').getBoundingClientRect().top")
        assert 0 <= box < 200, name
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
