"""Finds problems in the URL of a Connected Content tag."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.liquid import tag_syntax
from proxy.liquid.lint.tag_call import EXAMPLE_HOST, Call, host_of, without_outputs
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import OUTPUT
from proxy.liquid.types import Finding

_QUOTED_URL = re.compile(r"""["'\u201c\u201d\u2018\u2019](.*?)["'\u201c\u201d\u2018\u2019]?\Z""", re.DOTALL)
_NO_BREAK_SPACE = re.compile(rf"{OUTPUT.pattern}|(?P<space>{tag_syntax.NO_BREAK_SPACE}+)", re.DOTALL)
_OPTIONS = "|".join(sorted(tag_syntax.OPTIONS))
_JOINED = re.compile(
    rf"{tag_syntax.NO_BREAK_SPACE}+(?=:(?:{_OPTIONS})(?![a-z_]))|(?<![^{tag_syntax.NO_BREAK_SPACE}])"
    rf"(?P<option>:(?:{_OPTIONS})){tag_syntax.NO_BREAK_SPACE}+"
)
"""A no-break space beside an option."""
_SHOWN_CHARACTERS = 160
"""Maximum length of a URL in the text of a finding."""


def joined_words(rest: str) -> list[tuple[str, str]]:
    """Return each word of a tag with a wrong no-break space, and the words that were probably meant.

    Braze removes a no-break space in a URL. Elsewhere, a no-break space is part of a word, such as `us\xa0:save`.
    """
    found = []
    for place, word in enumerate(tag_syntax.words(rest) if tag_syntax.NO_BREAK_SPACE in rest else ()):
        fixed = _JOINED.sub(lambda match: f"{match['option'] or ''} ", word)
        if place == 0 and not word.startswith(":"):
            fixed = _NO_BREAK_SPACE.sub(lambda match: "" if match["space"] else match[0], fixed)
        if fixed != word:
            found.append((word, fixed))
    return found


def no_break_space_finding(call: Call, word: str, fixed: str) -> Finding:
    """Return the finding about a word of `joined_words`."""
    problem = "the URL has a no-break space (U+00A0), which Braze removes"
    if _JOINED.search(word):
        problem = "a no-break space (U+00A0) does not separate an option from the word beside it"
    return call.finding(word, "no-break-space", problem, f"write {_cut(fixed)}", replacement=fixed)


def url_findings(call: Call, hosts: set[str]) -> Iterator[Finding]:
    """Yield at most one finding about the form of the URL."""
    url, rest = call.tag.url, call.markup.rest
    masked = OUTPUT.sub(lambda output: "x" * len(output[0]), rest)
    options = re.search(r"(?:\A|\s):[a-z_]+(?=\s|\Z)", masked)
    end = len(masked[: options.start() if options else len(masked)].rstrip())
    whole = rest[:end]
    words = re.findall(rf"[^{tag_syntax.BLANKS}]+", masked[:end])
    if not url:
        yield call.finding(
            "connected_content", "without-url", "the tag has no URL", "write the URL after connected_content"
        )
    elif quoted := _QUOTED_URL.match(whole):
        yield call.finding(
            whole, "quoted-url", "the URL is in quotes, so Braze cannot call it", f"write {_cut(quoted[1])}",
            replacement=quoted[1],
        )  # fmt: skip
    elif len(words) > 1 and words[1].strip("=") not in tag_syntax.OPTIONS and words[1][:1] not in ("{", ":"):
        fixed = _without_spaces(whole, masked)
        yield call.finding(
            whole, "space-in-url", "the URL has a space, so Braze drops the rest of it", f"write {_cut(fixed)}",
            replacement=fixed,
        )  # fmt: skip
    elif "://" not in url and not url.startswith("{{"):
        fixed = "https://" + re.sub(r"\A(?:https?:)?/*", "", url)
        yield call.finding(
            url, "without-scheme", "the URL has no https://, so Braze cannot call it", f"write {_cut(fixed)}",
            replacement=fixed,
        )  # fmt: skip
    elif "?" not in without_outputs(url) and (sign := re.match(r"[^?&]*/v1/\w+/?(&)", url)):
        fixed = f"{url[: sign.start(1)]}?{url[sign.end(1) :]}"
        yield call.finding(
            url, "without-question-mark", "the URL has no ? before its parameters", f"write {_cut(fixed)}",
            replacement=fixed,
        )  # fmt: skip
    elif call.is_foreign:
        yield _foreign(call, hosts)


def _foreign(call: Call, hosts: set[str]) -> Finding:
    url, host = call.tag.url, host_of(call.tag.url)
    path = call.url_path.partition("://")[2].partition("/")[2].rstrip("/")
    name = path.removeprefix("v1/")
    route = similar(name, sorted(tag_syntax.ROUTES))
    parameters = call.tag.parameters.keys()
    if route and (host in hosts or host == EXAMPLE_HOST or parameters & {"user_id", "device_id"}):
        return call.finding(
            f"/{path}", "unknown-route", f"/{path} is not a route of this service", f"write /v1/{route}",
            replacement=f"/v1/{route}",
        )  # fmt: skip
    if host in hosts or host == EXAMPLE_HOST:
        routes = ", ".join(sorted(tag_syntax.ROUTES))
        return call.finding(
            url, "unknown-route", f"/{path} is not a route of this service", f"write /v1/ followed by one of {routes}"
        )
    return call.finding(url, "elsewhere", *tag_syntax.other_url(url), level="note")


def _without_spaces(url: str, masked: str) -> str:
    fixed = ""
    for match in re.finditer(r"\S+|\s+", masked[: len(url)]):
        if match[0].isspace():
            beside_sign = masked[match.start() - 1] in "?&=/,:" or masked[match.end() : match.end() + 1] in (
                "?",
                "&",
                "=",
                "/",
                ",",
            )
            fixed += "" if beside_sign else "%20"
        else:
            fixed += url[match.start() : match.end()]
    return fixed


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
