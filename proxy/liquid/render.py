"""Renders a Braze message with python-liquid. Each Connected Content tag calls the service."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from liquid.exceptions import LiquidError, LiquidInterrupt, ResourceLimitError, StopRender
from liquid.output import LimitedStringIO

from proxy.liquid.braze_objects import value_names
from proxy.liquid.environment import BrazeContext, BrazeEnvironment
from proxy.liquid.limits import MAX_FINDINGS, MAX_OUTPUT, MAX_SOURCE
from proxy.liquid.lint.delimiters import delimiter_findings, opening_span
from proxy.liquid.lint.merge import merge_findings
from proxy.liquid.lint.message import findings
from proxy.liquid.lint.place import finding
from proxy.liquid.lint.rendered import rendered_findings
from proxy.liquid.ruby import encodable
from proxy.liquid.scanner import HTML_COMMENT, Markup, TooLarge, Unreadable, line_at, markups, rewrite
from proxy.liquid.state import Aborted, Run
from proxy.liquid.types import NO_ALIASES, OUR_LIMIT, SECONDS, AskForTag, Finding, Rendering, User

_LIQUID = re.compile(r"\{[{%]")
_UNEXPECTED = re.compile("unexpected tag '(.+)'")
_UNCLOSED = re.compile(r"expected tag (\w+)")
"""Errors of python-liquid."""


def render(
    source: str,
    user: User,
    ask: AskForTag,
    *,
    aliases: Mapping[str, Sequence[str]] = NO_ALIASES,
    values: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> Rendering:
    """Return the message that Braze would send to `user`, with the findings. `ask` answers each tag.

    `aliases`: the operator's short names by kind, for findings about unknown ids. `values`: test values for the
    names that only Braze knows (`proxy.liquid.braze_objects`).
    """
    run = Run(user, ask, values or {}, seconds, monotonic)
    environment = BrazeEnvironment(run)
    source = encodable(source)
    pieces: list[Markup] = []
    try:
        if len(source) > MAX_SOURCE:
            raise TooLarge(1, f"the message is longer than {MAX_SOURCE:,} characters; preview a part of the message")
        pieces = markups(source)
        for name, line in value_names(pieces):
            run.need(name, line)
        for piece in pieces:
            if piece.name == HTML_COMMENT and _LIQUID.search(piece.text):
                run.note(_in_html_comment(piece.line))
    except TooLarge as large:
        return _rendering(run, source, pieces, "refused", reason=f"line {large.line}: {large.problem}; {OUR_LIMIT}")
    except Unreadable as unreadable:
        pieces = unreadable.pieces
        _note(run, findings(source, pieces, environment.tags) if pieces else delimiter_findings(source[:MAX_SOURCE]))
        span = opening_span(source, unreadable.line)
        _note(run, [finding(source, span, "unreadable", *_refusal(unreadable.problem))])
        outcome = {"outcome": "refused", "reason": f"line {unreadable.line}: {unreadable.problem}"}
        return _rendering(run, source, pieces, **outcome)
    _note(run, findings(source, pieces, environment.tags))
    plain = rewrite(source, pieces)
    outcome = _outcome(environment, plain, run)

    def render_again(run: Run) -> str:
        return _message(BrazeEnvironment(run), plain)

    _note(run, rendered_findings(source, pieces, run, environment.globals, aliases, render_again, ask))
    if outcome["outcome"] == "sent":
        outcome["reason"] = _doubt(outcome["message"], run)
    return _rendering(run, source, pieces, **outcome)


def _refusal(reason: str) -> tuple[str, str]:
    """Return the problem and the fix of a finding about a message that Braze refuses."""
    cause, _, fix = reason.partition("; ")
    return f"{cause}, so Braze refuses the whole message", fix or "correct this line"


def _note(run: Run, findings: Iterable[Finding]) -> None:
    # A message may nest more deeply than the rules can follow. Braze also refuses such a message.
    with suppress(RecursionError):
        for entry in findings:
            if not run.note(entry) or not run.in_time():
                break


def _outcome(environment: BrazeEnvironment, plain: str, run: Run) -> dict[str, Any]:
    try:
        message = _message(environment, plain)
    except Unreadable as unreadable:  # in a Content Block
        run.note(Finding(unreadable.line, "unreadable", *_refusal(unreadable.problem)))
        return {"outcome": "refused", "reason": f"line {unreadable.line}: {unreadable.problem}"}
    except Aborted as aborted:
        return {"outcome": "aborted", "reason": aborted.reason}
    except RecursionError:
        return {"outcome": "refused", "reason": "an expression is nested too deeply; simplify the expression"}
    except LiquidError as error:
        reason = _reason(error)
        if not isinstance(error, ResourceLimitError):
            problem = reason.partition(": ")[2] if reason.startswith("line ") else reason
            run.note(Finding(run.line_of(error.token), "unreadable", *_refusal(problem)))
        return {"outcome": "refused", "reason": reason}
    if run.retried is not None:
        return {"outcome": "retried", "message": message, "reason": run.retried}
    return {"outcome": "sent", "message": message}


def _doubt(message: str, run: Run) -> str:
    """Return why a message that Braze would send needs attention, or an empty text."""
    for tag in run.tags:
        if tag["needs_render"]:
            return f"the tag on line {tag['line']} has no answer yet; press Render"
    for tag in run.tags:
        if (status := tag["status"] or 0) >= 400:
            fix = "fix its tag" if status < 500 else "render the message again later"
            return f"the call on line {tag['line']} failed with status {status}; {fix}"
    if "Liquid error" in message:
        return "the message contains “Liquid error”; fix the listed problems"
    if not message.strip():
        has_problems = any(entry.level == "problem" for entry in run.findings)
        fix = "fix the listed problems" if has_problems else "add a text for users without data"
        return f"the message is empty; {fix}"
    return ""


def _message(environment: BrazeEnvironment, plain: str) -> str:
    template = environment.from_string(plain)
    context = BrazeContext(template, globals=environment.globals)
    buffer = LimitedStringIO(MAX_OUTPUT, newline="")
    try:
        for node in template.nodes:
            node.render(context, buffer)
    except (LiquidInterrupt, StopRender):
        pass  # a break outside of a loop ends the message
    return buffer.getvalue()


def _rendering(
    run: Run, source: str, pieces: Sequence[Markup], outcome: Any, message: str = "", reason: str = ""
) -> Rendering:
    ordered = merge_findings(run.findings, source, pieces)
    if len(run.findings) >= MAX_FINDINGS:
        problem = f"the preview shows only the first {MAX_FINDINGS:,} findings"
        ordered.append(Finding(ordered[-1].line, "more-findings", problem, "fix these problems first", level="note"))
    unknown = tuple(run.unknown_values.items())
    return Rendering(outcome, message, reason, tuple(run.tags), tuple(ordered), unknown)


def _in_html_comment(line: int) -> Finding:
    return Finding(
        line,
        "html-comment",
        "Braze removes HTML comments first, so the Liquid in this comment does not run",
        "move the Liquid out of the comment if it should run",
        level="note",
    )


def _reason(error: LiquidError) -> str:
    token = error.token
    where = ""
    if token is not None and token.start_index >= 0:
        where = f"line {line_at(token.source, token.start_index)}: "
    problem = re.sub(r"\s+", " ", str(error.message or "Liquid cannot read the message; check its syntax"))
    if tag := _UNEXPECTED.fullmatch(problem):
        problem = f"{tag[1]} is not a tag; check its spelling"
        if re.match("end|else|elsif|when", tag[1]):
            problem = f"{{% {tag[1]} %}} has no opening tag; remove it, or add the opening tag before it"
    elif tag := _UNCLOSED.match(problem):
        problem = f"a block is never closed; add {tag[1]}"
    reason = where + problem
    return f"{reason}; {OUR_LIMIT}" if isinstance(error, ResourceLimitError) else reason
