"""Commands, links, files and names in README.md and the guides exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from proxy.cli.main import main
from tests.conftest import ROOT
from tests.support.docs import PAGES, PARSED, README, commands, fragment

INLINE = [(path, code) for path, page in PARSED.items() for code in re.findall(r"`([^`\n]+)`", page.prose)]
ANCHORS = {
    path: {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in page.headings}
    for path, page in PARSED.items()
}


def invocations() -> list[tuple[str, list[str]]]:
    """Return the module and the arguments of each `python -m …`, in shell blocks and in prose."""
    lines = [line for _, line in commands()] + [code for _, code in INLINE]
    module_calls = []
    for line in lines:
        for part in re.split(r"\s&&\s", line):
            if module := re.search(r"(?:^|\s)-m ((?:proxy|tests|pytest)[\w.]*)(.*)", part):
                module_calls.append((module[1], shlex.split(module[2], comments=True)))
    return module_calls


def test_ci__test_command__same_as_in_the_readme() -> None:
    assert fragment("tests").block("sh").strip() in (ROOT / ".ci" / "run").read_text().splitlines()


def test_commands__of_the_program__same_as_in_the_guides() -> None:
    assert {arguments[0] for module, arguments in invocations() if module == "proxy" and arguments} == set(
        main.commands
    )


def test_commands__every_option__exists() -> None:
    options = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in main.commands.items()
    }
    for module, (*arguments,) in invocations():
        if module == "proxy" and arguments:
            used = {argument for argument in arguments if argument.startswith("--")}
            assert used <= options[arguments[0]], arguments


def test_option_tables__every_option__belongs_to_a_command() -> None:
    known = {
        option
        for command in main.commands.values()
        if isinstance(command, click.Command)
        for parameter in command.params
        for option in parameter.opts
    }
    named = {option for _, code in INLINE if code.startswith("--") for option in re.findall(r"--[a-z-]+", code)}
    assert named - known - {"--bind"} == set(), "--bind is gunicorn's"


@pytest.mark.parametrize("module", sorted({module for module, _ in invocations()}))
def test_modules__that_are_run__exist(module: str) -> None:
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links__of_a_page__lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r'\]\((?!https?:)([^)]+)\)|(?:src|srcset)="([^"]+)"', PARSED[page].prose):
        path, _, anchor = "".join(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in ANCHORS[linked], target


def test_guides__every_guide__is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", PAGES[README]))
    assert linked == {path.relative_to(ROOT).as_posix() for path in PAGES if path != README}


def test_files__named_in_prose__exist() -> None:
    path = re.compile(r"(proxy|tests|docs|\.ci)/[\w./-]+|[\w-]+(\.[\w-]+)*\.(py|toml)")
    named = {(page.name, code) for page, code in INLINE if path.fullmatch(code)}
    assert len(named) >= 10
    assert [name for name in named if not any((folder / name[1]).exists() for folder in (ROOT, ROOT / "proxy"))] == []


def test_files__named_in_commands__exist() -> None:
    named = {name for _, line in commands() for name in re.findall(r"(?:^|\s)((?:proxy|tests|\.ci)/\S+)", line)}
    assert len(named) >= 4
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_markers__every_name__is_used_by_a_test() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = {part.name for page in PARSED.values() for part in page.fragments}
    used = {name for name in names if f'"{name}"' in sources or f'("{name.split()[0]}")' in sources}
    assert names - used == set()


def test_architecture_guide__names_of_classes__exist() -> None:
    names = set(re.findall(r"`([A-Z][a-z]+\w*)[`.(]", (ROOT / "docs" / "architecture.md").read_text()))
    code = "\n".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"^class {name}\b", code, re.M)] == []
