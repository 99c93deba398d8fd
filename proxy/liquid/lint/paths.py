"""Finds the variables that an expression reads, such as `recs.items[0]`, with their positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_WORD = r"[A-Za-z_](?:[\w-]*\w)?\??"
_TOKEN = re.compile(
    rf"""(?P<quoted>"[^"]*"|'[^']*')|(?P<attribute>(?:\w+\.)?\$\{{[^{{}}]*\}}?(?:\.[\w-]+)*)|(?P<number>-?\d+(?:\.\d+)?)"""
    rf"""|(?P<name>{_WORD})|(?P<pipe>(?<!\|)\|(?!\|))|(?P<other>\S)"""
)
_DOT = re.compile(r"\s*\.\s*(?P<key>[\w-]+\??)")
_OPEN = re.compile(r"\s*\[\s*")
_CLOSE = re.compile(r"\s*\]")
_LITERAL = re.compile(r"""(?P<quoted>"[^"]*"|'[^']*')|(?P<number>-?\d{1,18})(?![\w.])""")
_SAFE = re.compile(r"[A-Za-z_][\w-]*\Z")
_KEYWORDS = frozenset(
    {"and", "or", "contains", "in", "reversed", "continue", "true", "false", "nil", "null", "empty", "blank", "not"}
    | {"with", "as", "by", "if", "else", "is"}
)


@dataclass(frozen=True, slots=True)
class Path:
    """A variable with its keys. `start` and `end`: the range in the message. A key is text, an index or a Path."""

    root: str
    keys: tuple[str | int | Path, ...]
    start: int
    end: int

    def __str__(self) -> str:
        return write_path(self.root, self.keys)


def paths(text: str, start: int) -> Iterator[Path]:
    """Yield the variables in an expression. `start`: the index of `text` in the message.

    The names of filters and of arguments, and keywords, are not variables.
    """
    at, filter_follows = 0, False
    while token := _TOKEN.search(text, at):
        at = token.end()
        if token.lastgroup == "name" and not filter_follows and not _is_argument_or_keyword(token[0], text, at):
            path, at = _path(text, token.start(), token[0], start)
            yield path
            yield from _inner(path.keys)
        filter_follows = token.lastgroup == "pipe"


def write_path(root: str, keys: Iterable[str | int | Path]) -> str:
    """Return a variable with its keys as Liquid."""
    text = root
    for key in keys:
        if isinstance(key, str) and _SAFE.match(key):
            text += f".{key}"
        elif isinstance(key, str):
            text += f"['{key}']" if "'" not in key else f'["{key}"]'
        else:
            text += f"[{key}]"
    return text


def _is_argument_or_keyword(name: str, text: str, end: int) -> bool:
    return name.lower() in _KEYWORDS or re.compile(r"\s*:").match(text, end) is not None


def _path(text: str, at: int, root: str, start: int) -> tuple[Path, int]:
    begin, end = at, at + len(root)
    keys: list[str | int | Path] = []
    while True:
        if dot := _DOT.match(text, end):
            keys.append(dot["key"])
            end = dot.end()
            continue
        opening = _OPEN.match(text, end)
        key, inner_end = _key(text, opening.end(), start) if opening else (None, end)
        closing = _CLOSE.match(text, inner_end)
        if key is None or closing is None:
            return Path(root, tuple(keys), start + begin, start + end), end
        keys.append(key)
        end = closing.end()


def _key(text: str, at: int, start: int) -> tuple[str | int | Path | None, int]:
    literal = _LITERAL.match(text, at)
    if literal:
        return (literal["quoted"][1:-1] if literal["quoted"] else int(literal["number"])), literal.end()
    name = re.compile(_WORD).match(text, at)
    return _path(text, at, name[0], start) if name else (None, at)


def _inner(keys: Iterable[str | int | Path]) -> Iterator[Path]:
    for key in keys:
        if isinstance(key, Path):
            yield key
            yield from _inner(key.keys)
