"""Files with user ids, in every form in which people export and edit them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from proxy.api.user_rows import MAX_ROW_CHARACTERS
from proxy.cli.user_file import UnreadableFile, read_user_file
from proxy.cli.user_ids import UserIds

IDS = b"u1\nu2\n"
TABLE = b"name,user_id\nAva,u1\nBen,u2\n"


def read(content: bytes | str, column: str | None = None) -> tuple[list[str], list[str]]:
    """Return the user ids of a file, and the summary of the skipped lines."""
    ids = UserIds()
    file = io.BytesIO(content.encode() if isinstance(content, str) else content)
    users = list(ids.of(read_user_file(file, column)))
    return users, list(ids.summary(len(set(users))))


def failure(content: bytes | str, column: str | None = None) -> str:
    """Return the error for a file that cannot be read."""
    with pytest.raises(UnreadableFile) as error:
        read(content, column)
    return str(error.value)


def zipped(*files: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return file.getvalue()


def encrypted(archive: bytes) -> bytes:
    """Return a zip file whose directory says that its file is encrypted."""
    entry = archive.index(b"PK\x01\x02")
    return archive[: entry + 8] + b"\x01" + archive[entry + 9 :]


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("users.txt")
        member.size = len(IDS)
        archive.addfile(member, io.BytesIO(IDS))
    return file.getvalue()


@pytest.mark.parametrize("quote", ["", '"'])
def test_list__long_first_line__skipped(quote: str) -> None:
    users, skipped = read(f"{quote}{'u' * 131_073}{quote}\nu2\n")
    assert users == ["u2"]
    assert skipped == ["skipped 1 line (line 1): user_id is too long; send at most 512 characters"]


@pytest.mark.parametrize("characters", [131_073, 1_000_000])
def test_table__long_cell__row_is_read(characters: int) -> None:
    table = f'user_id,properties\nu1,"{"x" * characters}"\nu2,\n'
    assert read(table, "user_id") == (["u1", "u2"], [])


@pytest.mark.parametrize("column", [None, "user_id"])
def test_file__endless_line__fails_with_its_number_in_little_memory(column: str | None) -> None:
    content = gzip.compress(b"user_id,n\nu1,a\n" if column else IDS) + gzip.compress(os.urandom(300_000).hex().encode())
    content += gzip.compress(b"x" * 20_000_000, 0)
    tracemalloc.start()
    message = failure(content, column)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message.startswith("standard input: line 3: the line has more than 1,048,576 characters; ")
    assert peak < len(content) + 16 * MAX_ROW_CHARACTERS


def test_list__quoted_ids__quotes_are_not_part_of_the_id() -> None:
    users, skipped = read('"u1"\n"u,2"\n"u""3"\nu"4\n"u5\n"u6"x\n"u7","Ava"\n"auth0|8"\n')
    assert users == ["u1", "u,2", 'u"3', 'u"4', "auth0|8"]
    assert [line.partition(": ")[0] for line in skipped] == [
        "skipped 1 line (line 5)",
        "skipped 1 line (line 6)",
        "skipped 1 line (line 7)",
    ]
    assert skipped[0].endswith("close each quote, and double each quote inside a cell")
    assert "--column" in skipped[2]


@pytest.mark.parametrize(
    "header",
    [
        "customer_id",
        "user_id",
        "external_id",
        "User ID",
        "userId",
        "USER-ID",
        '"user_id"',
        "Customer Id",
        "external_user_id",
        "braze_id",
        "ids",
        "uid",
        "email",
        "users",
    ],
)
def test_list__first_line_is_a_header__fails_with_the_option(header: str) -> None:
    name = header.strip('"')
    option = f"--column '{name}'" if " " in name else f"--column {name}"
    assert failure(f"{header}\nu1\n").endswith(f"add the column of the user ids: {option}")
    assert read(f"{header}\nu1\n", name) == (["u1"], [])


@pytest.mark.parametrize("user", ["user-1", "id-7", "42", "ava@example.com", "identity", "auth0|5f7", "userland"])
def test_list__first_line_is_an_id__is_read(user: str) -> None:
    assert read(f"{user}\nu1\n") == ([user, "u1"], [])


@pytest.mark.parametrize("column", [None, "user_id"])
def test_file__header_in_the_middle__is_skipped_and_reported(column: str | None) -> None:
    users, skipped = read(f"{'user_id' if column else 'u0'}\nu1\nuser_id\nu2\n", column)
    assert users[-2:] == ["u1", "u2"]
    assert skipped == ["skipped 1 line (line 3): the line is a table header"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("u1\nu2\n".encode("utf-16"), "UTF-16 or UTF-32; save it as UTF-8"),
        ("u1\nu2\n".encode("utf-16-le"), "UTF-16 or UTF-32; save it as UTF-8"),
        ("u1\nu2\n".encode("utf-16-be"), "UTF-16 or UTF-32; save it as UTF-8"),
        ("u1\nu2\n".encode("utf-32"), "UTF-16 or UTF-32; save it as UTF-8"),
        (gzip.compress("u1\n".encode("utf-16")), "UTF-16 or UTF-32; save it as UTF-8"),
        (b"", "the file is empty"),
        (gzip.compress(b""), "the file is empty"),
        (zipped(("users.txt", b"")), "the file is empty"),
        (zipped(), "the zip file has no files"),
        (zipped(("a.csv", IDS), ("b.csv", IDS)), "the zip file has 2 files ('a.csv', 'b.csv'); extract the file"),
        (
            zipped(*((f"{n}.csv", IDS) for n in range(9))),
            "has 9 files ('0.csv', '1.csv', '2.csv', '3.csv', '4.csv', …)",
        ),
        (encrypted(zipped(("a.csv", IDS))), "the zip file is encrypted; extract the file"),
        (zipped(("a.csv", IDS), compression=zipfile.ZIP_LZMA), "has an unusual compression method; extract the file"),
        (zipped(("a.zip", zipped(("a.csv", IDS)))), "compressed twice; decompress it once"),
        (gzip.compress(gzip.compress(IDS)), "compressed twice; decompress it once"),
        (zipped(("a.csv", IDS))[:-30], "the compressed file is incomplete or damaged; create it again"),
        (zipped(("a", IDS), compression=zipfile.ZIP_STORED).replace(b"u2", b"u3"), "incomplete or damaged"),
        (gzip.compress(IDS)[:-4], "incomplete or damaged"),
        (gzip.compress(IDS)[:14] + b"\xff" * 20, "incomplete or damaged"),
        (zipped(("[Content_Types].xml", b"<a/>"), ("xl/workbook.xml", b"<a/>")), "a spreadsheet; save it as CSV"),
        (zipped(("mimetype", b"application/vnd.oasis.opendocument.spreadsheet")), "a spreadsheet; save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an Excel file; save it as CSV"),
        (b"PAR1\x15\x04\x15\x80PAR1", "a Parquet file; save it as CSV"),
        (b'{"user_id": "u1"}\n', "JSON; save it as CSV"),
        (b'["u1", "u2"]', "JSON; save it as CSV"),
        (b"BZh91AY&SY" + bytes(20), "is compressed; use gzip or zip"),
        (tarred(), "a tar archive; extract the file"),
        (gzip.compress(tarred()), "a tar archive; extract the file"),
    ],
    # Compressed files contain the time. Without names, two processes of a run would collect different tests.
    ids=lambda value: "content" if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("column", [None, "user_id"])
def test_file__other_form__fails_with_the_fix(content: bytes, problem: str, column: str | None) -> None:
    message = failure(content, column)
    assert message.startswith("standard input: the ")
    assert problem in message


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lambda content: gzip.compress(content[:5]) + gzip.compress(content[5:]),
        lambda content: zipped(("export/users.csv", content)),
        lambda content: zipped(("export/", b""), ("u.csv", content), ("__MACOSX/._u.csv", b"x"), (".DS_Store", b"x")),
        lambda content: zipped(("users.csv", content), compression=zipfile.ZIP_STORED),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: gzip.compress(b"\xef\xbb\xbf" + content),
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.replace(b"\n", b"\r"),
        lambda content: content.rstrip(),
    ],
)
def test_file__compressed_or_other_line_ends__is_read(compress: object) -> None:
    assert callable(compress)
    assert read(compress(IDS)) == (["u1", "u2"], [])
    assert read(compress(TABLE), "user_id") == (["u1", "u2"], [])


@pytest.mark.parametrize("bomb", [gzip.compress, lambda content: zipped(("users.txt", content))])
def test_file__bomb__fails_in_little_memory(bomb: object) -> None:
    assert callable(bomb)
    content = bomb(b"u1\n" * 10_000_000)
    tracemalloc.start()
    message = failure(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "more than 200 times as large as the compressed file" in message
    assert peak < 8_000_000


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ('user_id,n\nu1,"a\nu2,b\nu3,c\n', 2),
        ('user_id,n\nu1,"a\n\nb"\nu2,"c\nu3,d', 5),
        ('n,user_id\n"a\nb","c\nd,u1\n', 3),
        ('\nuser_id,n\r\nu1,"a\r\nu2,b\r\n', 3),
        ('user_id;n\nu1;"a\nu2;b\n', 2),
        ('user_id,n\nu1,a\nu2,"' + f"{'x' * 999}\n" * (MAX_ROW_CHARACTERS // 999), 3),
        ('user_id,n\nu1,a\nu2,"' + "x\n" * 10_000, 3),
    ],
)
def test_table__quote_is_not_closed__fails_with_the_line_where_it_opens(table: str, line: int) -> None:
    message = failure(table, "user_id")
    assert message.startswith(f"standard input: line {line}: ")
    assert "close" in message


def test_table__quote_is_closed_by_a_later_row__all_its_lines_are_counted() -> None:
    users, skipped = read('user_id,n\nu0,a\nu1,"a\nu2,b\nu3,"c"\nu4,"d"\n', "user_id")
    assert users == ["u0", "u4"]
    assert [line.partition(": ")[0] for line in skipped] == ["skipped 3 lines (lines 3, …)"]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ('="00123"', "is a spreadsheet formula"),
        ("=A2", "is a spreadsheet formula"),
        ("#N/A", "is a spreadsheet error"),
        ("#REF!", "is a spreadsheet error"),
        ("#DIV/0!", "is a spreadsheet error"),
        ("#NAME?", "is a spreadsheet error"),
        ("Err:502", "is a spreadsheet error"),
        ("########", "is a spreadsheet error"),
        ("1.23E+15", "is a rounded number"),
        ("1,23E+15", "is a rounded number"),
        ("4e+07", "is a rounded number"),
        ("\ufeffu9", "begins with a byte order mark"),
    ],
)
def test_file__residue_of_a_spreadsheet__is_skipped_and_reported(cell: str, problem: str) -> None:
    quoted = cell.replace('"', '""')
    for content, column in (
        (f"u0\n{cell}\nu1\n", None),
        (f"user_id\tn\n{cell}\tx\nu1\ty\n", "user_id"),
        (f'u0\n"{quoted}"\nu1\n', None),
        (f'user_id,n\n"{quoted}",x\nu1,y\n', "user_id"),
    ):
        users, skipped = read(content, column)
        assert [user for user in users if user != "u0"] == ["u1"]
        (report,) = skipped
        assert report.startswith("skipped 1 line (line 2): user_id ")
        assert problem in report
        assert cell not in report, "user ids are not printed"


def test_list__ids_that_resemble_residues__are_read() -> None:
    users = ["00123", "1e5", "#tag", "N/A-1", "a=b", "1E-05", "{8f1c}", "PAR1-x"]
    assert read("\n".join(users)) == (users, [])


@pytest.mark.parametrize(
    "table",
    [
        "name;user_id\nAva;u1\nB,en;u2\n",
        "name\tuser_id\nAva\tu1\nBen\tu2\n",
        "name|user_id\nAva|u1\nBen|u2\n",
        "sep=;\r\nname;user_id\r\nAva;u1\r\nBen;u2\r\n",
        '\n\n"na;me","user_id"\n"Ava","u1"\n"Ben","u2"\n',
    ],
)
def test_table__other_delimiter__is_recognised(table: str) -> None:
    assert read(table, "user_id") == (["u1", "u2"], [])


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("user_id,name,user_id\nu1,Ava,u2\n", "column 'user_id' is ambiguous; columns 1 and 3 have this name"),
        ("id;name\n1;Ava\n", "column 'user_id' is missing; the first line has 'id', 'name'"),
        (",".join(map(str, range(50))), "'28', '29' and 20 more"),
        ("\n\n", "the file has no header"),
        ("näme,user\n".encode("latin-1"), "the line is not UTF-8; save the file as UTF-8"),
    ],
)
def test_table__column_is_missing_or_ambiguous__fails_with_the_columns(table: bytes | str, problem: str) -> None:
    assert problem in failure(table, "user_id")


def test_file__unreadable_rows__are_counted_by_reason() -> None:
    bad = ["\x00u", "x" * 513, "", " ", "u1", "u1", "u2"]
    users, skipped = read("\n".join(bad).encode() + b"\nd\xe1rio\n" + b"\n" * 12)
    assert users == ["u1", "u1", "u2"]
    assert skipped == [
        "skipped 1 line (line 1): user_id contains a control character; remove the character",
        "skipped 1 line (line 2): user_id is too long; send at most 512 characters",
        "skipped 14 lines (lines 3, 4, 9, 10, 11, 12, 13, 14, 15, 16, …): the line is blank",
        "skipped 1 line (line 8): the line is not UTF-8; save the file as UTF-8",
        "skipped 1 duplicate user id",
    ]
    assert read(b"name,user_id\nD\xe1rio,u1\n", "user_id") == (["u1"], []), "other columns may have another encoding"


@pytest.mark.parametrize("content", [IDS, gzip.compress(IDS), zipped(("users.txt", IDS))], ids=["plain", "gzip", "zip"])
def test_pipe__any_form__is_read(content: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert [row.user_id for row in read_user_file(file, None)] == ["u1", "u2"]


def test_file__many_lines__memory_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user_id,n\n" + "".join(f'user-{number},"a, b"\n' for number in range(10_000)))
    ids = UserIds()
    tracemalloc.start()
    with path.open("rb") as file:
        number = sum(1 for _ in ids.of(read_user_file(file, "user_id")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == 10_000
    assert peak < 400_000


def test_file__cannot_be_read__fails_with_its_name() -> None:
    with (
        Path("/proc/self/mem").open("rb") as file,  # an input/output error at the first byte
        pytest.raises(UnreadableFile, match=r"^/proc/self/mem: the file cannot be read \(Input/output error\)"),
    ):
        list(read_user_file(file, None))
