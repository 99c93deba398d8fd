"""Parses the text of a Connected Content tag into URL and options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from proxy.api.query_string import with_joined_lists
from proxy.liquid.scanner import OUTPUT
from proxy.profile.parts import SECTIONS

OPTIONS = {
    **dict.fromkeys(("retry", "no_cache", "rerender"), False),
    **dict.fromkeys(("save", "basic_auth", "auth_credentials", "headers"), True),
    **dict.fromkeys(("method", "body", "content_type", "accept", "cache_max_age"), True),
}
"""The options of a tag, and whether each has a value.

Source: Braze's documentation, Personalize > Connected Content: "Make a Connected Content call", "Local Connected
Content variables" (headers, body, content_type, accept), "Caching responses", "Connected Content retries", "Pull user
profile data" (rerender).
"""
ROUTES = frozenset({*SECTIONS, "profile", "userprofile"})
UNSAVED = "connected"
"""The variable for a JSON answer if the tag has no `:save`."""
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
NO_BREAK_SPACE = "\u00a0"

_OPTION = re.compile(r":([a-z_]+)\Z")
BLANKS = " \t\r\n\f\v"
"""Blanks as in Ruby. A no-break space is part of a word."""
_PIECE = re.compile(OUTPUT.pattern + rf'|[{BLANKS}]+|\\?"|[{{}}]|[^{BLANKS}"{{}}\\]+|\\', re.DOTALL)
_URL_PIECE = re.compile(OUTPUT.pattern + r"|[?#]", re.DOTALL)
_CONTENT_TYPE = re.compile(r"""["']content-type["']\s*:\s*["']([^"']*)["']""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tag:
    """A parsed tag.

    `options`: name to text, "" for a flag. `unknown`: words that are not options. `remainder`: words after the first
    blank of a body, which Braze drops.
    """

    url: str
    options: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    remainder: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        return self.options.get("method", "get").upper()

    @property
    def retries(self) -> bool:
        """Return whether the tag asks Braze to retry."""
        return "retry" in self.options

    @property
    def body(self) -> str:
        return self.options.get("body", "")

    @property
    def content_type(self) -> str:
        return content_type(self.options)

    @property
    def path(self) -> str:
        """Return the URL up to the query, before it is rendered."""
        return self.url[: len(self.url) - len(_from_query(self.url))]

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of URL and body before they are rendered."""
        return parameters(self.url, self.body)


def parse(text: str) -> Tag:
    """Parse the text after the tag's name."""
    remaining = list(words(text))
    url = remaining.pop(0) if remaining and not remaining[0].startswith(":") else ""
    options: dict[str, list[str]] = {}
    unknown: list[str] = []
    remainder: list[str] = []
    current: str | None = None
    for word in remaining:
        option = _OPTION.match(word)
        if option and option[1] in OPTIONS:
            options[option[1]] = []
            current = option[1] if OPTIONS[option[1]] else None
        elif option or current is None:
            unknown.append(word)
            current = None
        elif current == "body" and options["body"]:
            remainder.append(word)
        else:
            options[current].append(word)
    return Tag(url, {name: " ".join(value) for name, value in options.items()}, tuple(unknown), tuple(remainder))


def content_type(options: Mapping[str, str]) -> str:
    """Return the type of the body: the option, or else the header, or else a form."""
    header = _CONTENT_TYPE.search(options.get("headers", ""))
    return options.get("content_type") or (header[1] if header else FORM)


def route(url: str) -> str | None:
    """Return the name of the data route of a URL, ignoring the host; None for another path."""
    try:
        path = urlsplit(url.strip()).path
    except ValueError:
        return None
    name = path.removeprefix("/v1/").removesuffix("/")
    return name if path.startswith("/v1/") and name in ROUTES else None


def query(url: str) -> str:
    """Return the query of a URL, which may contain Liquid."""
    return _from_query(url).removeprefix("?").partition("#")[0]


def json_body(body: str, content_type: str) -> str:
    """Return a form body as JSON if the content type is JSON, as Braze does. Any other body is unchanged.

    Source: Braze's documentation, "Local Connected Content variables", HTTP POST.
    """
    text = body.strip()
    if content_type.partition(";")[0].strip().lower() != JSON or "=" not in text or text[0] in '{["':
        return body
    return json.dumps(dict(parse_qsl(text, keep_blank_values=True)), ensure_ascii=False)


def parameters(url: str, body: str = "") -> dict[str, str]:
    """Return the parameters of a URL and of a body, which is a form or a JSON object."""
    return _of_form(query(url)) | _of_body(body.strip())


def logs_exposure(name: str | None, parameters: Mapping[str, str]) -> bool:
    """Return whether a call to Amplitude for this route and these parameters logs an exposure."""
    match name:
        case "recommendations":
            return True
        case "profile":
            return "recommendations" in (name.strip() for name in parameters.get("include", "").split(","))
        case "userprofile":
            return "rec_id" in parameters or parameters.get("get_recs", "").lower() == "true"
    return False


def other_url(url: str) -> tuple[str, str]:
    """Return the problem and the fix for a tag whose URL is not a data route of this service."""
    host = url.partition("://")[2].partition("/")[0] or url[:80] or "an empty URL"
    return f"{host} is not this service, so the preview does not call it", "test this tag in Braze"


def json_object(text: str) -> dict[str, object]:
    """Return a JSON object, or an empty object for another text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _from_query(url: str) -> str:
    """Return the URL from the first `?` outside of Liquid; "" without a query."""
    for match in _URL_PIECE.finditer(url):
        if match[0] == "?":
            return url[match.start() :]
        if match[0] == "#":
            break
    return ""


def _of_form(text: str) -> dict[str, str]:
    return dict(with_joined_lists(parse_qsl(text, keep_blank_values=True)))


def _of_body(body: str) -> dict[str, str]:
    if not body.startswith("{") or body.startswith("{{"):
        return _of_form(body)
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in fields.items()
    }


def words(text: str) -> Iterator[str]:
    """Yield the words between blanks.

    Blanks inside outputs and inside the braces of `:headers` do not separate words.
    """
    word, depth, quoted, grouped = "", 0, False, False
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece[0] in BLANKS and not depth:
            if word:
                grouped = word == ":headers"
                yield word
            word = ""
            continue
        if depth and piece == '"':
            quoted = not quoted
        elif grouped and not quoted:
            depth = max(0, depth + {"{": 1, "}": -1}.get(piece, 0))
        word += piece
    if word:
        yield word
