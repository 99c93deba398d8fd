"""Output on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from tests.conftest import ROOT
from tests.support.command import environment

COLOUR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def read_terminal(descriptor: int) -> str:
    """Return the output of a pseudo-terminal whose other end is closed."""
    output = b""
    try:
        while chunk := os.read(descriptor, 65536):
            output += chunk
    except OSError:  # Linux reports the end of the output as an error
        pass
    os.close(descriptor)
    return output.decode()


def run_on_terminal(*arguments: str, **variables: str) -> str:
    terminal, output = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=environment(TERM="xterm", **variables),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    os.close(output)
    printed = read_terminal(terminal)
    process.wait(30)
    return printed


def test_plan__narrow_terminal__wraps_within_the_column() -> None:
    printed = run_on_terminal("plan", "--recipients", "100000", COLUMNS="50")
    lines = [line.rstrip() for line in COLOUR.sub("", printed).splitlines()]
    calls = lines.index("warming by calls     3 h 29 min: 100,000 calls (1")
    assert lines[calls + 1] == "                     per user), at 480 a minute"


def test_check__terminal__colours_the_marks_unless_no_color_is_set() -> None:
    printed = run_on_terminal("check", AMPLITUDE_SECRETKEY="x")
    assert "\x1b[33mwarn   \x1b[0m" in printed
    assert "\x1b[1;31mwrong  \x1b[0m" in printed
    assert "AMPLITUDE_SECRET_KEY is required" in COLOUR.sub("", printed)
    assert "\x1b[33m" not in run_on_terminal("check", AMPLITUDE_SECRETKEY="x", NO_COLOR="1")
