"""The state of sent values in a SQLite file. The file is locked while a process has it open."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.storage.accepted_values import (
    AcceptedValue,
    ValueDigester,
    differing_settings,
    encoded_ids,
    merge,
    new_key,
    pack,
    unpack,
)

DEFAULT_PATH = ".proxy-sync.sqlite3"
_APPLICATION_ID = 0x63635379
_FORMAT = 1
_PAGE_USERS = 1000
_FIX = "choose another file with --state, or delete this file to start without a state"

T = TypeVar("T")


class StateUnavailable(Exception):
    """The state cannot be used. The text names the file, the reason and the fix."""


class SqliteState:
    """Implements `SyncState` in the file `path`. Every method may raise StateUnavailable.

    `create`: create a missing file, with mode 0600. Otherwise, a missing file means an empty state in memory.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        exists = _prepare(self._path, create=create)
        try:
            self._database = sqlite3.connect(
                self._path if exists else ":memory:", timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def _open(self) -> None:
        # The first access locks the file. The system unlocks the file when the process ends, even after `kill -9`.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("BEGIN EXCLUSIVE")
        (application,) = self._database.execute("PRAGMA application_id").fetchone()
        (format,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not (application or tables):
            self._database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version = {_FORMAT}")
            self._database.execute("CREATE TABLE users (id BLOB PRIMARY KEY, sent BLOB NOT NULL) WITHOUT ROWID")
            self._database.execute("CREATE TABLE state (key BLOB NOT NULL, owner BLOB)")
            self._database.execute("INSERT INTO state (key) VALUES (?)", [new_key()])
        elif application != _APPLICATION_ID:
            raise StateUnavailable(f"{self._path} is not a state of this command; {_FIX}")
        elif format != _FORMAT:
            raise StateUnavailable(f"{self._path} was written by another version; {_FIX}")
        (key,) = self._database.execute("SELECT key FROM state").fetchone()
        self._digester = ValueDigester(key)
        self._database.execute("COMMIT")
        # Each COMMIT is on the disk before it returns. A write-ahead log needs one write to the disk instead of three.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        # Overwrites deleted ids, so that forgotten users leave no bytes in the file.
        self._database.execute("PRAGMA secure_delete = ON")

    def close(self) -> None:
        """Close and unlock the file."""
        self._database.close()

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value."""
        return self._digester.value(value)

    def read(self, user_ids: Sequence[str]) -> list[Mapping[str, AcceptedValue]]:
        """Return the accepted attributes of each user; empty for an unknown user."""
        return self._run(lambda: self._read(encoded_ids(user_ids)))

    def _read(self, ids: Sequence[bytes]) -> list[Mapping[str, AcceptedValue]]:
        by_id: dict[bytes, bytes] = {}
        for start in range(0, len(ids), _PAGE_USERS):
            page = ids[start : start + _PAGE_USERS]
            places = ",".join("?" * len(page))
            by_id |= dict(
                self._database.execute(f"SELECT id, sent FROM users WHERE id IN ({places})", page)  # noqa: S608
            )
        return [unpack(by_id.get(id, b"")) for id in ids]

    def record(self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]]) -> None:
        """Merge accepted attributes into the state. The attributes are on the disk when this method returns."""
        ids = encoded_ids(user_id for user_id, _ in accepted)

        def write() -> None:
            stored = dict(zip(ids, self._read(ids), strict=True))
            for id, (_, new) in zip(ids, accepted, strict=True):
                stored[id] = merge(stored[id], new)
            self._database.executemany(
                "INSERT OR REPLACE INTO users VALUES (?, ?)",
                [(id, pack(attributes)) for id, attributes in stored.items()],
            )

        self._write(write)

    def users(self) -> Iterator[tuple[str, Mapping[str, AcceptedValue]]]:
        """Yield every user of the state, by id."""
        last = b""
        while page := self._run(partial(self._page, last)):
            for id, packed in page:
                yield id.decode("utf-8", "surrogatepass"), unpack(packed)
            last = page[-1][0]

    def _page(self, last: bytes) -> list[tuple[bytes, bytes]]:
        return self._database.execute(
            "SELECT id, sent FROM users WHERE id > ? ORDER BY id LIMIT ?", [last, _PAGE_USERS]
        ).fetchall()

    def count(self) -> int:
        """Return the number of users."""
        return self._run(lambda: int(self._database.execute("SELECT count(*) FROM users").fetchone()[0]))

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users. Return the number of removed users."""
        ids = [[id] for id in encoded_ids(user_ids)]

        def write() -> int:
            return self._database.executemany("DELETE FROM users WHERE id = ?", ids).rowcount

        return self._write(write)

    def compare_owner(self, endpoint: str, api_key: str) -> list[str]:
        """Return the names of the settings that differ from the settings of the owner; empty without an owner."""
        (owner,) = self._run(lambda: self._database.execute("SELECT owner FROM state").fetchone())
        return [] if owner is None else differing_settings(owner, self._digester.owner(endpoint, api_key))

    def claim(self, endpoint: str, api_key: str, *, clear: bool) -> None:
        """Make an endpoint and a key the owner of the state. `clear`: remove all users first."""

        def write() -> None:
            if clear:
                self._database.execute("DELETE FROM users")
            self._database.execute("UPDATE state SET owner = ?", [self._digester.owner(endpoint, api_key)])

        self._write(write)

    def _run(self, command: Callable[[], T]) -> T:
        with self._lock:
            try:
                return command()
            except sqlite3.Error as error:
                raise self._unavailable(error) from None

    def _write(self, command: Callable[[], T]) -> T:
        """Run a command in a transaction."""

        def write() -> T:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                result = command()
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            return result

        return self._run(write)

    def _unavailable(self, error: sqlite3.Error) -> StateUnavailable:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        match code:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                text = "is in use by another run; wait until that run ends"
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                text = f"is damaged or not a state of this command; {_FIX}"
            case sqlite3.SQLITE_FULL:
                text = "cannot be written, because the disk is full; free disk space, and run the command again"
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                text = "or its folder is not writable; change the permissions, or choose another file with --state"
            case _:
                text = f"cannot be read or written ({error}); check its disk"
        return StateUnavailable(f"{self._path} {text}")


def _prepare(path: Path, *, create: bool) -> bool:
    """Return whether the file exists. Create it with mode 0600 if `create`. Raises StateUnavailable."""
    # Closed before SQLite opens the file, because closing any descriptor of a file ends the locks of the process.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            if not create:
                return False
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise StateUnavailable(f"{path} is not a regular file; choose another file with --state")
            if stat.S_IMODE(state.st_mode) != 0o600:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StateUnavailable(f"{path} is a symbolic link; choose the file itself with --state") from None
        if error.errno == errno.ENOENT:
            raise StateUnavailable(f"the folder of {path} does not exist; create it, or change --state") from None
        raise StateUnavailable(
            f"{path} cannot be opened ({error.strerror}); change the permissions, or choose another file with --state"
        ) from None
    return True
