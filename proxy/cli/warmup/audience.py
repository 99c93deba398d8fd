"""Stores the users to warm in a temporary file, without duplicates, optionally with their properties.

A file, because millions of users would need too much memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

import orjson

Values = list[str | None]


class DiskFull(Exception):
    """The disk has no room for the temporary file."""


class Audience:
    """An ordered set of user ids with the values of their properties. `database` is for tests."""

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        # For an empty name, SQLite creates a private temporary file and deletes it on closing.
        self._database = database or sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE users (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, cells BLOB NOT NULL)"
        )

    def add(self, ids: Iterable[str]) -> None:
        """Add ids, without duplicates. Raises DiskFull."""
        self._insert("INSERT OR IGNORE", ((user_id, b"[]") for user_id in ids))

    def replace(self, members: Iterable[tuple[str, Values]]) -> None:
        """Add ids with their values. If an id is repeated, the last values win. Raises DiskFull."""
        self._insert("INSERT OR REPLACE", ((user_id, orjson.dumps(values)) for user_id, values in members))

    def _insert(self, command: str, rows: Iterable[tuple[str, bytes]]) -> None:
        try:
            self._database.execute("BEGIN")
            self._database.executemany(f"{command} INTO users (id, cells) VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise DiskFull(str(error)) from None

    def clear(self) -> None:
        """Remove all ids, including those of an unfinished insertion."""
        if self._database.in_transaction:
            self._database.execute("COMMIT")
        self._database.execute("DELETE FROM users")

    def close(self) -> None:
        """Close and delete the file."""
        self._database.close()

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM users").fetchone()
        return int(count)

    def __iter__(self) -> Iterator[str]:
        return (user_id for (user_id,) in self._database.execute("SELECT id FROM users ORDER BY position"))

    def members(self, step: int = 1) -> Iterator[tuple[str, Values]]:
        """Yield the ids and values of every user, or of one user in `step`."""
        rows = self._database.execute(
            "SELECT id, cells FROM users WHERE position % ? = 0 ORDER BY position", (max(1, step),)
        )
        return ((user_id, orjson.loads(cells)) for user_id, cells in rows)
