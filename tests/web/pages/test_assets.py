"""The pages and their static files: content policy, caching, compression and colours."""

from __future__ import annotations

import gzip
import html
import re
import subprocess
import sys

import pytest
from flask.testing import FlaskClient

from proxy import __version__
from tests.conftest import KEYS, ROOT
from tests.support.docs import fragment

PAGES = ["/", "/docs"]


def loaded_urls(text: str) -> list[str]:
    return re.findall(r'(?:src|rel="(?:icon|stylesheet)"[^>]* href)="([^"]+)"', text)


@pytest.mark.contract("3 docs")
@pytest.mark.parametrize("path", PAGES)
def test_page__html_and_policy__allow_only_files_of_this_service(client: FlaskClient, path: str) -> None:
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
    assert all(url.startswith("/static/") for url in loaded_urls(page.text))


def test_content_policy__not_a_page__allows_nothing(client: FlaskClient) -> None:
    for path in ("/healthz", "/openapi.json", "/v1/cohorts", "/static/site.css", "/nowhere"):
        assert client.get(path).headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize("path", [*PAGES, "/openapi.json"])
def test_page__unchanged__revalidated_with_304(client: FlaskClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    second = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (second.status_code, second.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_static_file__loaded_by_a_page__served_as_immutable(client: FlaskClient, path: str) -> None:
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    urls = loaded_urls(client.get(path).text)
    assert len(urls) > 1
    for url in urls:
        file = client.get(url)
        assert file.status_code == 200, url
        assert file.content_type == kinds[url.partition("?")[0].rpartition(".")[2]]
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert client.get(url, headers={"If-None-Match": file.headers["ETag"]}).status_code == 304
        stale = client.get(url.partition("?")[0] + "?v=old")
        assert (stale.data, stale.headers["Cache-Control"]) == (file.data, "public, max-age=3600")


def test_static_file__client_accepts_gzip__compressed(client: FlaskClient) -> None:
    plain = client.get("/static/swagger-ui-bundle.js")
    compressed = client.get("/static/swagger-ui-bundle.js", headers={"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed.data) == plain.data
    assert len(compressed.data) < len(plain.data) / 3
    assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != compressed.headers["ETag"], "a strong ETag identifies the exact bytes"
    assert (
        client.get("/static/site.css", headers={"Accept-Encoding": "gzip;q=0"}).headers.get("Content-Encoding") is None
    )


OTHER_PATHS = """
    /static /static/ /static/.. /static/../pages.py /static/%2e%2e%2fpages.py /static/..%5cpages.py /static//site.css
    /static/site.css%00 /static/index.html /static/swagger-ui.js /docs/index.css
"""


@pytest.mark.parametrize("path", OTHER_PATHS.split())
def test_static_file__any_other_path__404(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"


@pytest.mark.contract("3 landing page")
def test_landing_page__message__same_as_in_the_readme_with_this_host(client: FlaskClient) -> None:
    match = re.search(r"<pre[^>]*><code>(.*?)</code></pre>", client.get("/", base_url="https://cc.example").text, re.S)
    assert match
    message = html.unescape(re.sub(r"</?span[^>]*>", "", match[1]))
    assert message == fragment("message").block("liquid").strip().replace("your-host", "cc.example")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "10.0.0.7", "[::1]", "cc.example.com:8443", "a_b.example"]
)
@pytest.mark.parametrize("path", ["/", "/playground"])
def test_page__host_that_braze_cannot_call__placeholder_in_the_message(
    client: FlaskClient, caller: dict[str, str], host: str, path: str
) -> None:
    page = client.get(path, base_url=f"http://{host}", headers=caller)
    assert page.status_code == 200
    assert "https://your-host/v1/recommendations" in page.text
    assert f"https://{host}" not in page.text


def test_landing_page__script_in_the_host_header__not_in_the_page(client: FlaskClient) -> None:
    page = client.get("/", headers={"Host": '"><script>alert(1)</script>'})
    assert "<script>" not in page.text


TEXT_ON = {
    "ground": ("ink", "ink-soft", "accent", "accent-strong"),
    "surface": ("ink", "ink-soft", "accent", "accent-strong", "code-string", "code-tag", "code-name"),
    "sunken": ("ink", "ink-soft", "code-string", "code-tag"),
    "selection": ("ink",),
    "accent-ground": ("ink", "accent-strong"),
    "accent": ("on-accent",),
    "accent-strong": ("on-accent",),
    **{f"{word}-ground": ("ink", word) for word in ("good", "warn", "bad")},
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours__text_on_its_backgrounds__enough_contrast(scheme: str) -> None:
    css = (ROOT / "proxy" / "web" / "pages" / "static" / "site.css").read_text()
    blocks = re.findall(r":root \{(.*?)\n *\}", css, re.S)
    assert len(blocks) == 2
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    assert light.keys() == dark.keys(), "a colour is missing in the light or the dark scheme"
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


def test_docs__trailing_slash_without_credentials__same_page(client: FlaskClient) -> None:
    assert client.get("/docs/").text == client.get("/docs").text


def test_create_app__called__document_and_files_are_not_loaded() -> None:
    code = f"""
import sys
from proxy.app import create_app
from proxy.settings import Settings
from proxy.web.pages import assets, docs
create_app(Settings.from_env({{"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": "{KEYS}"}}))
print(docs.document_json.cache_info().currsize, assets.load.cache_info().currsize, "flask_swagger_ui" in sys.modules)
"""
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "0 0 False"


@pytest.mark.parametrize(
    ("path", "status", "words"), [("/nowhere", 404, "Page not found"), ("/playground", 401, "Key required")]
)
def test_error__requested_by_a_browser__page_with_the_policy(
    client: FlaskClient, path: str, status: int, words: str
) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    page = client.get(path, headers={"Accept": accept})
    assert (page.status_code, page.content_type) == (status, "text/html; charset=utf-8")
    assert f"<h1>{words}</h1>" in page.text
    assert "default-src 'none'; script-src 'self'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in page.headers) is (status == 401)


@pytest.mark.parametrize("path", ["/nowhere", "/playground", "/v1/nowhere", "/v1/cohorts?user_id=u"])
@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "application/json, text/html;q=0.9"])
def test_error__requested_by_a_client__problem_json(client: FlaskClient, path: str, accept: str) -> None:
    answer = client.get(path, headers={"Accept": accept} if accept else {})
    assert answer.content_type == "application/problem+json"
    assert ("WWW-Authenticate" in answer.headers) is (answer.status_code == 401)


@pytest.mark.parametrize("path", ["/v1/nowhere", "/v1/cohorts?user_id=u"])
def test_error__data_route_in_a_browser__problem_json(client: FlaskClient, path: str) -> None:
    assert client.get(path, headers={"Accept": "text/html"}).content_type == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/docs", "/playground", "/status", "/nowhere"])
def test_page__footer__version_and_links(client: FlaskClient, caller: dict[str, str], path: str) -> None:
    page = client.get(path, headers={**caller, "Accept": "text/html"}).text
    footer = page[page.index("<footer") :]
    assert f"version {__version__}" in footer
    assert re.findall(r'href="([^"]+)"', footer) == ["/playground", "/docs", "/openapi.json", "/status", "/readyz"]


def test_script__imported_without_a_tag__revalidated(client: FlaskClient) -> None:
    first = client.get("/static/dom.js")
    assert first.headers["Cache-Control"] == "no-cache"
    assert client.get("/static/dom.js", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    imported = {
        name
        for file in (ROOT / "proxy/web/pages/static").glob("*.js")
        for name in re.findall(r'from "\./([\w.-]+)";', file.read_text())
    }
    assert "editor.js" in imported
    for name in imported:
        assert client.get(f"/static/{name}").content_type == "text/javascript; charset=utf-8", name
