"""Takes the README's pictures of the playground from the running demo: `python -m tests.support.picture`.

Requires chromium and chromium-driver. Run this program after a visible change to the playground.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from typing import get_args

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.support import browser as browsers
from tests.support.browser import Browser, Scheme
from tests.support.service import ROOT

FOLDER = ROOT / ".github"
"""A folder for files that GitHub shows. The service does not serve them."""
SNIPPET = "Name membership and products with one tag"
PLAYGROUND = re.compile(r"(http://\S+)/playground")
"""The link that the demo prints, with credentials."""
WIDTH, HEIGHT = 1080, 1500
_MARGIN = 16
_FRAME = """
const top = document.querySelector(".bar").getBoundingClientRect().top;
return [top, document.getElementById("source").getBoundingClientRect().bottom - top];
"""
"""The area of the user, the message and the rendered message. The whole page is too long for the README."""


def name(scheme: Scheme) -> str:
    """Return the file name of the picture in this colour scheme."""
    return f"playground-{scheme}.webp"


def take(browser: Browser, url: str, scheme: Scheme) -> bytes:
    """Return a picture of the playground with a rendered message for ava. `url`: with credentials."""
    browser.set_display(width=WIDTH, height=HEIGHT, scheme=scheme, scale=2)
    browser.open(f"{url}/playground")
    browser.find("#user").clear()
    browser.find("#user").send_keys("ava")
    Select(browser.find("#snippet")).select_by_visible_text(SNIPPET)
    browser.find("#load").send_keys(Keys.ENTER)  # not with the mouse, which would highlight the button
    for _ in range(2):  # the second rendering always uses the cache
        browser.find("#user").send_keys(Keys.CONTROL, Keys.ENTER)
        browser.until(lambda: browser.find("#result").get_attribute("aria-busy") == "false", "the message")
    browser.until(lambda: browser.text("#outcome").startswith("sent"), "the outcome")
    browser.driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    top, height = browser.driver.execute_script(_FRAME)
    clip = {"x": 0, "y": top - _MARGIN, "width": WIDTH, "height": height + 2 * _MARGIN, "scale": 1}
    options = {"format": "webp", "quality": 85, "clip": clip}
    return base64.b64decode(browser.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


def main() -> int:
    """Take both pictures, and return the exit code."""
    if absent := browsers.missing():
        print(absent, file=sys.stderr)
        return 1
    demo = subprocess.Popen([sys.executable, "-m", "proxy", "demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout
        match = PLAYGROUND.search(demo.stdout.readline() + demo.stdout.readline())
        assert match, "the demo did not start"
        FOLDER.mkdir(exist_ok=True)
        with browsers.running() as browser:
            for scheme in get_args(Scheme):
                picture = take(browser, match[1], scheme)
                (FOLDER / name(scheme)).write_bytes(picture)
                print(f".github/{name(scheme)}: {len(picture) // 1024} KB")
    finally:
        demo.terminate()
        demo.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
