"""Describes the routes for platforms and monitors."""

from __future__ import annotations

from typing import Any

from proxy.api.openapi.parameters import security
from proxy.api.openapi.responses import GUARDED, answer, as_json
from proxy.api.openapi.schemas import Schema


def paths() -> dict[str, Schema]:
    """Return the paths of the health checks, the metrics and the status."""
    return {
        "/healthz": _get(
            "Health",
            "Liveness",
            {"200": answer("The process is running.", as_json("Health", example={"status": "ok"}))},
            description="With the credentials of a key, the answer also has the version.",
        ),
        "/readyz": _get(
            "Readiness",
            "Readiness",
            {
                "200": answer(
                    "The service can answer requests. If `status` is `degraded`, it may answer only from the cache.",
                    as_json("Readiness", example={"status": "degraded", "upstream": "failing", "quota": "ok"}),
                ),
                "503": answer(
                    "The service cannot answer any request, or is stopping.",
                    as_json("Unready", example={"status": "unavailable", "upstream": "rejected", "quota": "ok"}),
                ),
            },
            description="The result depends on the last call to Amplitude, if that call ended within the last minute. "
            "`upstream` is `off` if the service runs without the User Profile API.",
        ),
        "/metrics": _get(
            "Metrics",
            "Metrics for Prometheus",
            {"200": answer("The current metrics.", {"text/plain": {"schema": {"type": "string"}}}, ["Cache-Control"])},
            guarded=True,
            description="The sum over all worker processes. The labels contain no ids, paths or secrets.",
        ),
        "/status.json": _get(
            "Status",
            "The data of the status page",
            {"200": answer("The current status.", as_json("Status"), ["Cache-Control"])},
            guarded=True,
            description="Data of all worker processes on this machine, since the start of the process that handles the "
            "request.",
        ),
    }


def _get(name: str, summary: str, responses: Schema, *, guarded: bool = False, **more: Any) -> Schema:
    """Return the path of a route. guarded: the route requires credentials."""
    operation = {
        "operationId": f"get{name}",
        "tags": ["Operation"],
        "summary": summary,
        "security": security("read") if guarded else [],
        "responses": {**responses, **(GUARDED if guarded else {})},
        **more,
    }
    return {"get": operation}
