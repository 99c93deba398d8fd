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
