"""Who is to be warmed, each once and in order, in a file that ends with the process: millions need no memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator


class NoRoom(Exception):
    """The disk has no room for the file."""


class Audience:
    """A set of user ids that keeps their order."""

    def __init__(self) -> None:
        # An empty name is a file of its own in the system's folder for such, which nobody else can open by name.
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("CREATE TABLE users (place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)")

    def add(self, ids: Iterable[str]) -> None:
        """Add those that are not there yet. Raises NoRoom."""
        try:
            self._file.execute("BEGIN")
            self._file.executemany("INSERT OR IGNORE INTO users (id) VALUES (?)", ((one,) for one in ids))
            self._file.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise NoRoom(str(error)) from None

    def clear(self) -> None:
        """Forget everybody, also those that were being added."""
        if self._file.in_transaction:
            self._file.execute("COMMIT")
        self._file.execute("DELETE FROM users")

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def __len__(self) -> int:
        (count,) = self._file.execute("SELECT count(*) FROM users").fetchone()
        return int(count)

    def __iter__(self) -> Iterator[str]:
        return (one for (one,) in self._file.execute("SELECT id FROM users ORDER BY place"))
