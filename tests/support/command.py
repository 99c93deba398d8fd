"""Runs a command of the project as a person does, with no settings but those that are given."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def environment(**variables: str) -> dict[str, str]:
    """Return what any command needs to run, and the settings by name."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")} | variables


def run(*arguments: str, given: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return how `python -m proxy` ended, with `given` to read. However it ends, not in a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended
