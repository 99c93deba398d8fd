"""The import contracts of pyproject.toml, and what no contract can say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_import_contracts_are_kept() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    ended = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_pure_packages__all_modules_imported__load_neither_flask_nor_requests_nor_redis() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "for name in ('proxy.profile', 'proxy.api'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{name}.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(sorted({'flask', 'requests', 'redis'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_message_is_rendered_without_flask_or_requests_and_liquid_is_loaded_only_then() -> None:
    code = (
        "import sys; import proxy.liquid.render; print(sorted({'flask', 'requests', 'liquid'} & set(sys.modules)))",
        "import sys; import proxy.cli.main, proxy.app; print(sorted({'liquid', 'flask'} & set(sys.modules)))",
    )
    loaded = [
        subprocess.run([sys.executable, "-c", one], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for one in code
    ]
    assert loaded == ["['liquid']", "['flask']"]
