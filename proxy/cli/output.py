"""Prints rows: wrapped and coloured on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_row(label: str, text: str, *, width: int, style: str = "") -> None:
    """Print a label in a column of `width` characters, and the text beside it. `style` is the label's rich style."""
    if not sys.stdout.isatty():
        click.echo(f"{label:{width}}{text}")
        return
    row = Table.grid()
    row.add_column(width=width)
    row.add_column(overflow="fold")
    row.add_row(Text(label, style), Text(text))
    Console().print(row)
