"""The pages and their files: a strict policy, nothing inline, kept for as long as they stay the same."""

from __future__ import annotations

import gzip
import html
import re
import subprocess
import sys

import pytest
from flask.testing import FlaskClient

from tests.conftest import KEYS, ROOT
from tests.support.docs import fragment

PAGES = ["/", "/docs"]


def loaded(text: str) -> list[str]:
    return re.findall(r'(?:src|rel="(?:icon|stylesheet)"[^>]* href)="([^"]+)"', text)


@pytest.mark.contract("3 docs")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_nothing_inline_and_nothing_from_elsewhere(client: FlaskClient, path: str) -> None:
    page = client.get(path)
    assert page.content_type == "text/html; charset=utf-8"
    policy = dict(rule.split(" ", 1) for rule in page.headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("img-src") == "'self' data:"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert set(policy) == {
        *("script-src", "style-src", "font-src", "connect-src"),
        *("frame-ancestors", "base-uri", "form-action"),
    }
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page.text)
    assert all(url.startswith("/static/") for url in loaded(page.text))


def test_answers_that_are_no_pages_keep_the_policy_that_allows_nothing(client: FlaskClient) -> None:
    for path in ("/healthz", "/openapi.json", "/v1/cohorts", "/static/site.css", "/nowhere"):
        assert client.get(path).headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize("path", [*PAGES, "/openapi.json"])
def test_what_may_change_is_asked_for_again_and_answered_by_304_while_it_has_not(
    client: FlaskClient, path: str
) -> None:
    first = client.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    second = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (second.status_code, second.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_every_file_of_a_page_is_there_and_may_be_kept_for_good(client: FlaskClient, path: str) -> None:
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    urls = loaded(client.get(path).text)
    assert len(urls) > 1
    for url in urls:
        file = client.get(url)
        assert file.status_code == 200, url
        assert file.content_type == kinds[url.partition("?")[0].rpartition(".")[2]]
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert client.get(url, headers={"If-None-Match": file.headers["ETag"]}).status_code == 304
        stale = client.get(url.partition("?")[0] + "?v=old")
        assert (stale.data, stale.headers["Cache-Control"]) == (file.data, "public, max-age=3600")


def test_a_file_is_sent_compressed_to_those_who_take_it(client: FlaskClient) -> None:
    plain = client.get("/static/swagger-ui-bundle.js")
    squeezed = client.get("/static/swagger-ui-bundle.js", headers={"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert squeezed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(squeezed.data) == plain.data
    assert len(squeezed.data) < len(plain.data) / 3
    assert plain.headers["Vary"] == squeezed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != squeezed.headers["ETag"], "a strong tag is of these very bytes"
    assert (
        client.get("/static/site.css", headers={"Accept-Encoding": "gzip;q=0"}).headers.get("Content-Encoding") is None
    )


ELSEWHERE = """
    /static /static/ /static/.. /static/../pages.py /static/%2e%2e%2fpages.py /static/..%5cpages.py /static//site.css
    /static/site.css%00 /static/index.html /static/swagger-ui.js /docs/index.css
"""


@pytest.mark.parametrize("path", ELSEWHERE.split())
def test_nothing_is_served_but_the_files_of_the_pages(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"


@pytest.mark.contract("3 landing page")
def test_the_message_on_the_first_page_is_the_one_of_the_readme_for_this_host(client: FlaskClient) -> None:
    match = re.search(r"<pre[^>]*><code>(.*?)</code></pre>", client.get("/", base_url="https://cc.example").text, re.S)
    assert match
    message = html.unescape(re.sub(r"</?span[^>]*>", "", match[1]))
    assert message == fragment("message").block("liquid").strip().replace("your-host", "cc.example")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "10.0.0.7", "[::1]", "cc.example.com:8443", "a_b.example"]
)
@pytest.mark.parametrize("path", ["/", "/playground"])
def test_a_host_that_braze_cannot_call_is_not_put_into_a_message(
    client: FlaskClient, caller: dict[str, str], host: str, path: str
) -> None:
    page = client.get(path, base_url=f"http://{host}", headers=caller)
    assert page.status_code == 200
    assert "https://your-host/v1/recommendations" in page.text
    assert f"https://{host}" not in page.text


def test_a_host_made_up_by_the_caller_does_not_become_markup(client: FlaskClient) -> None:
    page = client.get("/", headers={"Host": '"><script>alert(1)</script>'})
    assert "<script>" not in page.text


TEXT_ON = {
    "ground": ("ink", "ink-soft", "accent", "accent-strong"),
    "surface": ("ink", "ink-soft", "accent", "accent-strong"),
    "sunken": ("ink", "ink-soft", "code-string", "code-tag"),
    "accent-ground": ("ink", "accent-strong"),
    "accent": ("on-accent",),
    "accent-strong": ("on-accent",),
    **{f"{word}-ground": ("ink", word) for word in ("good", "warn", "bad")},
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_colour_can_be_read_on_its_grounds(scheme: str) -> None:
    css = (ROOT / "proxy" / "web" / "pages" / "static" / "site.css").read_text()
    blocks = re.findall(r":root \{(.*?)\n *\}", css, re.S)
    assert len(blocks) == 2
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    assert light.keys() == dark.keys(), "a colour without its other half"
    colours = light if scheme == "light" else dark
    for ground, texts in TEXT_ON.items():
        for text in texts:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for ground in ("ground", "surface"):
        assert contrast(colours["control-line"], colours[ground]) >= 3, "the edge of a field (WCAG 2.2, 1.4.11)"


def contrast(first: str, second: str) -> float:
    """Return WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_pages_need_no_credentials_and_are_the_same_with_a_trailing_slash(client: FlaskClient) -> None:
    assert client.get("/docs/").text == client.get("/docs").text


def test_application__created__neither_document_nor_files_are_loaded() -> None:
    code = f"""
import sys
from proxy.app import create_app
from proxy.settings import Settings
from proxy.web.pages import assets, docs
create_app(Settings.from_env({{"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": "{KEYS}"}}))
print(docs.document_json.cache_info().currsize, assets.load.cache_info().currsize, "flask_swagger_ui" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "0 0 False"
