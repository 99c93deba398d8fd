"""A rendering as JSON and as text: what a page or a terminal shows of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from proxy.liquid.types import Answer, Exchange, Rendering


def report(rendering: Rendering) -> dict[str, Any]:
    """Return a rendering as the JSON that the playground shows."""
    return {
        "outcome": rendering.outcome,
        "message": rendering.message,
        "reason": rendering.reason,
        "tags": [_tag(exchange) for exchange in rendering.exchanges],
        "findings": [asdict(finding) for finding in rendering.findings],
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield what a terminal shows of a report beside its message."""
    exposed = {one["line"] for one in report["tags"] if one["exposure"]}
    for finding in report["findings"]:
        if finding["rule"] == "exposure" and finding["line"] in exposed:
            continue  # the tag's own lines below say what was logged
        yield f"line {finding['line']}: {finding['problem']}"
        yield f"    fix: {finding['fix']}"
    for one in report["tags"]:
        saved = f" as {one['saved_as']}" if one["saved_as"] else ""
        yield f"line {one['line']}: {one['method']} {one['url']}{saved}"
        if one["status"] is None:
            yield "    not called"
            continue
        facts = [str(one["status"]), one["cache_status"] or "", f"age {one['age']} s" if one["age"] is not None else ""]
        facts += [f"{one['calls']} call{'s' * (one['calls'] != 1)} to Amplitude", f"{one['ms']} ms"]
        yield "    " + ", ".join(filter(None, facts))
        if one["exposure"]:
            yield f"    {one['exposure']}"
        yield "    " + json.dumps(one["json"], ensure_ascii=False)


def exposure(calls: int) -> str:
    """Return what a tag that asks for recommendations did to Amplitude's experiment."""
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
