"""What is done before a simulated send, so that it finds answers: each way a function of the stage.

To warm for N minutes is to fetch what N minutes of the quota bring, with the real command before the real service. It
is done at ten times the pace, quota and all, and the minute that the quota remembers is waited for afterwards: else
the simulation would take as long as the warming itself.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.ledger import WINDOW_SECONDS
from proxy.sandbox.population import find
from tests.bench.processes import SandboxProcess, Service
from tests.conftest import ROOT, SECRET

SHARE = 80
"""Percent of the quota that warming takes, as it is by default."""
_FASTER = 10


@dataclass(frozen=True)
class Stage:
    """Where a send will take place: Amplitude, the settings of the service, who is sent to, in what order it may be."""

    sandbox: SandboxProcess
    settings: Mapping[str, str]
    users: Sequence[str]
    rec_id: str
    per_minute: int
    seed: int


Ahead = Callable[[Stage], set[str]]
"""Prepares a send. Returns those of whom the service then has all that their message asks for."""


def warmed(minutes: int) -> Ahead:
    """Return how the cache is warmed for so long, in an order that is not that of the send."""

    def ahead(stage: Stage) -> set[str]:
        audience = list(stage.users)
        random.Random(stage.seed).shuffle(audience)  # noqa: S311  # chance, not secrets
        audience = audience[: minutes * stage.per_minute * SHARE // 100]
        quota = str(stage.per_minute * _FASTER)
        stage.sandbox.begin_anew(stage.per_minute * _FASTER)
        faster = {**stage.settings, "AMPLITUDE_REQUESTS_PER_MINUTE": quota}
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file, Service(stage.sandbox, **faster) as service:
            file.write("".join(f"{user}\n" for user in audience))
            file.flush()
            to = ["--url", f"http://127.0.0.1:{service.port}", "--credentials", f"braze:{SECRET}"]
            what = ["--include", "recommendations,properties,cohorts", "--rec-id", stage.rec_id, "--log-exposures"]
            command = [sys.executable, "-m", "proxy", "warm", file.name, *to, *what, "--quota", quota]
            subprocess.run([*command, "--share", str(SHARE)], cwd=ROOT, check=True, stdout=sys.stderr)
        print(f"  the quota's minute passes: {WINDOW_SECONDS:.0f} s", file=sys.stderr, flush=True)
        time.sleep(WINDOW_SECONDS + 2)
        return {user for user in audience if find(user, None) is not None}

    return ahead
