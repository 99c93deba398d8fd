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
    **dict.fromkeys(("retry", "no_cache"), False),
    **dict.fromkeys(("save", "basic_auth", "auth_credentials", "headers"), True),
    **dict.fromkeys(("method", "body", "content_type", "cache_max_age"), True),
}
"""The options of a tag, and whether each has a value."""
ROUTES = frozenset({*SECTIONS, "profile", "userprofile"})
UNSAVED = "connected"
"""The variable for a JSON answer if the tag has no `:save`."""
FORM = "application/x-www-form-urlencoded"

_OPTION = re.compile(r":([a-z_]+)\Z")
_PIECE = re.compile(OUTPUT.pattern + r'|\s+|\\?"|[{}]|[^\s"{}\\]+|\\', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tag:
    """A parsed tag. `options`: name to text, "" for a flag; `unknown`: words that are not options."""

    url: str
    options: Mapping[str, str]
    unknown: tuple[str, ...] = ()

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
        return self.options.get("content_type", FORM)

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of URL and body before they are rendered."""
        return parameters(self.url, self.body)


def parse(text: str) -> Tag:
    """Parse the text after the tag's name."""
    words = list(_words(text))
    url = words.pop(0) if words and not words[0].startswith(":") else ""
    options: dict[str, list[str]] = {}
    unknown: list[str] = []
    current: str | None = None
    for word in words:
        option = _OPTION.match(word)
        if option and option[1] in OPTIONS:
            options[option[1]] = []
            current = option[1] if OPTIONS[option[1]] else None
        elif option or current is None:
            unknown.append(word)
            current = None
        else:
            options[current].append(word)
    return Tag(url, {name: " ".join(value) for name, value in options.items()}, tuple(unknown))


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
    return url.partition("?")[2].partition("#")[0]


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
    return f"{host} is not this service, so the preview does not call it", "test this part of the message in Braze"


def json_object(text: str) -> dict[str, object]:
    """Return a JSON object, or an empty object for another text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


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


def _words(text: str) -> Iterator[str]:
    """Yield the words between blanks; blanks inside Liquid, braces or quotes in braces do not separate words."""
    word, depth, quoted = "", 0, False
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece.isspace() and not depth:
            if word:
                yield word
            word = ""
            continue
        if depth and piece == '"':
            quoted = not quoted
        elif not quoted:
            depth = max(0, depth + {"{": 1, "}": -1}.get(piece, 0))
        word += piece
    if word:
        yield word
