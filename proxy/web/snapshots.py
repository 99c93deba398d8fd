"""`/v1/snapshots`: install, list and remove the snapshots of cohorts."""

from __future__ import annotations

import codecs
import gzip
import io
import math
import re
from collections.abc import Iterator
from typing import IO, Any

import orjson
from flask import Blueprint, Response, g, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge

from proxy.api.bodies import changes
from proxy.api.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from proxy.api.parameters import readable_id
from proxy.api.query_string import values_of
from proxy.profile.snapshot import MAX_MEMBERS, Snapshot, SnapshotBuilder
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import Busy, WeightedSemaphore
from proxy.web.errors import problem
from proxy.web.services import services

UPLOAD_SECONDS = 600.0
"""Time limit for the upload of a snapshot."""
MAX_LINE_BYTES = 4096
"""Limit on a line. An id has at most 512 characters, and JSON can need six bytes for each."""
MAX_TOTAL_MEMBERS = 10_000_000
"""Limit on the members of all snapshots in total. They take 80 MB in each process."""
MAX_SNAPSHOTS = 1000
_AHEAD_SECONDS = 600.0
_MAX_BODY_BYTES = MAX_MEMBERS * MAX_LINE_BYTES
_TIME = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_NOT_UTF_8 = "\ufffd"
"""Werkzeug replaces each byte of a path that is not UTF-8 by this character, so different ids would become equal."""
_BODY_BYTES_AT_ONCE = 65_536
_PACKED_BYTES_AT_ONCE = 8192
"""Bytes of a compressed body between two checkpoints. That is up to 400 empty gzip members, or two milliseconds."""
UPLOAD_WAIT_SECONDS = 10.0
"""Time for which an upload waits for the end of other uploads."""
_UPLOADS = WeightedSemaphore(2, wait_seconds=UPLOAD_WAIT_SECONDS)
"""Limit on concurrent uploads. Each takes up to 20 MiB."""
_UPLOADS_BY_CALLER: dict[str, WeightedSemaphore] = {}
"""Limits each caller to one upload. Otherwise, a caller that sends slowly could block the uploads of all others."""

blueprint = Blueprint("snapshots", __name__, url_prefix="/v1/snapshots")
removal = Blueprint("snapshot_removal", __name__, url_prefix="/v1/snapshots")
"""A separate blueprint, because removal needs another scope in `auth.ACCESS`."""


@blueprint.get("", provide_automatic_options=False)
def index() -> Response:
    """Return the installed snapshots, and the state of the memory cache."""
    memory = services().store.memory
    cache: changes.CacheState = {
        "max_bytes": memory.max_size,
        "records": memory.records,
        "evictions": memory.evicted,
    }
    return _answer(snapshots=installed_snapshots(), cache=cache)


def installed_snapshots() -> list[changes.Snapshot]:
    """Return the snapshots in this process."""
    return [
        {
            "cohort_id": snapshot.cohort_id,
            "members": snapshot.members,
            "as_of": int(snapshot.as_of),
            "expires_at": int(snapshot.expires_at),
        }
        for snapshot in services().store.memory.snapshots.installed()
    ]


@blueprint.put("/<cohort_id>", provide_automatic_options=False)
def install(cohort_id: str) -> Response:
    """Install a snapshot from a body with one user id per line, as a JSON string."""
    app_services = services()
    cohort_id = _cohort_id(cohort_id)
    as_of = _as_of(app_services.clock.now(), app_services.store.memory.snapshots.fresh_for)
    allow_empty = "true" in map(str.lower, values_of(request.query_string, "allow_empty"))
    _require_room(cohort_id, 1)
    # An upload may take longer than any other request. The caller has been authenticated.
    if (connection := request.environ.get("gunicorn.socket")) is not None:
        connection.allow_slow_body(UPLOAD_SECONDS)
    try:
        with _caller_uploads().hold(1), _UPLOADS.hold(1):
            snapshot, skipped = _read_members(as_of)
            if not snapshot.members and not allow_empty:
                raise BadRequest(
                    "the body has no valid user id; add allow_empty=true to install an empty snapshot",
                    code="invalid_body",
                )
            _require_room(cohort_id, snapshot.members)
            installed = app_services.snapshots.install(cohort_id, snapshot)
    except Busy:
        return _retry_later(
            "Too many uploads",
            "this key already uploads a snapshot, or other keys upload two; send the snapshot again after that",
            "busy",
        )
    except RedisUnavailable:
        detail = "Redis is unavailable or full, so the snapshot was not installed; send the snapshot again"
        return _retry_later("Redis not updated", detail, "internal")
    if installed is None:
        return problem(
            409,
            "Conflict",
            "a newer snapshot of this cohort is installed; download the cohort again, or send a later as_of",
            code="newer_snapshot",
            parameter="as_of",
        )
    return _answer(cohort_id=cohort_id, members=installed.members, as_of=int(installed.as_of), skipped=skipped)


@removal.delete("/<cohort_id>", provide_automatic_options=False)
def remove(cohort_id: str) -> Response:
    """Remove a snapshot."""
    cohort_id = _cohort_id(cohort_id)
    try:
        existed = services().snapshots.remove(cohort_id)
    except RedisUnavailable:
        detail = "Redis is unavailable, so the snapshot was not removed; send the request again"
        return _retry_later("Redis not updated", detail, "internal")
    if not existed:
        return problem(
            404, "Not Found", "no snapshot of this cohort is installed; GET /v1/snapshots lists them", code="not_found"
        )
    return _answer(cohort_id=cohort_id, removed=True)


def _caller_uploads() -> WeightedSemaphore:
    return _UPLOADS_BY_CALLER.setdefault(g.caller.name, WeightedSemaphore(1, wait_seconds=UPLOAD_WAIT_SECONDS))


def _cohort_id(text: str) -> str:
    cohort_id = readable_id(text.removesuffix("/"))  # a trailing slash belongs to the path
    if cohort_id is None or _NOT_UTF_8 in cohort_id:
        raise BadRequest(
            "cohort_id is empty, is too long, is not UTF-8, begins or ends with white space, or contains a control "
            "character; send the cohort's id",
            code="invalid_parameter",
            parameter="cohort_id",
        )
    return services().aliases.id_of("cohorts", cohort_id)


def _as_of(now: float, fresh_for: float) -> float:
    """Return the time of the snapshot (Unix seconds); `now` if the request has no time or a time after `now`."""
    sent = [*values_of(request.query_string, "as_of"), *request.headers.getlist("X-As-Of")]
    if len(sent) > 1:
        raise BadRequest(
            "as_of occurs more than once; send either as_of or X-As-Of, once",
            code="repeated_parameter",
            parameter="as_of",
        )
    if not sent:
        return now
    as_of = float(sent[0]) if _TIME.fullmatch(sent[0]) else math.nan
    if not now - fresh_for <= as_of <= now + _AHEAD_SECONDS:
        raise BadRequest(
            "as_of must be a time in Unix seconds, at most 10 minutes ahead and at most CACHE_PUSHED_SECONDS "
            f"({fresh_for:.0f}) ago; send the time at which the download was requested",
            code="invalid_parameter",
            parameter="as_of",
        )
    return min(as_of, now)


def _require_room(cohort_id: str, members: int) -> None:
    """Raise BodyTooLarge if a snapshot with `members` exceeds a limit, together with those of the other cohorts."""
    others = [snapshot for snapshot in services().store.memory.snapshots.installed() if snapshot.cohort_id != cohort_id]
    if len(others) >= MAX_SNAPSHOTS or sum(snapshot.members for snapshot in others) + members > MAX_TOTAL_MEMBERS:
        raise BodyTooLarge(
            f"the snapshots would exceed {MAX_TOTAL_MEMBERS:,} members in total, or {MAX_SNAPSHOTS:,} snapshots; "
            "remove a snapshot with DELETE /v1/snapshots/{cohort_id}"
        )


def _read_members(as_of: float) -> tuple[Snapshot, int]:
    """Return the snapshot in the body, and the number of skipped lines."""
    checkpoint = Checkpoint()
    builder, skipped, digester = SnapshotBuilder(), 0, services().store.memory.digester
    for number, line in enumerate(_lines(checkpoint), start=1):
        checkpoint()
        if number > MAX_MEMBERS:
            raise BodyTooLarge(f"the body has more than {MAX_MEMBERS:,} lines; send a smaller cohort")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        user_id = readable_id(_text(line, number))
        if user_id is None:
            skipped += 1
        else:
            builder.add(digester.member(user_id))
    return builder.build(as_of, checkpoint), skipped


def _text(line: bytes, number: int) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise BadRequest(
            f"line {number:,} is longer than {MAX_LINE_BYTES:,} bytes; send one id per line", code="invalid_body"
        )
    try:
        text = orjson.loads(line)
    except ValueError:
        text = None
    if not isinstance(text, str):
        raise BadRequest(
            f'line {number:,} is not a JSON string; send one id per line, for example "user-1"', code="invalid_body"
        )
    return text


class _Packed:
    """A compressed body for GzipFile that lets other requests run between two reads.

    GzipFile does not return while it reads a header, empty members or padding. A body of 20 MB with such content
    blocked all requests for nine seconds.
    """

    def __init__(self, body: IO[bytes], checkpoint: Checkpoint) -> None:
        self._body = body
        self._checkpoint = checkpoint

    def read(self, size: int) -> bytes:
        self._checkpoint()
        return self._body.read(min(size, _PACKED_BYTES_AT_ONCE))


def _lines(checkpoint: Checkpoint) -> Iterator[bytes]:
    """Yield the lines of the body. Raises BadRequest if the body is incomplete."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    zipped = request.mimetype in ("application/gzip", "application/x-gzip")
    if (not zipped and request.mimetype != "application/x-ndjson") or coding not in ("identity", "gzip", "x-gzip"):
        raise UnsupportedMediaType("the content type is not supported; send application/x-ndjson, or gzip of it")
    request.max_content_length = _MAX_BODY_BYTES
    source: Any = request.stream
    body = io.BufferedReader(source, _BODY_BYTES_AT_ONCE)
    if zipped or coding != "identity":
        packed: Any = _Packed(body, checkpoint)
        source = gzip.GzipFile(fileobj=packed, mode="rb")
        body = io.BufferedReader(source, _BODY_BYTES_AT_ONCE)
    try:
        while line := body.readline(MAX_LINE_BYTES + 1):
            yield line
    except RequestEntityTooLarge:
        raise BodyTooLarge("the body is too large; send a smaller cohort") from None
    except Exception:  # noqa: BLE001  # servers raise different errors for a broken transfer coding
        raise BadRequest(
            "the body is incomplete or damaged; send the whole body again, with the right Content-Length",
            code="invalid_body",
        ) from None


def _retry_later(title: str, detail: str, code: Any) -> Response:
    response: Response = problem(500, title, detail, code=code)
    response.headers["Retry-After"] = "1"
    return response


def _answer(**body: object) -> Response:
    response = jsonify(**body)
    response.headers["Cache-Control"] = "no-store"
    return response
