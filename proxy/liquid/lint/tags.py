"""Finds problems in a message without rendering."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from proxy.api.drop_in import DROP_IN
from proxy.api.parse import parameters_of
from proxy.liquid import tag_syntax
from proxy.liquid.lint.aborts import aborts_against_retry
from proxy.liquid.lint.expressions import condition_findings, name_findings
from proxy.liquid.scanner import OUTPUT, Markup, attributes
from proxy.liquid.types import Finding
from proxy.profile.parts import SECTIONS

_ESCAPED = re.compile(r"\|\s*(?:url_param_escape|url_encode)\b")
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(parameter.name for parameter in parameters)
    for name, parameters in (
        *((section, parameters_of(section)) for section in SECTIONS),
        ("profile", parameters_of(None)),
        ("userprofile", DROP_IN),
    )
}
_QUOTED_CHARACTERS = 80
"""Maximum length of a quotation in a finding."""
_MIN_SIMILARITY = 0.65
"""Similarity by difflib: `key` is similar to `keys`; `cb` is similar to no parameter."""
_KNOWN = frozenset({("", "user_id"), ("most_recently_used_device", "id"), ("targeted_device", "id")})


def findings(source: str, pieces: Sequence[Markup]) -> Iterator[Finding]:
    """Yield the problems and notes of a template `source` that consists of `pieces`."""
    for markup in pieces:
        if markup.kind == "verbatim":
            continue
        if markup.name == "connected_content":
            tag = tag_syntax.parse(markup.rest)
            for rule in (_unescaped, _call, _half_retry, _unknown_parameters, _unknown_options, _exposure):
                yield from rule(markup.line, tag)
        elif markup.name != "abort_message":
            yield from condition_findings(markup)
            yield from name_findings(markup)
        yield from _unknown_attributes(markup)
    yield from aborts_against_retry(pieces)


def _unescaped(line: int, tag: tag_syntax.Tag) -> Iterator[Finding]:
    query = tag.url.partition("?")[2]
    form = tag.body if tag.content_type == tag_syntax.FORM else ""
    for text in (query, form):
        for output in OUTPUT.finditer(text):
            if output["closed"] and not _ESCAPED.search(output[0]):
                expression = output[0][2:-2].strip()
                yield Finding(
                    line,
                    "unescaped",
                    f"{{{{{expression}}}}} is not escaped, so a value with + or & becomes a different value",
                    f"write {{{{{expression} | url_param_escape}}}}",
                )


def _call(line: int, tag: tag_syntax.Tag) -> Iterator[Finding]:
    if not tag.options.get("save"):
        yield Finding(
            line,
            "unsaved",
            "the tag has no :save, so Braze saves JSON in the variable connected, and prints any other answer",
            "add :save and a variable name",
        )
    if tag.url.lower().startswith("http://"):
        yield Finding(
            line,
            "insecure",
            "http:// sends the user id and the credentials without encryption",
            "write https://",
        )
    url = _without_outputs(tag.url.partition("?")[0])
    # A path with an output is known only after rendering.
    if tag_syntax.route(url) is None and "{}" not in re.sub(r"\A\w*:?//[^/]*", "", url):
        yield tag_syntax.other_url_finding(line)
    if not tag.options.keys() & {"basic_auth", "auth_credentials", "headers"}:
        yield Finding(
            line,
            "without-credentials",
            "the tag has no credentials, so Braze gets status 401; the preview uses your credentials",
            "add :basic_auth and the name of the credentials in Braze",
        )
    if tag.method == "POST" and "cache_max_age" in tag.options:
        yield Finding(
            line,
            "cached-post",
            "a POST with :cache_max_age shows one user's content to another, because Braze caches by URL alone",
            "remove :cache_max_age, or use GET",
        )


def _half_retry(line: int, tag: tag_syntax.Tag) -> Iterator[Finding]:
    on_error = tag.parameters.get("on_error") == "retry"
    if tag.retries and not on_error:
        yield Finding(
            line,
            "half-retry",
            "without on_error=retry, :retry has no effect on missing data, because the status is 200",
            "add on_error=retry to the parameters, or remove :retry",
        )
    if on_error and not tag.retries:
        yield Finding(
            line,
            "half-retry",
            "on_error=retry without :retry makes Braze send the message with empty data",
            "add :retry to the tag, or remove on_error=retry",
        )


def _unknown_parameters(line: int, tag: tag_syntax.Tag) -> Iterator[Finding]:
    # The text of an output is known only after rendering, and may contain an &.
    url, body = (_without_outputs(text) for text in (tag.url, tag.body))
    route = tag_syntax.route(url)
    known = _PARAMETERS.get(route or "", ())
    for name in tag_syntax.parameters(url, body if tag.method == "POST" else ""):
        if not known or name in known or "{}" in name:
            continue
        similar = get_close_matches(name.lower(), known, 1, _MIN_SIMILARITY)
        yield Finding(
            line,
            "unknown-parameter",
            f"{name[:_QUOTED_CHARACTERS]} is not a parameter of /v1/{route} and is ignored",
            f"rename the parameter to {similar[0]}"
            if similar
            else f"remove the parameter, or use one of {', '.join(known)}",
            level="problem" if similar else "note",
        )


def _unknown_options(line: int, tag: tag_syntax.Tag) -> Iterator[Finding]:
    if tag.unknown:
        words = " ".join(tag.unknown)[:_QUOTED_CHARACTERS]
        known = ", ".join(f":{name}" for name in sorted(tag_syntax.OPTIONS))
        yield Finding(line, "unknown-option", f"{words} is not an option of the tag", f"use one of {known}")
    if tag.method not in ("GET", "POST"):
        yield Finding(
            line,
            "unknown-option",
            "Braze supports only the methods GET and POST",
            "write :method post, or remove :method",
        )


def _exposure(line: int, tag: tag_syntax.Tag) -> Iterator[Finding]:
    if tag_syntax.logs_exposure(tag_syntax.route(tag.url.partition("?")[0]), tag.parameters):
        yield Finding(
            line,
            "exposure",
            "each recommendation that is fetched logs an exposure in Amplitude for this user, even in the preview",
            "request only recommendations that the message shows, and preview with your own user",
            level="note",
        )


def _unknown_attributes(markup: Markup) -> Iterator[Finding]:
    for prefix, name in attributes(markup.text):
        if (prefix, name) not in _KNOWN:
            attribute = f"{prefix}." * bool(prefix) + f"${{{name}}}"
            yield Finding(
                markup.line,
                "unknown-attribute",
                f"{attribute} is empty in the preview, because only Braze has the value",
                "test this part of the message in Braze",
                level="note",
            )


def _without_outputs(text: str) -> str:
    return OUTPUT.sub(lambda output: "{}" if output["closed"] else output[0], text)
