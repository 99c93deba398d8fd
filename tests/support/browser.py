"""Runs Chromium, and reports console errors and violations of the Content-Security-Policy."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

Scheme = Literal["light", "dark"]
Result = TypeVar("Result")

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
# Runs before the scripts of the page, so that no violation is missed.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


def missing() -> str | None:
    """Return the missing programs and the command that installs them; None if all are installed."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed; run apt-get install chromium chromium-driver" if absent else None


class Browser:
    """A browser window. `driver`: the driver of selenium, for all other actions."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.driver.get(url)

    def leave(self) -> None:
        """Leave the current page, and discard its messages: a page may still call a service that has ended."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]

    def set_display(self, *, width: int = 1200, height: int = 900, scheme: Scheme = "light", scale: int = 1) -> None:
        """Set the size of the window, the preferred colour scheme, and the number of device pixels per pixel."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)

    def find(self, selector: str) -> WebElement:
        """Wait until an element of a CSS selector is visible, and return the first visible element."""
        return self.until(
            lambda: next((element for element in self.all(selector) if element.is_displayed()), None), selector
        )

    def all(self, selector: str) -> list[WebElement]:
        """Return all current elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return the visible text of the element that `find` returns."""
        return self.until(lambda: [self.find(selector).text], selector)[0]

    def press(self, selector: str) -> None:
        """Scroll to an element and click the element."""

        def clicked() -> bool:
            element = self.find(selector)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.until(clicked, selector)

    def until(self, condition: Callable[[], Result | None], why: str = "") -> Result:
        """Wait for a true result of `condition`, and return the result.

        Calls `condition` again if the page replaced an element after `condition` had found it.
        """
        replaced = [StaleElementReferenceException]
        wait = WebDriverWait(self.driver, 10, poll_frequency=0.05, ignored_exceptions=replaced)
        return wait.until(lambda _: condition() or False, f"timeout: waited for {why}")

    def errors(self) -> list[str]:
        """Return policy violations and console errors since the page was opened, without warnings."""
        violations: list[str] = self.driver.execute_script("return window.violations")
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return violations + [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def problems(self, scheme: Scheme) -> list[str]:
        """Return the errors of the page, and faults of its width and background."""
        scrolls = self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth")
        background = self.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, background[4:-1].split(","))) > 380
        return (
            self.errors()
            + ["the page scrolls horizontally"] * scrolls
            + [f"background {background} is not {scheme}"] * (light is not (scheme == "light"))
        )

    def requested(self) -> list[str]:
        """Return the URLs that the page loaded, without the URL of the page."""
        names = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        urls: list[str] = self.driver.execute_script(names)
        return urls


@contextmanager
def running() -> Iterator[Browser]:
    """Start a browser with its own profile, and stop the browser at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
            yield Browser(driver)
        finally:
            driver.quit()
