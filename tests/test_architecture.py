"""Properties of the packages that no import contract can state."""

from __future__ import annotations

import subprocess
import sys

from tests.support.service import ROOT


def test_application__imported__loads_no_liquid() -> None:
    code = "import sys, proxy.cli.main, proxy.app; print('liquid' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
