"""Compares the preview with Ruby's Liquid over a copy of the Golden Liquid suite: python -m tests.bench.golden FILE.

The suite is not part of this project: https://github.com/jg-rp/golden-liquid publishes the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tests.support.liquid import rendered_by_product, rendered_by_ruby


def expected(case: dict[str, Any]) -> list[str]:
    """Return the texts that pass a case."""
    if case.get("invalid"):
        return ["refused"]
    return list(case["results"]) if "results" in case else [case["result"]]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Render each case of FILE with Ruby's Liquid and the preview, and print the cases that differ."""
    cases = json.loads(file.read_text())["tests"]
    by_ruby = rendered_by_ruby([(case["template"], case.get("data", {})) for case in cases])
    passed = [(case, text) for case, text in zip(cases, by_ruby, strict=True) if text in expected(case)]
    different = []
    for case, right in passed:
        text = rendered_by_product(case["template"], case.get("data", {}))
        if text != right:
            different.append(case["name"])
            click.echo(f"{case['name']}: {text!r}, Ruby {right!r}")
    click.echo(
        f"{len(cases)} cases, Ruby passes {len(passed)}, the preview renders {len(passed) - len(different)} alike"
    )
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
