"""The editor of the playground: the committed bundle is what its sources build."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = ROOT / "proxy" / "web" / "pages"
SOURCES = PAGES / "editor"
VENDOR = PAGES / "static" / "vendor"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_bundle__built_from_its_sources__equal_to_the_committed_files(tmp_path: Path) -> None:
    sources = tmp_path / "editor"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=sources, check=True)
    built = tmp_path / "vendor"
    built.mkdir()
    subprocess.run(["npm", "run", "--silent", "build", "--", built], cwd=sources, check=True)
    assert {file.name for file in built.iterdir()} == {file.name for file in VENDOR.iterdir()}
    for file in built.iterdir():
        assert file.read_bytes() == (VENDOR / file.name).read_bytes(), "run the build command of docs/contributing.md"


_POSITIONS = r"""
import { ranges } from %s;
const text = "a\u{1f600}b\n{{ \u{1f600}x }}\n";
let reads = 0;
const lines = [[0, 4], [5, 14], [15, 15]].map(([from, to], index) => ({ from, to, number: index + 1 }));
const doc = { lines: 3, line: (number) => lines[number - 1], toString: () => (reads++, text) };
const findings = [
  { line: 1, column: 3, length: 1 }, { line: 2, column: 4, length: 2 }, { line: 2, column: 1, length: 0 },
  { line: 9, column: 1, length: 5 }, { line: 1, column: 3, length: 3 },
];
console.log(JSON.stringify([ranges(doc, findings).map(({ from, to }) => [from, to]), reads]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_positions__characters_of_two_units__ranges_from_one_reading_of_the_text() -> None:
    script = _POSITIONS % json.dumps((SOURCES / "positions.js").as_uri())
    command = ["node", "--input-type=module", "--eval", script]
    found, reads = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found == [[3, 4], [8, 11], [5, 14], [15, 15], [3, 6]]
    assert reads == 1


def test_lock_file__any_registry__no_addresses_and_a_digest_of_each_package() -> None:
    lock = (SOURCES / "package-lock.json").read_text()
    assert "://" not in re.sub(r'"url": "[^"]*"', "", lock)
    packages = json.loads(lock)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_licences__libraries_in_the_bundle__one_licence_each() -> None:
    licences = (VENDOR / "editor-licences.txt").read_text()
    dependencies = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    libraries = {f"{name} {version}" for name, version in dependencies.items() if name != "esbuild"}
    assert libraries <= set(licences.splitlines())
    assert licences.count("Permission is hereby granted") >= len(libraries)
