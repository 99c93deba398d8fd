"""Checks an expression against the strict syntax of Ruby's Liquid, and writes it without optional blanks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'[^']*'|"[^"]*")|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<id>[a-zA-Z_][\w-]*\??)"""
    r"""|(?P<comparison>==|!=|<>|<=?|>=?)|(?P<sign>\.\.|[|.:,\[\]()]))""",
    re.ASCII,
)


class _NotStandard(Exception):
    pass


@lru_cache(maxsize=8)  # a tag reports unusual syntax and then parses the expression
def standard(markup: str) -> str | None:
    """Return a value with filters without optional blanks; None if the syntax is not strict."""
    try:
        return _Parser(markup).filtered()
    except _NotStandard:
        return None


def is_standard_condition(markup: str) -> bool:
    """Return whether the syntax of a condition is strict."""
    try:
        _Parser(markup).condition()
    except _NotStandard:
        return False
    return True


def _tokens(markup: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(markup):
        match = _TOKEN.match(markup, at)
        if match is None or match.lastgroup is None:
            raise _NotStandard
        at = match.end()
        text = match[match.lastgroup]
        yield (text if match.lastgroup == "sign" else match.lastgroup), text


class _Parser:
    def __init__(self, markup: str) -> None:
        self.tokens = list(_tokens(markup.rstrip()))
        self.at = 0

    def condition(self) -> None:
        while True:
            self._expression()
            if self._next_is("comparison") or self._next_is_word("contains"):
                self.at += 1
                self._expression()
            if self.at == len(self.tokens):
                return
            if not (self._next_is_word("and") or self._next_is_word("or")):
                raise _NotStandard
            self.at += 1

    def filtered(self) -> str:
        parts = [self._expression()]
        while self._next_is("|"):
            self.at += 1
            parts.append(f" | {self._take('id')}")
            separator = ":"
            while self._next_is(separator):
                self.at += 1
                parts.append(f"{separator} {self._argument()}")
                separator = ","
        if self.at < len(self.tokens):
            raise _NotStandard
        return "".join(parts)

    def _argument(self) -> str:
        name = ""
        if self._next_is("id") and self._next_is(":", 1):
            name = self._take("id") + self._take(":")
        return name + self._expression()

    def _expression(self) -> str:
        if self._next_is("text") or self._next_is("number"):
            return self._take(self.tokens[self.at][0])
        if self._next_is("("):
            opening, start, dots, stop = self._take("("), self._expression(), self._take(".."), self._expression()
            return opening + start + dots + stop + self._take(")")
        parts = [self._take("id")] if self._next_is("id") else [self._bracketed()]
        while self._next_is("[") or self._next_is("."):
            parts.append(self._bracketed() if self._next_is("[") else self._take(".") + self._take("id"))
        return "".join(parts)

    def _bracketed(self) -> str:
        return self._take("[") + self._expression() + self._take("]")

    def _next_is(self, kind: str, ahead: int = 0) -> bool:
        return self.at + ahead < len(self.tokens) and self.tokens[self.at + ahead][0] == kind

    def _next_is_word(self, word: str) -> bool:
        return self._next_is("id") and self.tokens[self.at][1] == word

    def _take(self, kind: str) -> str:
        if not self._next_is(kind):
            raise _NotStandard
        self.at += 1
        return self.tokens[self.at - 1][1]
