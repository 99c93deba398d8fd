"""Clients generated from /openapi.json of the running service: they compile, and every operation works through them.

To add an operation, call it in `calls.py` and in `calls.ts`. The tests fail until both do. Generated code is never
committed. The generators have their versions in tests/requirements.txt and package-lock.json.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from proxy.sandbox.server import Sandbox
from tests.conftest import ROOT, SECRET, Service
from tests.support.openapi import operations
from tests.support.service import batch_api

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture
def service(start_service: Callable[..., Service]) -> Iterator[Service]:
    """Return a service without cached users, because webhooks and `DELETE` change them."""
    with Sandbox() as sandbox:
        yield start_service(sandbox, **batch_api(sandbox))


def run(*command: str, cwd: Path, **variables: str) -> str:
    """Run a command and return its output. Raises AssertionError with the output if the command fails."""
    ended = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def not_called(service: Service, printed: str) -> set[tuple[str, str]]:
    """Return the operations of the document for which no line with method and path is printed."""
    document = requests.get(f"{service.url}/openapi.json", timeout=10).json()
    patterns = {
        (path, method): re.compile(re.sub(r"\{\w+\}", "[^/]+", f"{method} {path}"))
        for path, method, _ in operations(document)
    }
    assert len(patterns) > 20
    lines = printed.splitlines()
    return {key for key, pattern in patterns.items() if not any(map(pattern.fullmatch, lines))}


@pytest.mark.contract("3 openapi")
def test_python_client__generated_from_the_service__every_operation_called(service: Service, tmp_path: Path) -> None:
    generator = Path(sys.executable).with_name("openapi-python-client")
    # The generator knows no NDJSON.
    config = tmp_path / "config.yaml"
    config.write_text("content_type_overrides: {application/x-ndjson: application/octet-stream}", encoding="utf-8")
    run(
        *(str(generator), "generate", "--url", f"{service.url}/openapi.json", "--meta", "none", "--fail-on-warning"),
        *("--config", str(config), "--output-path", "generated_client"),
        cwd=tmp_path,
        PATH=f"{generator.parent}{os.pathsep}{os.environ['PATH']}",  # the generator formats its output with ruff
    )
    calls = str(HERE / "calls.py")
    # Without errors inside the generated code, which the generator has to fix.
    run(
        sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", calls, cwd=tmp_path, MYPYPATH=str(tmp_path)
    )
    printed = run(sys.executable, calls, service.url, SECRET, cwd=ROOT, PYTHONPATH=str(tmp_path))
    assert not_called(service, printed) == set()


@pytest.mark.contract("3 openapi")
def test_typescript_client__generated_from_the_service__compiles_and_every_operation_called(
    service: Service, tmp_path: Path
) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed; run apt-get install nodejs npm")
    for name in ("package.json", "package-lock.json", "tsconfig.json", "calls.ts"):
        shutil.copy(HERE / name, tmp_path)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=tmp_path)
    run("npx", "openapi-typescript", f"{service.url}/openapi.json", "--output", "schema.d.ts", cwd=tmp_path)
    run("npx", "tsc", cwd=tmp_path)
    printed = run("node", "out/calls.js", service.url, SECRET, cwd=tmp_path)
    assert not_called(service, printed) == set()
