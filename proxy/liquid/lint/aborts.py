"""Finds each abort_message that prevents a retry by Braze."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from proxy.liquid import tag_syntax
from proxy.liquid.scanner import Markup
from proxy.liquid.types import Finding

_NAME = re.compile(r"(?<![\w.])[\w-]+")
_ANSWERED = re.compile(r"(?<![\w.-])([\w-]+)\.(?:ok|found|personalized)\b(?!\s*(?:==|!=))")


@dataclass(slots=True)
class _Block:
    """An open if, unless or case."""

    mentioned: set[str] = field(default_factory=set)
    """Names in the conditions so far."""
    answered: set[str] = field(default_factory=set)
    """Variables whose call has succeeded if the current branch is entered."""


def aborts_against_retry(pieces: Iterable[Markup]) -> Iterator[Finding]:
    """Yield a finding for each abort_message that is reached if a call with a retry fails."""
    retried: dict[str, int] = {}
    blocks: list[_Block] = []
    for markup in pieces:
        match markup.name:
            case "connected_content":
                tag = tag_syntax.parse(markup.rest)
                if tag.retries or tag.parameters.get("on_error") == "retry":
                    retried[tag.options.get("save") or tag_syntax.UNSAVED] = markup.line
            case "if" | "unless" | "case":
                blocks.append(_Block())
                _enter_branch(blocks[-1], markup)
            case "elsif" | "else" | "when":
                if blocks:
                    _enter_branch(blocks[-1], markup)
            case "endif" | "endunless" | "endcase":
                if blocks:
                    blocks.pop()
            case "abort_message":
                yield from _findings(markup, blocks, retried)


def _enter_branch(block: _Block, branch: Markup) -> None:
    block.mentioned.update(_NAME.findall(branch.rest))
    block.answered = set()
    if branch.name in ("if", "elsif") and not re.search(r"\bor\b", branch.rest):
        block.answered.update(_ANSWERED.findall(branch.rest))


def _findings(abort: Markup, blocks: list[_Block], retried: dict[str, int]) -> Iterator[Finding]:
    mentioned = set[str]().union(*(block.mentioned for block in blocks))
    answered = set[str]().union(*(block.answered for block in blocks))
    for variable, line in retried.items():
        if variable in mentioned and variable not in answered:
            yield Finding(
                abort.line,
                "abort-against-retry",
                f"abort_message prevents the retry: if the call on line {line} fails, {variable} is empty and the "
                "message aborts at once",
                f"abort only inside {{% if {variable}.ok %}}, or remove :retry and on_error=retry on line {line}",
            )
