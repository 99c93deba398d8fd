"""The file of a cohort download: columns, cells, and files that are refused."""

from __future__ import annotations

import pytest

from proxy.amplitude.cohort_file import UnusableFile, read_cohort_file
from proxy.api.user_rows import NoColumn, RowTooLong


def members(
    text: str, properties: list[str] | None = None
) -> tuple[tuple[str, ...], list[tuple[str, list[str | None]]]]:
    file = read_cohort_file(text.splitlines(keepends=True), properties)
    return file.names, [(row.user_id, values) for row, values in file.rows if not row.fault]


@pytest.mark.parametrize(
    "header", ["user_id", "User ID", "userId", "userID", "USER_ID", '"user_id"', "user id", "\ufeffuser_id"]
)
def test_read_cohort_file__form_of_the_header__user_ids_are_found(header: str) -> None:
    assert members(f"amplitude_id,{header.removeprefix(chr(0xFEFF))},plan\n1,ava,gold\n") == (
        ("plan",),
        [("ava", ["gold"])],
    )


def test_read_cohort_file__all_properties__every_other_column_without_prefix() -> None:
    text = "Amplitude ID,gp:plan,userID,first name,\n1,gold,ava,Ava,\n"
    assert members(text) == (("plan", "first name"), [("ava", ["gold", "Ava"])])


def test_read_cohort_file__user_property_named_user_id__is_a_property() -> None:
    assert members("user_id,gp:user_id\nava,legacy-7\n") == (("user_id",), [("ava", ["legacy-7"])])


@pytest.mark.parametrize("key", ["plan", "gp:plan"])
@pytest.mark.parametrize("column", ["plan", "gp:plan"])
def test_read_cohort_file__requested_properties__only_these_and_the_missing_names(key: str, column: str) -> None:
    file = read_cohort_file([f"user_id,{column},zip\n", "ava,gold,1\n"], [key, "colour"])
    assert (file.names, file.missing) == (("plan",), ("colour",))
    assert [values for _, values in file.rows] == [["gold"]]


def test_read_cohort_file__no_properties_requested__members_only() -> None:
    assert members("user_id,plan,plan\nava,gold,silver\n", []) == ((), [("ava", [])])


def test_read_cohort_file__quoted_cells__keep_commas_quotes_and_line_breaks() -> None:
    text = 'user_id,note,plan\n"a,v","say ""hi"",\nbye",gold\n'
    assert members(text) == (("note", "plan"), [("a,v", ['say "hi",\nbye', "gold"])])


@pytest.mark.parametrize("cell", ["", '""', "null"])
def test_read_cohort_file__empty_cell__no_value(cell: str) -> None:
    assert members(f"user_id,plan,zip\nava,{cell},02134\n") == (("plan", "zip"), [("ava", [None, "02134"])])


def test_read_cohort_file__rows_that_cannot_be_used__have_the_reason() -> None:
    lines = ["user_id,plan\n", ",gold\n", " ben,gold\n", "cleo,gold,7\n", "\n", "dora\n", "ed,\udce9\n", "ava,gold\n"]
    rows = [(row.line, row.user_id, row.fault) for row, _ in read_cohort_file(lines, None).rows]
    assert rows == [
        (2, "", "user_id is blank"),
        (3, "", "user_id begins or ends with white space; remove the white space"),
        (4, "", "the row has 3 cells and the header 2; correct the row"),
        (6, "", "the row has 1 cells and the header 2; correct the row"),
        (7, "", "a property is not UTF-8; correct it in Amplitude"),
        (8, "ava", ""),
    ]


@pytest.mark.parametrize(
    ("text", "properties", "message"),
    [
        ("user_id,plan,gp:plan\nava,a,b\n", None, "property 'plan' has two columns in the cohort file (2 and 3)"),
        ("user_id,plan,plan\nava,a,b\n", ["plan"], "property 'plan' has two columns"),
        ("user_id,zip\nava,1\n", ["plan"], "none of the requested properties; it has the columns 'user_id', 'zip'"),
        (
            "user_id,caf\udce9\nava,1\n",
            None,
            "'caf\\udce9' in the cohort file is not UTF-8; name the properties with --keys",
        ),
        ('[{"amplitude_id": 1, "user_id": "ava"}]', None, "JSON instead of CSV; add --no-export"),
        ('{"user_id": "ava"}\n', ["plan"], "JSON instead of CSV"),
    ],
)
def test_read_cohort_file__ambiguous_or_other_file__refused_with_the_fix(
    text: str, properties: list[str] | None, message: str
) -> None:
    with pytest.raises(UnusableFile) as refused:
        members(text, properties)
    assert message in str(refused.value)


def test_read_cohort_file__name_is_not_utf_8_and_was_not_requested__ignored() -> None:
    assert members("user_id,caf\udce9,plan\nava,1,gold\n", ["plan"]) == members("user_id,plan\nava,gold\n", ["plan"])


def test_read_cohort_file__json_without_line_breaks__refused_with_the_fix() -> None:
    def read_line(_: int) -> str:
        raise RowTooLong("line 1 is longer than 1,048,576 characters", '[{"amplitude_id": 1')

    with pytest.raises(UnusableFile, match="JSON instead of CSV"):
        read_cohort_file(map(read_line, range(1)), None)


def test_read_cohort_file__no_column_of_user_ids__names_the_columns() -> None:
    with pytest.raises(NoColumn, match="column 'user_id' is missing; the first line has 'id', 'plan'"):
        members("id,plan\nava,gold\n")
    with pytest.raises(NoColumn, match="column 'user_id' is ambiguous; columns 1 and 2"):
        members("user_id,User ID\nava,ava\n")
