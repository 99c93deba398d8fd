"""Runs a command of the project with only the settings that the test passes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from click.testing import CliRunner

from proxy.cli.main import main
from tests.conftest import ROOT

_INHERITED = ("PATH", "HOME", "LANG")


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a command: the variables that every command needs, and `variables`."""
    return {name: value for name, value in os.environ.items() if name in _INHERITED} | variables


def run(*arguments: str, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process with `stdin`, and return its result. Unexpected exceptions are raised."""
    env: dict[str, str | None] = {name: None for name in os.environ if name not in _INHERITED}
    with _restored():
        result = CliRunner(catch_exceptions=False).invoke(
            main, arguments, stdin, env | variables, prog_name="python -m proxy"
        )
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@contextmanager
def _restored() -> Iterator[None]:
    """Restore signal handlers and logging after a command, and wait until its connection to Redis is idle."""
    before = set(threading.enumerate())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = [logging.getLogger(name) for name in ("proxy", "urllib3", "requests")]
    states = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    options = logging._srcfile, logging.logThreads
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            if thread.name == "redis":
                thread.join(10)
                assert not thread.is_alive(), "the command did not end its registration in Redis"
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for logger, (outputs, propagate, level) in zip(loggers, states, strict=True):
            logger.handlers[:], logger.propagate = outputs, propagate
            logger.setLevel(level)
        logging._srcfile, logging.logThreads = options


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command in its own session, with pipes for its three files."""
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def running(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a command and yield the process and its output up to the line that explains how to stop the command."""
    process = start(*arguments, **variables)
    assert process.stdout
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if "Ctrl-C" in line:
                break
        yield process, printed
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def run_in_shell(line: str) -> str:
    """Run a line in a shell in the project's folder, and return its output."""
    ended = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    return ended.stdout + ended.stderr
