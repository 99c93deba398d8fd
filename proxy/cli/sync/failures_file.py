"""The file with the ids of failed users."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import click


class FailuresFile:
    """A CSV file with a line for each failed user: the user id and the reason. Without a `path`, nothing is written.

    `inputs`: files of this run, which must not be overwritten. Raises ClickException if the file cannot be written.
    """

    def __init__(self, path: Path | None, inputs: Iterable[Path] = ()) -> None:
        self._path = path
        self._file: TextIO | None = None
        self.error: str | None = None
        """Why lines are missing, if the disk is full."""
        if path is None:
            return
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            self._file = open(descriptor, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: PTH123, SIM115
            state = os.fstat(descriptor)
            is_other = any(os.path.samestat(state, file.stat()) for file in inputs if file.exists())
            if stat.S_ISREG(state.st_mode) and not is_other:  # never changes the mode of a device, such as /dev/null
                os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, 0)
        except OSError as error:
            raise click.ClickException(self._problem(error)) from None
        if is_other:
            self.close()
            raise click.ClickException(f"--failures {path} is an input or the state of this run; choose another file")

    def add(self, user_id: str, reason: str) -> None:
        """Write a line, unless an earlier line could not be written."""
        if self._file is None or self.error is not None:
            return
        try:
            csv.writer(self._file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow([user_id, reason])
        except OSError as error:  # the values of the other users are sent nevertheless
            self.error = self._problem(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # `add` writes each line at once, and has noted the error
                self._file.close()

    def _problem(self, error: OSError) -> str:
        return f"--failures {self._path} cannot be written ({error.strerror}); choose another file"
