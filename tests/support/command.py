"""Runs a command of the project as a person does, with no settings but those that are given."""

from __future__ import annotations

import subprocess
import sys

from tests.support.service import ROOT, environment

__all__ = ["environment", "run"]


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
