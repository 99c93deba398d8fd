"""Reads a file with user ids: detects its format, decompresses and decodes it, and yields its rows."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import click

from proxy.api.user_rows import NoColumn, Row, RowTooLong, UnreadableRow, bounded_lines, read

_HEAD_BYTES = 512
_CHUNK_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_AS_CSV = "save it as CSV in UTF-8"
_OTHER_FORMS = (
    (rb"\xff\xfe|\xfe\xff|([^\0]\0){2}|(\0[^\0]){2}|[^\0]\0\0\0|\0\0\0[^\0]", "is UTF-16 or UTF-32; save it as UTF-8"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"is an Excel file; {_AS_CSV}"),
    (rb"PAR1[\0-\x08\x0e-\x1f]", f"is a Parquet file; {_AS_CSV}"),
    (rb"%PDF-", f"is a PDF file; {_AS_CSV}"),
    (rb"\{\s*\"|\[\s*[\{\"]", f"is JSON; {_AS_CSV}"),
    (rb"BZh[1-9]1AY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07", "is compressed; use gzip or zip"),
    (rb"(?s:.{257})ustar", "is a tar archive; extract the file with the user ids"),
)
_SPREADSHEET_MEMBERS = {"[Content_Types].xml", "mimetype", "Index/Document.iwa"}
"""Each is in the files of one program: Excel, LibreOffice or Numbers."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The other methods decompress without a limit on memory."""
_ENCRYPTED = 1
_MAX_SHOWN_FILES = 5
_MAX_RATIO = 200
"""Limit on the content bytes for each compressed byte. Lists of ids have less than 20, a zip bomb has 1,000."""
_MIN_LIMIT_BYTES = 8 * 1024 * 1024
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)
_RESIDUES = (
    (re.compile(r"=.*"), "user_id is a spreadsheet formula; save the file with values, as text"),
    (
        re.compile(r"#+|#(N/A|(REF|VALUE|NAME|NUM|NULL|DIV/0|SPILL|CALC|FIELD|BLOCKED|CONNECT|BUSY)[!?])|Err:\d{3}"),
        "user_id is a spreadsheet error; correct the formula of the cell",
    ),
    (
        re.compile(r"[+-]?\d([.,]\d+)?E\+\d{2,}", re.IGNORECASE),
        "user_id is a rounded number; format the column as text before you save the spreadsheet",
    ),
)


class UnreadableFile(Exception):
    """The file cannot be read. The text has the name of the file, the reason and the fix."""


def read_user_file(file: BinaryIO, column: str | None) -> Iterator[Row]:
    """Yield the rows of a list with one user id per line, or of a CSV table with the ids in `column`.

    The file may be compressed with gzip or zip. It is read as a stream, so memory does not grow with the file.
    Raises UnreadableFile.
    """
    name = file_name(file)
    try:
        with _seekable(file) as source, closing(_lines(_content(source))) as lines:
            for row in read(lines, column):
                yield _without_residue(row, column)
    except (UnreadableFile, NoColumn, UnreadableRow, RowTooLong) as error:
        raise UnreadableFile(f"{name}: {error}") from None
    except _DAMAGED:
        raise UnreadableFile(f"{name}: the compressed file is incomplete or damaged; create it again") from None
    except OSError as error:
        raise UnreadableFile(f"{name}: the file cannot be read ({error.strerror}); check the file") from None


def file_name(file: BinaryIO) -> str:
    """Return the name of a file for messages."""
    name = getattr(file, "name", "<stdin>")
    return "standard input" if isinstance(name, int) or name == "<stdin>" else click.format_filename(name)


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the file, or a temporary copy of a pipe, because the directory of a zip file is at its end."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


def _content(source: BinaryIO) -> BinaryIO:
    """Return the decompressed content. Raises UnreadableFile if the content is not text."""
    start = source.tell()
    head = source.read(_HEAD_BYTES)
    size = source.seek(0, io.SEEK_END) - start
    source.seek(start)
    if not head.startswith((_GZIP, *_ZIP)):
        _require_text(head)
        return source
    decompress: Callable[[], Any] = (
        partial(gzip.GzipFile, fileobj=source) if head.startswith(_GZIP) else _only_member(source)
    )
    _require_harmless(decompress(), size)
    source.seek(start)
    content: BinaryIO = decompress()
    return content


def _require_harmless(content: Any, compressed_size: int) -> None:
    """Decompress the content once, to find a zip bomb before its lines are read."""
    limit, size = max(_MIN_LIMIT_BYTES, _MAX_RATIO * compressed_size), 0
    while chunk := content.read(_CHUNK_BYTES):
        if not size and chunk.startswith((_GZIP, *_ZIP)):
            raise UnreadableFile("the file is compressed twice; decompress it once")
        if not size:
            _require_text(chunk[:_HEAD_BYTES])
        size += len(chunk)
        if size > limit:
            raise UnreadableFile(
                f"the content is more than {_MAX_RATIO} times as large as the compressed file; extract the file, "
                "and check it"
            )
    if not size:
        _require_text(b"")


def _require_text(head: bytes) -> None:
    if not head:
        raise UnreadableFile("the file is empty; check the export")
    for form, problem in _OTHER_FORMS:
        if re.match(form, head):
            raise UnreadableFile(f"the file {problem}")


def _only_member(source: BinaryIO) -> Callable[[], Any]:
    """Return the function that opens the file in a zip file."""
    archive = zipfile.ZipFile(source)
    if _SPREADSHEET_MEMBERS & set(archive.namelist()):
        raise UnreadableFile(f"the file is a spreadsheet; {_AS_CSV}")
    # macOS adds hidden files.
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not re.search(r"(^|/)(\.|__MACOSX/)", member.filename)
    ]
    if len(members) != 1:
        names = ", ".join(repr(member.filename) for member in members[:_MAX_SHOWN_FILES])
        more = ", …" if len(members) > _MAX_SHOWN_FILES else ""
        raise UnreadableFile(
            f"the zip file has {len(members):,} files ({names}{more}); extract the file with the user ids"
            if members
            else "the zip file has no files; check the export"
        )
    (member,) = members
    if member.flag_bits & _ENCRYPTED:
        raise UnreadableFile("the zip file is encrypted; extract the file with the user ids")
    if member.compress_type not in _METHODS:
        raise UnreadableFile("the zip file has an unusual compression method; extract the file with the user ids")
    return partial(archive.open, member)


def _lines(content: BinaryIO) -> Generator[str, None, None]:
    text = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape")
    try:
        yield from bounded_lines(text)
    finally:
        text.detach()  # otherwise the file would be closed; its owner closes it


def _without_residue(row: Row, column: str | None) -> Row:
    """Return the row, with a fault if its id comes from a spreadsheet or from joining files."""
    if row.user_id and row.user_id == column:
        return replace(row, user_id="", fault="the line is a table header", no_user=True)
    if row.user_id.startswith("\ufeff"):
        return replace(row, user_id="", fault="user_id begins with a byte order mark; remove it")
    for residue, fault in _RESIDUES:
        if residue.fullmatch(row.user_id):
            return replace(row, user_id="", fault=fault)
    return row
