"""Renders a Braze message with python-liquid, asking the service for each Connected Content tag."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from liquid.exceptions import LiquidError, LiquidInterrupt, StopRender
from liquid.output import LimitedStringIO

from proxy.liquid.environment import context_of, template_of
from proxy.liquid.limits import Limits
from proxy.liquid.lint.tags import findings
from proxy.liquid.ruby_output import sound
from proxy.liquid.scanner import Unreadable, require_closed, rewritten
from proxy.liquid.state import Aborted, Run
from proxy.liquid.types import Ask, Finding, Rendering, User

LIMITS = Limits()


def render(
    source: str, user: User, ask: Ask, *, limits: Limits = LIMITS, monotonic: Callable[[], float] = time.monotonic
) -> Rendering:
    """Return the message that Braze would send to `user`, and the findings. `ask` answers each tag."""
    run = Run(user, ask, limits, monotonic)
    source = sound(source)
    try:
        if len(source) > limits.source:
            raise Unreadable(1, f"it is longer than {limits.source:,} characters, the most that is previewed")
        require_closed(source)
        # Stops at the limit of findings.
        all(map(run.note, findings(source)))
        message = _rendered(source, run)
    except Unreadable as unreadable:
        where = f"line {unreadable.line}: {unreadable.problem}"
        finding = Finding(unreadable.line, "unreadable", unreadable.problem, "fix it: Braze refuses the whole message")
        return _done(run, "refused", reason=where, more=[finding])
    except Aborted as aborted:
        return _done(run, "aborted", reason=aborted.reason)
    except RecursionError:
        return _done(run, "refused", reason="an expression is nested too deeply to be previewed")
    except LiquidError as error:
        return _done(run, "refused", reason=_reason(error))
    if run.retried is not None:
        return _done(run, "retried", message=message, reason=run.retried)
    return _done(run, "sent", message=message)


def _rendered(source: str, run: Run) -> str:
    template = template_of(rewritten(source), run)
    context = context_of(template, run)
    buffer = LimitedStringIO(run.limits.output)
    try:
        for node in template.nodes:
            node.render(context, buffer)
    except (LiquidInterrupt, StopRender):
        pass  # a break outside of a loop ends the message
    return buffer.getvalue()


def _done(
    run: Run, outcome: Any, *, message: str = "", reason: str = "", more: list[Finding] | None = None
) -> Rendering:
    ordered = sorted(dict.fromkeys([*run.findings, *(more or [])]), key=lambda finding: finding.line)
    if len(run.findings) >= run.limits.findings:
        most = f"only the first {run.limits.findings:,} findings are shown; there may be more"
        ordered.append(Finding(ordered[-1].line, "more-findings", most, "fix these first", level="note"))
    return Rendering(outcome, message, reason, tuple(run.exchanges), tuple(ordered))


def _reason(error: LiquidError) -> str:
    token = error.token
    where = ""
    if token is not None and token.start_index >= 0:
        where = f"line {token.source.count(chr(10), 0, token.start_index) + 1}: "
    return where + re.sub(r"\s+", " ", str(error.message or "Liquid cannot read it"))
