"""The benches as commands: what their help says, and that nothing of them stays behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from tests.conftest import ROOT

COMMANDS = {
    file.stem: text
    for file in sorted((ROOT / "tests" / "bench").glob("*.py"))
    if '__name__ == "__main__"' in (text := file.read_text())
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_bench_starts_nothing_and_tells_every_default(name: str) -> None:
    command = [sys.executable, "-m", f"tests.bench.{name}", "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout
    if "command_line(" in COMMANDS[name]:
        options = re.split(r"^  (?=-)", told.partition("\noptions:\n")[2], flags=re.M)[1:]
        assert options[0].startswith("-h")
        assert [option for option in options[1:] if "(default:" not in option] == []


def test_a_bench_that_is_told_to_stop_takes_all_it_started_along() -> None:
    bench = psutil.Popen([sys.executable, "-m", "tests.bench.webhooks"], cwd=ROOT, stdout=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 30
        while not any("gunicorn" in child.cmdline() for child in bench.children()):
            assert bench.is_running()
            assert time.monotonic() < deadline, "the service was never started"
        started = bench.children(recursive=True)
        assert len(started) > 1
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 128 + signal.SIGTERM
        assert psutil.wait_procs(started, timeout=5)[1] == []
    finally:
        for process in [bench, *started]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
