"""Stores the users to warm in a temporary file, in order and without duplicates.

Millions of users then need no memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator


class DiskFull(Exception):
    """The disk has no room for the temporary file."""


class Audience:
    """An ordered set of user ids. `database` is for tests."""

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        # For an empty name, SQLite creates a private temporary file and deletes it on closing.
        self._database = database or sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE users (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)")

    def add(self, ids: Iterable[str]) -> None:
        """Add ids, without duplicates. Raises DiskFull."""
        try:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO users (id) VALUES (?)", ((user_id,) for user_id in ids))
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise DiskFull(str(error)) from None

    def clear(self) -> None:
        """Remove all ids, including those of an unfinished `add`."""
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
