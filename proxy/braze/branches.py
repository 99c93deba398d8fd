"""Which conditions an abort_message stands in, and whether it keeps Braze from trying again. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from proxy.braze import tag
from proxy.braze.exchange import Finding
from proxy.braze.source import Markup


@dataclass(slots=True)
class _Block:
    """An open if, unless or case. `branch`: how its present branch is entered; `conditions`: all up to it."""

    branch: str
    conditions: list[str] = field(default_factory=list)

    def only_with_an_answer(self, variable: str) -> bool:
        """Say whether the present branch is entered only when the tag was answered."""
        said = rf"{re.escape(variable)}\.(?:ok|found|personalized)\b(?!\s*(?:==|!=))"
        condition = self.conditions[-1]
        return (
            self.branch in ("if", "elsif") and not re.search(r"\bor\b", condition) and bool(re.search(said, condition))
        )


def aborts_against_retry(pieces: Iterable[Markup]) -> Iterator[Finding]:
    """Yield each abort_message that is reached when a call fails which Braze was meant to try again."""
    retried: dict[str, int] = {}
    open_blocks: list[_Block] = []
    for markup in pieces:
        match markup.name:
            case "connected_content":
                written = tag.parse(markup.rest)
                asked = tag.parameters(written.url, written.options.get("body", ""))
                if written.retries or asked.get("on_error") == "retry":
                    retried[written.options.get("save") or tag.UNSAVED] = markup.line
            case "if" | "unless" | "case":
                open_blocks.append(_Block(markup.name, [markup.rest]))
            case "elsif" | "else" | "when" if open_blocks:
                open_blocks[-1].branch = markup.name
                open_blocks[-1].conditions.append(markup.rest)
            case "endif" | "endunless" | "endcase" if open_blocks:
                open_blocks.pop()
            case "abort_message":
                yield from _judged(markup, open_blocks, retried)


def _judged(abort: Markup, blocks: list[_Block], retried: dict[str, int]) -> Iterator[Finding]:
    for variable, line in retried.items():
        mentioned = rf"(?<![\w.]){re.escape(variable)}(?![\w-])"
        asked = any(re.search(mentioned, condition) for block in blocks for condition in block.conditions)
        if asked and not any(block.only_with_an_answer(variable) for block in blocks):
            yield Finding(
                abort.line,
                "abort-against-retry",
                f"when the call in line {line} fails, {variable} is empty and this aborts at once: "
                "Braze does not try again",
                f"abort only inside {{% if {variable}.ok %}}, or remove :retry and on_error=retry there",
            )
