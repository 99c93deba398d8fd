"""Describes the operations of snapshots."""

from __future__ import annotations

from proxy.api.bodies.changes import CacheState
from proxy.api.openapi.parameters import security
from proxy.api.openapi.responses import GUARDED, answer, as_json, problem, shared
from proxy.api.openapi.schemas import Schema, ref
from proxy.api.parameters import MAX_LENGTH

_COHORT_ID = {
    "name": "cohort_id",
    "in": "path",
    "required": True,
    "description": "The id of the cohort, or an alias.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
    "example": "c31",
}
_TIME: Schema = {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,9})?$"}
_ABOUT_TIME = (
    "The time at which the download was requested, in Unix seconds: at most 600 seconds ahead, and at most "
    "`CACHE_PUSHED_SECONDS` ago. Send either `as_of` or `X-As-Of`. The default is the time of the request."
)
_SNAPSHOT = {"cohort_id": "c31", "members": 2, "as_of": 1767225600}


def paths() -> dict[str, Schema]:
    """Return the paths of the snapshots."""
    return {
        "/v1/snapshots": {"get": _index()},
        "/v1/snapshots/{cohort_id}": {"put": _install(), "delete": _remove()},
    }


def _index() -> Schema:
    cache: CacheState = {"max_bytes": 64 * 1024 * 1024, "records": 20_000, "evictions": 0}
    listed = {"snapshots": [_SNAPSHOT | {"expires_at": 1767312000}], "cache": cache}
    return {
        "operationId": "getSnapshots",
        "tags": ["Snapshots"],
        "summary": "The installed snapshots, and the memory cache",
        "description": "`warm --cohort` reads `cache` before and after it stores properties, and counts the users that "
        "did not fit into `CACHE_MAX_MB`.",
        "security": security("push"),
        "parameters": [ref("RequestId", "parameters")],
        "responses": {
            "200": answer("The snapshots by cohort id.", as_json("SnapshotList", example=listed), ["Cache-Control"]),
            **GUARDED,
        },
    }


def _install() -> Schema:
    lines = {"schema": {"type": "string", "format": "binary"}, "example": '"ava"\n"ben"\n'}
    return {
        "operationId": "putSnapshot",
        "tags": ["Snapshots"],
        "summary": "Install the members of a cohort",
        "description": "Replaces the snapshot of the cohort in every process within 5 seconds. Each line of the body "
        "is a user id as a JSON string. The content type can also be `application/gzip`. A body has at most 2,000,000 "
        "lines. The upload may take 10 minutes, if no pause is longer than 10 seconds. If the body is incomplete, "
        "nothing is installed. The snapshot expires `CACHE_PUSHED_SECONDS` after `as_of`. A key can "
        "upload one snapshot at a time. If the key or two others are uploading, or Redis is unavailable or full, the "
        "status is 500 with `Retry-After`.",
        "security": security("push"),
        "parameters": [
            _COHORT_ID,
            {"name": "as_of", "in": "query", "description": _ABOUT_TIME, "schema": _TIME, "example": "1767225600"},
            {"name": "X-As-Of", "in": "header", "description": _ABOUT_TIME, "schema": _TIME},
            {
                "name": "allow_empty",
                "in": "query",
                "description": "`true` accepts a body without user ids. Then no user is a member.",
                "schema": {"type": "boolean", "default": False},
            },
            {
                "name": "Content-Encoding",
                "in": "header",
                "description": "`gzip` if the body is compressed.",
                "schema": {"type": "string"},
            },
            ref("RequestId", "parameters"),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": lines},
        },
        "responses": {
            "200": answer(
                "The snapshot is installed. Lines without a valid user id are skipped and counted.",
                as_json("SnapshotResult", example=_SNAPSHOT | {"skipped": 0}),
                ["Cache-Control"],
            ),
            **shared("BadRequest"),
            **GUARDED,
            "409": problem(
                409,
                "Conflict",
                "a newer snapshot of this cohort is installed; download the cohort again, or send a later as_of",
                code="newer_snapshot",
                parameter="as_of",
            ),
            **shared("ContentTooLarge", "UnsupportedMediaType"),
            "500": problem(
                500,
                "Redis not updated",
                "Redis is unavailable or full, so the snapshot was not installed; send the snapshot again",
                "Retry-After",
                code="internal",
            ),
        },
    }


def _remove() -> Schema:
    return {
        "operationId": "deleteSnapshot",
        "tags": ["Snapshots"],
        "summary": "Remove a snapshot",
        "description": "Removes the snapshot of the cohort from every process.",
        "security": security("admin"),
        "parameters": [_COHORT_ID, ref("RequestId", "parameters")],
        "responses": {
            "200": answer(
                "The snapshot is removed.",
                as_json("SnapshotRemoval", example={"cohort_id": "c31", "removed": True}),
                ["Cache-Control"],
            ),
            **shared("BadRequest"),
            **GUARDED,
            "404": problem(
                404,
                "Not Found",
                "no snapshot of this cohort is installed; GET /v1/snapshots lists them",
                code="not_found",
            ),
            "500": problem(
                500,
                "Redis not updated",
                "Redis is unavailable, so the snapshot was not removed; send the request again",
                "Retry-After",
                code="internal",
            ),
        },
    }
