"""The handler of the log: buffered lines in order, in pieces that the system does not split, and none lost at exit."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys

import pytest

from proxy.monitoring.log_handler import LineHandler
from proxy.sandbox.server import Sandbox
from tests.support.service import ROOT, StartService
from tests.support.wait import log_lines, until


class Pieces(io.StringIO):
    """A stream that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


def write(handler: LineHandler, **fields: object) -> None:
    handler.write_fields(logging.INFO, "a.b", "request", fields)


def test_write_fields__nothing_else__written_soon_by_itself() -> None:
    stream = Pieces()
    write(LineHandler(stream, "json"), number=1)
    assert not stream.pieces
    until(lambda: stream.pieces, "the line was not written")
    assert json.loads(stream.pieces[0])["number"] == 1


def test_emit__after_buffered_lines__all_written_at_once_in_order() -> None:
    stream = Pieces()
    handler = LineHandler(stream, "json")
    write(handler, number=1)
    write(handler, number=2)
    handler.handle(logging.makeLogRecord({"levelname": "INFO", "name": "a.b", "msg": "other"}))
    events = [json.loads(line)["event"] for line in "".join(stream.pieces).splitlines()]
    assert events == ["request", "request", "other"]


def test_write_fields__many_lines__pieces_of_whole_lines_up_to_4096_bytes() -> None:
    stream = Pieces()
    handler = LineHandler(stream, "json")
    for number in range(200):
        write(handler, number=number, text="é" * (number % 70))
    handler.flush()
    assert max(len(piece.encode()) for piece in stream.pieces) <= 4096
    assert all(piece.endswith("\n") for piece in stream.pieces)
    assert len(stream.pieces) < 40
    assert [json.loads(line)["number"] for line in "".join(stream.pieces).splitlines()] == list(range(200))


def test_write_fields__process_exits_at_once__line_is_written() -> None:
    program = """
import logging, os
from proxy.monitoring.logs import configure_logging, log_request
configure_logging("INFO")
log_request(logging.getLogger("proxy.x"), logging.INFO, {"number": 1})
if os.fork() == 0:
    raise SystemExit
os.wait()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr.count('"event":"request"') == 1


@pytest.mark.parametrize("to_master", [True, False], ids=["master", "worker"])
def test_service__sigterm_right_after_an_answer__line_is_written(
    start_service: StartService, sandbox: Sandbox, to_master: bool
) -> None:
    service = start_service(sandbox, LOG_LEVEL="INFO")
    (worker,) = service.workers()
    answer = service.get("/v1/cohorts?user_id=user-1")
    pid = service.process.pid if to_master else worker
    subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(pid)], check=True)
    until(lambda: "Worker exiting" in service.log.read_text() or service.process.poll() is not None, seconds=20)
    until(lambda: answer.headers["X-Request-ID"] in service.log.read_text(), "the line is lost")
    lines = service.log.read_text().splitlines()
    assert len(lines) == len(log_lines(service.log)), "gunicorn's lines are JSON too"
    assert {"proxy", "gunicorn.error"} <= {line["logger"] for line in log_lines(service.log)}
    if not to_master:
        # gunicorn loses a signal to stop that arrives while a worker starts. The end of the test would take 25 seconds.
        until(lambda: len(service.workers()) == 2 and service.get("/healthz").ok, "no new worker started")


def test_service__text_format__no_json(start_service: StartService, sandbox: Sandbox) -> None:
    service = start_service(sandbox, LOG_FORMAT="text")
    answer = service.get("/v1/cohorts?user_id=user-1")
    until(lambda: answer.headers["X-Request-ID"] in service.log.read_text(), "the request has no line")
    assert " INFO gunicorn.error " in service.log.read_text()
    assert " INFO proxy.web.request_log request method=GET route=/v1/cohorts " in service.log.read_text()
    assert not log_lines(service.log)
