"""Finds problems in Connected Content tags without rendering."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.api.drop_in import DROP_IN
from proxy.api.parse import parameters_of
from proxy.liquid import tag_syntax
from proxy.liquid.lint.attributes import USER_IDS
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.values import similar
from proxy.liquid.scanner import OUTPUT, Markup
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
_QUOTED_URL = re.compile(r"""["'\u201c\u201d\u2018\u2019](.*?)["'\u201c\u201d\u2018\u2019]?\Z""", re.DOTALL)
_CURLY = re.compile("[\u2018-\u201f]")
_VARIABLES = {
    "recommendations": "recs", "properties": "p", "cohorts": "c", "computations": "c", "propensities": "p",
    "profile": "me", "userprofile": "amplitude",
}  # fmt: skip
"""Names for the answer of each route, as in the documentation."""
_EXAMPLE_HOST = "your-host"
_QUOTED_CHARACTERS = 80
"""Maximum length of a quotation in a finding."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A Connected Content tag in the message `source`. `variable`: a name for its answer if it has none."""

    source: str
    markup: Markup
    tag: tag_syntax.Tag
    variable: str
    hosts: frozenset[str]
    """The hosts that the message calls with credentials on a data route."""

    @property
    def has_credentials(self) -> bool:
        return bool(self.tag.options.keys() & {"basic_auth", "auth_credentials", "headers"})

    @property
    def ours(self) -> bool:
        """Return whether the tag probably calls this service, and no other host with the same path."""
        host = _host(self.tag.url)
        if host == _EXAMPLE_HOST or host in self.hosts:
            return True
        parameters = self.tag.parameters
        return not self.hosts and (
            not parameters or any(similar(name, ("user_id", "device_id")) for name in parameters)
        )

    @property
    def url_path(self) -> str:
        """Return the URL without its query, and with `{}` for each output."""
        return without_outputs(self.tag.url.partition("?")[0])

    @property
    def foreign(self) -> bool:
        """Return whether the URL is no data route. The path of a URL with an output is known after rendering."""
        return tag_syntax.route(self.url_path) is None and "{}" not in re.sub(r"\A\w*:?//[^/]*", "", self.url_path)

    def finding(
        self,
        text: str,
        rule: str,
        problem: str,
        fix: str,
        *,
        level: Literal["problem", "note"] = "problem",
        replacement: str | None = None,
    ) -> Finding:
        """Return a finding about the first `text` in the tag, or about the whole tag."""
        at = self.markup.text.find(text) if text else -1
        start = self.markup.start + max(0, at)
        end = start + (len(text) if at >= 0 else len(self.markup.text))
        return finding(
            self.source, (start, end), rule, problem, fix, level=level, replacement=replacement if at >= 0 else None
        )


def tag_findings(source: str, pieces: Sequence[Markup], unset: Iterable[str]) -> Iterator[Finding]:
    """Yield the findings about the tags. `unset`: the variables that the message reads and no tag sets."""
    unset = list(unset)
    uses_default = bool(re.search(r"\{[{%][^{}]{0,300}\bconnected[.\s|}\[]", source))
    hosts = {_host(tag_syntax.parse(markup.rest).url) for markup in pieces if _is_route(markup)}
    with_credentials = frozenset(
        _host(tag.url)
        for tag in (tag_syntax.parse(markup.rest) for markup in pieces if _is_route(markup))
        if tag.options.keys() & {"basic_auth", "auth_credentials"}
    )
    for markup in pieces:
        if markup.kind == "verbatim" or markup.name != "connected_content":
            continue
        tag = tag_syntax.parse(markup.rest)
        variable = (
            unset[0] if len(unset) == 1 else _VARIABLES.get(tag_syntax.route(tag.url.partition("?")[0]) or "", "answer")
        )
        call = _Call(source, markup, tag, variable, with_credentials)
        problems = list(_url(call, hosts))
        yield from problems
        if not call.foreign:
            rules = (_unescaped, _transport, _half_retry, _unknown_parameters, _exposure)
            for rule in rules if call.ours or call.has_credentials else (_unescaped, _exposure):
                yield from rule(call)
        yield from _save(call, uses_default=uses_default)
        yield from _options(call, space=any(entry.rule == "space-in-url" for entry in problems))


def without_outputs(text: str) -> str:
    """Return a text with `{}` for each closed output."""
    return OUTPUT.sub(lambda output: "{}" if output["closed"] else output[0], text)


def _is_route(markup: Markup) -> bool:
    if markup.kind == "verbatim" or markup.name != "connected_content":
        return False
    return tag_syntax.route(without_outputs(tag_syntax.parse(markup.rest).url.partition("?")[0])) is not None


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].lower()


def _url(call: _Call, hosts: set[str]) -> Iterator[Finding]:
    """Yield at most one finding about the form of the URL."""
    url, rest = call.tag.url, call.markup.rest
    masked = OUTPUT.sub(lambda output: "x" * len(output[0]), rest)
    options = re.search(r"(?:\A|\s):[a-z_]+(?=\s|\Z)", masked)
    end = len(masked[: options.start() if options else len(masked)].rstrip())
    whole = rest[:end]
    words = masked[:end].split()
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
            whole, "space-in-url", "the URL has a space, so Braze cuts it there", f"write {_cut(fixed)}",
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
    elif call.foreign:
        yield _foreign(call, hosts)


def _foreign(call: _Call, hosts: set[str]) -> Finding:
    url, host = call.tag.url, _host(call.tag.url)
    path = call.url_path.partition("://")[2].partition("/")[2].rstrip("/")
    name = path.removeprefix("v1/")
    route = similar(name, sorted(tag_syntax.ROUTES))
    parameters = call.tag.parameters.keys()
    if route and (host in hosts or host == _EXAMPLE_HOST or parameters & {"user_id", "device_id"}):
        return call.finding(
            f"/{path}", "unknown-route", f"/{path} is not a route of this service", f"write /v1/{route}",
            replacement=f"/v1/{route}",
        )  # fmt: skip
    if host in hosts or host == _EXAMPLE_HOST:
        routes = ", ".join(sorted(tag_syntax.ROUTES))
        return call.finding(
            url, "unknown-route", f"/{path} is not a route of this service", f"write /v1/ and one of {routes}"
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


def _unescaped(call: _Call) -> Iterator[Finding]:
    query = call.tag.url.partition("?")[2]
    form = call.tag.body if call.tag.content_type == tag_syntax.FORM else ""
    for text in (query, form):
        for output in OUTPUT.finditer(text):
            if output["closed"] and not _ESCAPED.search(output[0]):
                expression = output[0][2:-2].strip()
                if re.sub(r"[\W_]", "", expression).lower() in {"userid", *USER_IDS} and "$" not in expression:
                    continue  # the finding about the missing ${ } comes first
                fixed = f"{{{{{expression} | url_param_escape}}}}"
                yield call.finding(
                    output[0],
                    "unescaped",
                    f"{{{{{expression}}}}} is not escaped, so a value with + or & becomes a different value",
                    f"write {fixed}",
                    replacement=fixed,
                )


def _transport(call: _Call) -> Iterator[Finding]:
    tag = call.tag
    if tag.url.lower().startswith("http://"):
        yield call.finding(
            tag.url[:7],
            "insecure",
            "http:// sends the user id and the credentials without encryption",
            "write https://",
            replacement="https://",
        )
    if not call.has_credentials and call.ours:
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
            "a POST with :cache_max_age shows one user's content to another, because Braze caches by URL alone",
            "remove :cache_max_age, or use GET",
            replacement="",
        )


def _save(call: _Call, *, uses_default: bool) -> Iterator[Finding]:
    if not call.tag.options.get("save") and not uses_default:
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


def _half_retry(call: _Call) -> Iterator[Finding]:
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


def _unknown_parameters(call: _Call) -> Iterator[Finding]:
    # The text of an output is known only after rendering, and may contain an &.
    url, body = (without_outputs(text) for text in (call.tag.url, call.tag.body))
    route = tag_syntax.route(url)
    known = _PARAMETERS.get(route or "", ())
    for name in tag_syntax.parameters(url, body if call.tag.method == "POST" else ""):
        if not known or name in known or "{}" in name:
            continue
        meant = similar(name, known)
        yield call.finding(
            name,
            "unknown-parameter",
            f"{name[:_QUOTED_CHARACTERS]} is not a parameter of /v1/{route} and is ignored",
            f"rename the parameter to {meant}" if meant else f"remove the parameter, or use one of {', '.join(known)}",
            level="problem" if meant else "note",
            replacement=meant,
        )


def _options(call: _Call, *, space: bool) -> Iterator[Finding]:
    tag = call.tag
    save = tag.options.get("save", "")
    if save and not re.fullmatch(r"[A-Za-z_][\w-]*", save) and "{{" not in save and not _CURLY.search(save):
        name = re.search(r"[A-Za-z_][\w-]*", save)
        fixed = name[0] if name else call.variable
        yield call.finding(
            save, "save-name", f"{save} is not the name of a variable", f"write :save {fixed}", replacement=fixed
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
        meant = similar(first.strip(":="), tag_syntax.OPTIONS)
        known = ", ".join(f":{name}" for name in sorted(tag_syntax.OPTIONS))
        yield call.finding(
            first,
            "unknown-option",
            f"{words} is not an option of the tag",
            f"write :{meant}" if meant else f"use one of {known}",
            replacement=f":{meant}" if meant else None,
        )
    if tag.method not in ("GET", "POST"):
        yield call.finding(
            tag.options["method"],
            "unknown-option",
            "Braze supports only the methods GET and POST",
            "write :method post, or remove :method",
            replacement="post",
        )


def _exposure(call: _Call) -> Iterator[Finding]:
    if tag_syntax.logs_exposure(tag_syntax.route(call.tag.url.partition("?")[0]), call.tag.parameters):
        yield call.finding(
            "connected_content",
            "exposure",
            "each recommendation that is fetched logs an exposure in Amplitude for this user, even in the preview",
            "request only recommendations that the message shows, and preview with your own user",
            level="note",
        )


def _cut(text: str) -> str:
    return text if len(text) <= 2 * _QUOTED_CHARACTERS else text[: 2 * _QUOTED_CHARACTERS] + " …"
