"""Finds each abort_message that prevents a retry by Braze."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxy.liquid import tag_syntax
from proxy.liquid.scanner import Markup
from proxy.liquid.types import Finding

_NAME = re.compile(r"(?<![\w.])[\w-]+")
_ANSWERED = re.compile(r"(?<![\w.-])([\w-]+)\.(?:ok|found|personalized)\b(?!\s*(?:==|!=))")


@dataclass(slots=True)
class _Block:
    """An open if, unless or case."""

    mentioned: Counter[str]
    """The names in its conditions so far."""
    answered: frozenset[str]
    """The variables whose tag was answered whenever the current branch is entered."""


class _OpenBlocks:
    """The blocks around a place in the template. Counters save each abort from scanning all of them."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._mentioned: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()

    def open(self, name: str, condition: str) -> None:
        """Enter a block."""
        self._blocks.append(_Block(Counter(), frozenset()))
        self.branch(name, condition)

    def branch(self, name: str, condition: str) -> None:
        """Enter the next branch of the innermost block."""
        if not self._blocks:
            return
        block = self._blocks[-1]
        names = Counter(_NAME.findall(condition))
        block.mentioned.update(names)
        self._mentioned.update(names)
        self._answered.subtract(block.answered)
        block.answered = frozenset(_answered(name, condition))
        self._answered.update(block.answered)

    def close(self) -> None:
        """Leave the innermost block."""
        if self._blocks:
            block = self._blocks.pop()
            self._mentioned.subtract(block.mentioned)
            self._answered.subtract(block.answered)

    def depend_on(self, variable: str) -> bool:
        """Return whether a condition mentions `variable` and none ensures that its tag was answered."""
        return self._mentioned[variable] > 0 and not self._answered[variable]


def _answered(branch: str, condition: str) -> Iterable[str]:
    if branch not in ("if", "elsif") or re.search(r"\bor\b", condition):
        return ()
    return _ANSWERED.findall(condition)


def aborts_against_retry(pieces: Iterable[Markup]) -> Iterator[Finding]:
    """Yield a finding for each abort_message that is reached when a call with a retry fails."""
    retried: dict[str, int] = {}
    blocks = _OpenBlocks()
    for markup in pieces:
        match markup.name:
            case "connected_content":
                tag = tag_syntax.parse(markup.rest)
                parameters = tag_syntax.parameters(tag.url, tag.options.get("body", ""))
                if tag.retries or parameters.get("on_error") == "retry":
                    retried[tag.options.get("save") or tag_syntax.UNSAVED] = markup.line
            case "if" | "unless" | "case":
                blocks.open(markup.name, markup.rest)
            case "elsif" | "else" | "when":
                blocks.branch(markup.name, markup.rest)
            case "endif" | "endunless" | "endcase":
                blocks.close()
            case "abort_message":
                yield from _findings(markup, blocks, retried)


def _findings(abort: Markup, blocks: _OpenBlocks, retried: dict[str, int]) -> Iterator[Finding]:
    for variable, line in retried.items():
        if blocks.depend_on(variable):
            yield Finding(
                abort.line,
                "abort-against-retry",
                f"when the call in line {line} fails, {variable} is empty and this aborts at once: "
                "Braze does not try again",
                f"abort only inside {{% if {variable}.ok %}}, or remove :retry and on_error=retry there",
            )
