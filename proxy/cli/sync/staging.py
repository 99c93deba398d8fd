"""Stores the users and changes of a run in a temporary file, so that millions of users need little memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from proxy.cli.warmup.audience import DiskFull
from proxy.profile.json import read_written, write_json
from proxy.sync.changes import UserAttributes
from proxy.sync.delivery import Change

_PAGE_USERS = 1000


class Staging:
    """The users in order of arrival, with their attributes, and the planned changes.

    Every method may raise DiskFull. Any thread may call the methods, but not two threads at the same time.
    """

    def __init__(self) -> None:
        # For an empty name, SQLite creates a private temporary file and deletes it on closing.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE users (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, attributes BLOB, at REAL, "
            "answered INTEGER NOT NULL DEFAULT 0)"
        )
        self._database.execute(
            "CREATE TABLE changes (position INTEGER PRIMARY KEY, id TEXT NOT NULL, attributes BLOB NOT NULL, "
            "at REAL NOT NULL)"
        )

    def close(self) -> None:
        """Close and delete the file."""
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM users").fetchone()[0])

    def __contains__(self, user_id: str) -> bool:
        return self._database.execute("SELECT 1 FROM users WHERE id = ?", [user_id]).fetchone() is not None

    def add_users(self, user_ids: Iterable[str]) -> None:
        """Add users without attributes. Ignores users that are already staged."""
        self._insert("INSERT OR IGNORE INTO users (id) VALUES (?)", ([user_id] for user_id in user_ids))

    def add(self, users: Iterable[UserAttributes]) -> None:
        """Add users with attributes. The last attributes of a user win."""
        rows = ((user.user_id, write_json(user.attributes), user.at) for user in users)
        self._insert("INSERT OR REPLACE INTO users (id, attributes, at) VALUES (?, ?, ?)", rows)

    def merge(self, user_id: str, attributes: Mapping[str, Any], at: float) -> None:
        """Add the attributes in an answer to the attributes of a user. `at`: the time of the answer.

        A user from a download keeps the time of the download. Only properties need an exact time, because the event
        stream also writes properties. With a download, the answers contain no properties.
        """
        row = self._database.execute("SELECT attributes, at FROM users WHERE id = ?", [user_id]).fetchone()
        stored, stored_at = row or (None, None)
        merged = {**(read_written(stored) if stored is not None else {}), **attributes}
        with _disk_errors():
            self._database.execute(
                "UPDATE users SET attributes = ?, at = ?, answered = 1 WHERE id = ?",
                [write_json(merged), at if stored_at is None else stored_at, user_id],
            )

    def user_ids(self) -> Iterator[str]:
        """Yield all user ids. `merge` may be called at the same time."""
        return (user_id for _, user_id in self._pages("SELECT position, id FROM users"))

    def users(self, computed: Iterable[str]) -> Iterator[list[UserAttributes]]:
        """Yield the users that have attributes, in lists.

        `computed`: names of computed values. A user with an answer gets None for each name that is not in the answer.
        """
        absent = dict.fromkeys(computed)
        page: list[UserAttributes] = []
        query = "SELECT position, id, attributes, at, answered FROM users"
        for _, user_id, attributes, at, is_answered in self._pages(query):
            if attributes is not None:
                values = read_written(attributes)
                page.append(UserAttributes(user_id, {**absent, **values} if is_answered else values, at))
            if len(page) >= _PAGE_USERS:
                yield page
                page = []
        yield page

    def add_changes(self, changes: Iterable[Change | None]) -> None:
        """Add planned changes."""
        rows = ((change.user_id, write_json(change.attributes), change.at) for change in changes if change is not None)
        self._insert("INSERT INTO changes (id, attributes, at) VALUES (?, ?, ?)", rows)

    def changes(self) -> Iterator[Change]:
        """Yield the planned changes."""
        for _, user_id, attributes, at in self._pages("SELECT position, id, attributes, at FROM changes"):
            yield Change(user_id, read_written(attributes), at)

    def _pages(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows page by page, because an open cursor must not read rows that change."""
        last = 0
        while rows := self._database.execute(
            f"{query} WHERE position > ? ORDER BY position LIMIT {_PAGE_USERS}", [last]
        ).fetchall():
            yield from rows
            last = rows[-1][0]

    def _insert(self, command: str, rows: Iterable[Sequence[Any]]) -> None:
        with _disk_errors():
            self._database.execute("BEGIN")
            self._database.executemany(command, rows)
            self._database.execute("COMMIT")


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DiskFull(str(error)) from None
