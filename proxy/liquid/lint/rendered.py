"""Finds problems that only a rendering shows: wrong names and ids, failed calls, and an abort that prevents a retry."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from liquid.exceptions import LiquidError

from proxy.liquid import tag_syntax
from proxy.liquid.lint.ids import Call, id_findings
from proxy.liquid.lint.names import ids_read, name_findings
from proxy.liquid.lint.place import finding
from proxy.liquid.scanner import Markup, Unreadable
from proxy.liquid.state import Aborted, Run
from proxy.liquid.types import Answer, AskForTag, Finding, Request

_UNNAMED = frozenset({"curly-quotes", "braces", "tag-in-output", "unknown-tag", "unsafe-name", "filter-signs"})
"""Rules about pieces with a syntax error, whose words are not names."""
_FAILED = Answer(500, {}, "", 0.0)


def rendered_findings(
    source: str,
    pieces: Sequence[Markup],
    run: Run,
    known: Collection[str],
    aliases: Mapping[str, Sequence[str]],
    render: Callable[[Run], object],
    ask: AskForTag,
) -> Iterator[Finding]:
    """Yield the findings about a message after its rendering `run`.

    `known`: variables that exist in every message. `aliases`: the operator's short names by kind. `render` renders the
    message again in another run.
    """
    yield from name_findings(source, pieces, run.tags, run.empty_outputs, known, _broken(source, run, pieces))
    tags = {
        (markup.line, tag_syntax.parse(markup.rest).options.get("save") or tag_syntax.UNSAVED): markup
        for markup in pieces
        if markup.name == "connected_content"
    }
    called = [tag for tag in run.tags if tag["status"] is not None]
    calls = [
        (tags[tag["line"], tag["saved_as"]], tag, request)
        for tag, (request, _) in zip(called, run.calls, strict=False)
        if (tag["line"], tag["saved_as"]) in tags
    ]
    answered = [Call(markup, request, tag["json"]) for markup, tag, request in calls if isinstance(tag["json"], dict)]
    yield from id_findings(source, answered, aliases, ids_read(pieces), ask)
    in_answers = [entry for tag in called for entry in _of_the_answer(tag)]
    yield from (entry for entry in in_answers if entry.rule != "unknown-user")
    yield from [entry for entry in in_answers if entry.rule == "unknown-user"][:1]
    for markup, tag, request in calls:
        yield from _json_as_form(source, markup, request)
        if _retries(markup):
            yield from _abort_against_retry(source, pieces, tag, request, run, render)


def _of_the_answer(tag: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a finding for an answer that names a mistake of the tag, or that has no data about the user."""
    answer = tag["json"]
    if not isinstance(answer, dict):
        return
    detail = answer.get("detail")
    if 400 <= tag["status"] < 500 and isinstance(detail, str):
        problem, _, fix = detail.partition("; ")
        yield Finding(
            tag["line"], "failed-call", f"the call fails with status {tag['status']}: {problem}", fix or "fix the tag"
        )
    if answer.get("error") == "blank_id":
        problem = "the user id is blank here, so the tag has no data"
        yield Finding(tag["line"], "blank-id", problem, "render for a user id, unless you test this case", level="note")
    elif answer.get("ok") and answer.get("found") is False:
        problem = "this user is unknown, so the tag has no data"
        yield Finding(
            tag["line"], "unknown-user", problem, "check the user id, unless you test this case", level="note"
        )


def _json_as_form(source: str, markup: Markup, request: Request) -> Iterator[Finding]:
    is_json = request.body.lstrip().startswith(("{", "["))
    if is_json and request.content_type == tag_syntax.FORM and (at := markup.text.find(":body")) >= 0:
        fixed = ":content_type application/json :body"
        yield finding(
            source, (markup.start + at, markup.start + at + len(":body")), "json-as-form",
            "the body is JSON, but the tag sends it as a form", f"write {fixed}", replacement=fixed,
        )  # fmt: skip


def _broken(source: str, run: Run, pieces: Sequence[Markup]) -> set[int]:
    """Return the start of each piece that has a finding about its quotes, braces, tag or names."""
    lines = [0, *(match.end() for match in re.finditer("\n", source))]
    places = [lines[entry.line - 1] + entry.column - 1 for entry in run.findings if entry.rule in _UNNAMED]
    starts = [markup.start for markup in pieces]
    return {starts[max(0, bisect_right(starts, place) - 1)] for place in places if starts}


def _retries(markup: Markup) -> bool:
    tag = tag_syntax.parse(markup.rest)
    return tag.retries or tag.parameters.get("on_error") == "retry"


def _abort_against_retry(
    source: str,
    pieces: Sequence[Markup],
    tag: Mapping[str, Any],
    failed: Request,
    run: Run,
    render: Callable[[Run], object],
) -> Iterator[Finding]:
    """Render again as if the call of `tag` failed, and yield a finding if the message is aborted."""
    answers = [(request, answer) for request, answer in run.calls if request != failed]

    def ask(request: Request) -> Answer:
        return next((answer for recorded, answer in answers if recorded == request), _FAILED)

    failing = run.restart(ask)
    try:
        render(failing)
    except Aborted:
        variable, line = tag["saved_as"], tag["line"]
        aborts = (markup for markup in pieces if (markup.line, markup.name) == (failing.line, "abort_message"))
        abort = next(aborts, None)
        if abort is None:
            return
        yield finding(
            source,
            (abort.start, abort.start + len(abort.text)),
            "abort-against-retry",
            f"abort_message prevents the retry: if the call on line {line} fails, {variable} is empty, so Braze "
            "cancels the message at once",
            f"abort only inside {{% if {variable}.ok %}}, or remove :retry and on_error=retry on line {line}",
        )
    except (LiquidError, RecursionError, Unreadable):
        pass  # the first rendering reports these errors, unless only a failed call causes them
