"""A rendering as JSON, for the page, and as text, for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from proxy.liquid.types import Answer, Exchange, Rendering


def report(rendering: Rendering) -> dict[str, Any]:
    """Return a rendering as the JSON of the playground."""
    return {
        "outcome": rendering.outcome,
        "message": rendering.message,
        "reason": rendering.reason,
        "tags": [_tag(exchange) for exchange in rendering.exchanges],
        "findings": [asdict(finding) for finding in rendering.findings],
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a terminal shows beside the message."""
    exposed = {tag["line"] for tag in report["tags"] if tag["exposure"]}
    for finding in report["findings"]:
        if finding["rule"] == "exposure" and finding["line"] in exposed:
            continue  # the tag's own lines below report it
        yield f"line {finding['line']}: {finding['problem']}"
        yield f"    fix: {finding['fix']}"
    for tag in report["tags"]:
        saved = f" as {tag['saved_as']}" if tag["saved_as"] else ""
        yield f"line {tag['line']}: {tag['method']} {tag['url']}{saved}"
        if tag["status"] is None:
            yield "    not called"
            continue
        facts = [str(tag["status"]), tag["cache_status"] or "", f"age {tag['age']} s" if tag["age"] is not None else ""]
        facts += [f"{tag['calls']} call{'s' * (tag['calls'] != 1)} to Amplitude", f"{tag['ms']} ms"]
        yield "    " + ", ".join(filter(None, facts))
        if tag["exposure"]:
            yield f"    {tag['exposure']}"
        yield "    " + json.dumps(tag["json"], ensure_ascii=False)


def exposure(calls: int) -> str:
    """Return whether a tag with recommendations logged an exposure in Amplitude."""
    if calls:
        return "Amplitude was called, which logs an exposure for this user"
    return "Amplitude was not called, so no exposure was logged; a call logs one for this user"


def _tag(exchange: Exchange) -> dict[str, Any]:
    answer = exchange.answer
    headers = answer.headers if answer else {}
    age, calls = headers.get("age"), int(headers.get("x-amplitude-calls", 0))
    return {
        "line": exchange.line,
        "method": exchange.method,
        "url": exchange.url,
        "called": exchange.called,
        "saved_as": exchange.saved_as,
        "status": answer.status if answer else None,
        "json": _body(answer) if answer else None,
        "cache_status": headers.get("cache-status", "").partition("; ")[2] or None,
        "age": int(age) if age else None,
        "calls": calls,
        "ms": round(answer.milliseconds) if answer else 0,
        "exposure": exposure(calls) if exchange.logs_exposure else None,
    }


def _body(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        return answer.body
