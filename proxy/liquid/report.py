"""Formats a rendering as JSON for the page and as text for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from proxy.liquid.types import Answer, HeldAnswer, Rendering


def report(rendering: Rendering, answers: Iterable[HeldAnswer] = ()) -> dict[str, Any]:
    """Return a rendering as the JSON of the playground, with the `answers` that the page may send back."""
    return {
        "outcome": rendering.outcome,
        "good": rendering.good,
        "message": rendering.message,
        "reason": rendering.reason,
        "tags": list(rendering.tags),
        "findings": [asdict(finding) for finding in rendering.findings],
        "answers": [_held(answer) for answer in answers],
        "unknown_values": [{"name": name, "line": line} for name, line in rendering.unknown_values],
    }


def _held(answer: HeldAnswer) -> dict[str, Any]:
    fields = asdict(answer)
    del fields["request"]["cache_only"]  # says how to answer, and is not part of the request
    return fields


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a terminal shows after the message."""
    exposed = {tag["line"] for tag in report["tags"] if tag["exposure"]}
    for finding in report["findings"]:
        if finding["rule"] == "exposure" and finding["line"] in exposed:
            continue  # the lines of the tag below report the exposure
        yield f"line {finding['line']}: {finding['problem']}"
        yield f"    fix: {finding['fix']}"
    for tag in report["tags"]:
        saved = f" as {tag['saved_as']}" if tag["saved_as"] else ""
        yield f"line {tag['line']}: {tag['method']} {tag['url']}{saved}"
        if tag["status"] is None:
            yield "    no call was made"
            continue
        facts = [str(tag["status"]), tag["cache_status"] or "", f"age {tag['age']} s" if tag["age"] is not None else ""]
        facts += [f"{tag['calls']} call{'s' * (tag['calls'] != 1)} to Amplitude", f"{tag['ms']} ms"]
        yield "    " + ", ".join(filter(None, facts))
        if tag["exposure"]:
            yield f"    {tag['exposure']}"
        yield "    " + json.dumps(tag["json"], ensure_ascii=False)


def tag_report(
    line: int, method: str, url: str, route: str | None, saved_as: str | None, answer: Answer | None, content: Any
) -> dict[str, Any]:
    """Return the report of a tag, with an empty `exposure`. `content` is the body of `answer`.

    A tag with a route and without an answer waits for the next rendering that may make calls.
    """
    headers = answer.headers if answer else {}
    age = headers.get("age")
    return {
        "line": line,
        "method": method,
        "url": url,
        "called": f"/v1/{route}" if route else None,
        "saved_as": saved_as,
        "status": answer.status if answer else None,
        "needs_render": route is not None and answer is None,
        "json": content,
        "cache_status": headers.get("cache-status", "").partition("; ")[2] or None,
        "age": int(age) if age else None,
        "calls": int(headers.get("x-amplitude-calls", 0)),
        "ms": round(answer.milliseconds) if answer else 0,
        "exposure": None,
    }
