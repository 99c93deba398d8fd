"""Finds problems in Connected Content tags without rendering."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from proxy.api.drop_in import DROP_IN
from proxy.api.parse import parameters_of
from proxy.liquid import tag_syntax
from proxy.liquid.braze_objects import USER_IDS
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.syntax import FILTERS
from proxy.liquid.lint.tag_call import Call, host_of, without_outputs
from proxy.liquid.lint.urls import joined_words, no_break_space_finding, url_findings
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import OUTPUT, Markup
from proxy.liquid.types import Finding
from proxy.profile.parts import SECTIONS

_ESCAPES = ("url_param_escape", "url_encode")
_FILTER = re.compile(r"\|\s*(\w{1,60})")
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(parameter.name for parameter in parameters)
    for name, parameters in (
        *((section, parameters_of(section)) for section in SECTIONS),
        ("profile", parameters_of(None)),
        ("userprofile", DROP_IN),
    )
}
_CURLY = re.compile("[\u2018-\u201f]")
_VARIABLES = {
    "recommendations": "recs", "properties": "p", "cohorts": "c", "computations": "c", "propensities": "p",
    "profile": "me", "userprofile": "amplitude",
}  # fmt: skip
"""Names for the answer of each route, as in the documentation."""
_QUOTED_CHARACTERS = 80
"""Maximum length of a quotation in a finding."""


def tag_findings(source: str, pieces: Sequence[Markup], unset: Iterable[str]) -> Iterator[Finding]:
    """Yield the findings about the tags. `unset`: the variables that the message reads but no tag sets."""
    unset = list(unset)
    uses_default = bool(re.search(r"\{[{%][^{}]{0,300}\bconnected[.\s|}\[]", source))
    hosts = {host_of(tag_syntax.parse(markup.rest).url) for markup in pieces if _is_route(markup)}
    with_credentials = frozenset(
        host_of(tag.url)
        for tag in (tag_syntax.parse(markup.rest) for markup in pieces if _is_route(markup))
        if tag.options.keys() & {"basic_auth", "auth_credentials"}
    )
    for markup in pieces:
        if markup.kind == "verbatim" or markup.name != "connected_content":
            continue
        joined = joined_words(markup.rest)
        rest = markup.rest
        for word, fixed in joined:
            rest = rest.replace(word, fixed, 1)
        tag = tag_syntax.parse(rest)  # as meant, so that one no-break space gives one finding
        variable = unset[0] if len(unset) == 1 else _VARIABLES.get(tag_syntax.route(tag.path) or "", "answer")
        call = Call(source, markup, tag, variable, with_credentials)
        problems = list(url_findings(call, hosts))
        yield from problems
        if joined and not any(entry.rule in ("space-in-url", "quoted-url") for entry in problems):
            yield no_break_space_finding(call, *joined[0])
        if not call.is_foreign:
            rules = (_unescaped, _cut_body, _transport, _half_retry, _unknown_parameters, _exposure)
            for rule in rules if call.is_own_service or call.has_credentials else (_unescaped, _cut_body, _exposure):
                yield from rule(call)
        yield from _save(call, uses_default=uses_default)
        yield from _options(call, space=any(entry.rule == "space-in-url" for entry in problems))


def _is_route(markup: Markup) -> bool:
    if markup.kind == "verbatim" or markup.name != "connected_content":
        return False
    return tag_syntax.route(without_outputs(tag_syntax.parse(markup.rest).path)) is not None


def _unescaped(call: Call) -> Iterator[Finding]:
    query = tag_syntax.query(call.tag.url)
    form = call.tag.body if call.tag.content_type == tag_syntax.FORM else ""
    for text in (query, form):
        for output in OUTPUT.finditer(text):
            if output["closed"] and not _is_escaped(output[0]):
                expression = output[0][2:-2].strip()
                if re.sub(r"[\W_]", "", expression).lower() in {"userid", *USER_IDS} and "$" not in expression:
                    continue  # the finding about the missing ${ } comes first
                fixed = f"{{{{{expression} | url_param_escape}}}}"
                yield call.finding(
                    output[0],
                    "unescaped",
                    f"{{{{{expression}}}}} is not escaped, so a value with + or & arrives as a different value",
                    f"write {fixed}",
                    replacement=fixed,
                )


def _is_escaped(output: str) -> bool:
    """Return whether an output has a filter that escapes. A misspelt filter counts, as it has a finding of its own."""
    return any(
        name in _ESCAPES or (name not in FILTERS and similar(name, _ESCAPES)) for name in _FILTER.findall(output)
    )


def _cut_body(call: Call) -> Iterator[Finding]:
    if call.tag.remainder:
        yield call.finding(
            ":body",
            "cut-body",
            f"the body ends at its first space, so Braze sends only {call.tag.body[:_QUOTED_CHARACTERS]}",
            "remove the spaces, or write {% capture body %}…{% endcapture %} before the tag and :body {{body}}",
        )


def _transport(call: Call) -> Iterator[Finding]:
    tag = call.tag
    if tag.url.lower().startswith("http://"):
        yield call.finding(
            tag.url[:7],
            "insecure",
            "http:// sends the user id and the credentials without encryption",
            "write https://",
            replacement="https://",
        )
    is_misspelt = any(similar(word.strip(":="), ("basic_auth", "auth_credentials")) for word in tag.unknown)
    if not call.has_credentials and call.is_own_service and not is_misspelt:
        yield call.finding(
            "connected_content",
            "without-credentials",
            "the tag has no credentials, so Braze gets status 401; the preview uses your credentials",
            "add :basic_auth and the name of the credentials in Braze",
        )
    name, colon, _ = tag.options.get("basic_auth", "").partition(":")
    if colon and "{{" not in name and " " not in tag.options["basic_auth"]:
        yield call.finding(
            tag.options["basic_auth"],
            "password-in-tag",
            ":basic_auth takes the name of credentials that are stored in Braze, not a name and a password",
            f"store both in Braze under Settings > Connected Content > Credentials, and write :basic_auth {name} "
            "with the name of these credentials",
            replacement=name,
        )
    if tag.method == "POST" and "cache_max_age" in tag.options:
        option = f":cache_max_age {tag.options['cache_max_age']}".strip()
        yield call.finding(
            option,
            "cached-post",
            "a POST with :cache_max_age shows one user's data to other users, because Braze caches by URL alone",
            "remove :cache_max_age, or use GET",
            replacement="",
        )


def _save(call: Call, *, uses_default: bool) -> Iterator[Finding]:
    # The finding about a misspelt option covers this.
    is_misspelt = re.search(r"\s:save[:=]\s", call.markup.text) or any(
        similar(word.strip(":="), ("save",)) for word in call.tag.unknown
    )
    if not call.tag.options.get("save") and not uses_default and not is_misspelt:
        closing = "-%}" if call.markup.text.endswith("-%}") else "%}"
        at = call.markup.start + len(call.markup.text) - len(closing)
        fixed = f":save {call.variable}"
        blank = " " * (not call.source[at - 1].isspace())
        yield finding(
            call.source,
            (at, at + len(closing)),
            "unsaved",
            "the tag has no :save, so Braze saves JSON in the variable connected, and prints any other answer",
            f"add {fixed} at the end of the tag",
            replacement=f"{blank}{fixed} {closing}",
        )


def _half_retry(call: Call) -> Iterator[Finding]:
    on_error = call.tag.parameters.get("on_error") == "retry"
    if call.tag.retries and not on_error:
        yield call.finding(
            ":retry",
            "half-retry",
            "without on_error=retry, :retry has no effect on missing data, because the status is 200",
            "add on_error=retry to the parameters, or remove :retry",
        )
    if on_error and not call.tag.retries:
        yield call.finding(
            "on_error",
            "half-retry",
            "on_error=retry without :retry makes Braze send the message with empty data",
            "add :retry to the tag, or remove on_error=retry",
        )


def _unknown_parameters(call: Call) -> Iterator[Finding]:
    # The text of an output is known only after rendering, and may contain an &.
    url, body = (without_outputs(text) for text in (call.tag.url, call.tag.body))
    route = tag_syntax.route(url)
    known = _PARAMETERS.get(route or "", ())
    for name in tag_syntax.parameters(url, body if call.tag.method == "POST" else ""):
        if not known or name in known or "{}" in name:
            continue
        if name.startswith("amp;"):
            fixed = name.replace("amp;", "&", 1)
            yield call.finding(
                f"&{name}", "unknown-parameter", "&amp; is the HTML for &, so the parameter after it is ignored",
                f"write {fixed}", replacement=fixed,
            )  # fmt: skip
            continue
        suggestion = similar(name, known)
        yield call.finding(
            name,
            "unknown-parameter",
            f"{name[:_QUOTED_CHARACTERS]} is not a parameter of /v1/{route} and is ignored",
            f"rename the parameter to {suggestion}"
            if suggestion
            else f"remove the parameter, or use one of {', '.join(known)}",
            level="problem" if suggestion else "note",
            replacement=suggestion,
        )


def _options(call: Call, *, space: bool) -> Iterator[Finding]:
    tag = call.tag
    save = tag.options.get("save", "")
    if save and not re.fullmatch(r"[A-Za-z_][\w-]*", save) and "{{" not in save and not _CURLY.search(save):
        name = re.search(r"[A-Za-z_][\w-]*", save)
        fixed = name[0] if name else call.variable
        yield call.finding(
            save, "save-name", f"{save} is not a valid variable name", f"write :save {fixed}", replacement=fixed
        )
    masked = OUTPUT.sub(lambda output: "x" * len(output[0]), call.markup.text)
    for match in re.finditer(r"\s(:(?P<name>[a-z_]+)[:=])(?=\s)", masked):
        if match["name"] in tag_syntax.OPTIONS:
            yield call.finding(
                match[1], "unknown-option", f"{match[1]} is not an option of the tag", f"write :{match['name']}",
                replacement=f":{match['name']}",
            )  # fmt: skip
    if tag.unknown and not space:
        words = " ".join(tag.unknown)[:_QUOTED_CHARACTERS]
        first = tag.unknown[0]
        suggestion = similar(first.strip(":="), tag_syntax.OPTIONS)
        known = ", ".join(f":{name}" for name in sorted(tag_syntax.OPTIONS))
        yield call.finding(
            first,
            "unknown-option",
            f"{words} is not an option of the tag",
            f"write :{suggestion}" if suggestion else f"use one of {known}",
            replacement=f":{suggestion}" if suggestion else None,
        )
    if "body" in tag.options and tag.method == "GET":
        text, fixed = (tag.options["method"], "post") if "method" in tag.options else (":body", ":method post :body")
        yield call.finding(
            text, "body-without-post", "Braze sends :body only with :method post", f"write {fixed}", replacement=fixed
        )
    if tag.method not in ("GET", "POST"):
        yield call.finding(
            tag.options["method"],
            "unknown-option",
            "Braze supports only the methods GET and POST",
            "write :method post, or remove :method",
            replacement="post",
        )


def _exposure(call: Call) -> Iterator[Finding]:
    if tag_syntax.logs_exposure(tag_syntax.route(call.tag.path), call.tag.parameters):
        yield call.finding(
            "connected_content",
            "exposure",
            "fetching a recommendation logs an exposure in Amplitude for this user, even in the preview",
            "request only recommendations that the message shows, and preview with your own user",
            level="note",
        )
