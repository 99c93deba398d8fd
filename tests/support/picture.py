"""Takes the README's pictures of the playground from the running demo: `python -m tests.support.picture`.

Needs chromium and chromium-driver. Run it again when the page looks different.
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
"""Where hosts of repositories look for such files; nothing in it is served or imported."""
SNIPPET = "Whole profile in one tag"
WIDTH, HEIGHT = 1080, 1500
_MARGIN = 16
_FRAME = """
const top = document.querySelector(".bench").getBoundingClientRect().top;
return [top, document.getElementById("template-hint").getBoundingClientRect().bottom - top];
"""
"""From the top of both cards to the end of the message: a whole page would be too long for the README."""


def name(scheme: Scheme) -> str:
    """Return the file name of the picture in these colours."""
    return f"playground-{scheme}.webp"


def take(browser: Browser, url: str, scheme: Scheme) -> bytes:
    """Return a picture of the playground at `url`, credentials in it, after a message for ava has been rendered."""
    browser.dress(width=WIDTH, height=HEIGHT, scheme=scheme, scale=2)
    browser.open(f"{url}/playground")
    browser.find("#user").send_keys("ava")
    Select(browser.find("#snippet")).select_by_visible_text(SNIPPET)
    browser.find("#load").send_keys(Keys.ENTER)  # not by the mouse: what it rests on is drawn otherwise
    for _ in range(2):  # the second time from the cache, whoever asked before
        browser.find("#template").send_keys(Keys.CONTROL, Keys.ENTER)
        browser.until(lambda: browser.find("#result").get_attribute("aria-busy") == "false", "the message")
    browser.until(lambda: browser.find("#outcome").text == "sent", "the outcome")
    browser.driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    top, height = browser.driver.execute_script(_FRAME)
    clip = {"x": 0, "y": top - _MARGIN, "width": WIDTH, "height": height + 2 * _MARGIN, "scale": 1}
    options = {"format": "webp", "quality": 85, "clip": clip}
    return base64.b64decode(browser.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


def main() -> int:
    """Take both, and return the exit code."""
    if absent := browsers.missing():
        print(absent, file=sys.stderr)
        return 1
    demo = subprocess.Popen([sys.executable, "-m", "proxy", "demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout
        match = re.search(r"at http://(\S+) \(name (\S+), secret (\S+)\)", demo.stdout.readline())
        assert match, "the demo did not start"
        host, caller, secret = match.groups()
        FOLDER.mkdir(exist_ok=True)
        with browsers.running() as browser:
            for scheme in get_args(Scheme):
                picture = take(browser, f"http://{caller}:{secret}@{host}", scheme)
                (FOLDER / name(scheme)).write_bytes(picture)
                print(f".github/{name(scheme)}: {len(picture) // 1024} KB")
    finally:
        demo.terminate()
        demo.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
