"""Cohort downloads of the sandbox with the properties of the members."""

from __future__ import annotations

import csv
import io

import pytest

from proxy.sandbox.cohort_csv import table
from proxy.sandbox.user_data import Documented


def rows_of(file: bytes | None) -> list[dict[str, str]]:
    assert file is not None
    return list(csv.DictReader(io.StringIO(file.decode())))


def test_table__requested_properties__one_column_each() -> None:
    rows = rows_of(table("c31", Documented(), ["first_name", "gp:sizes", "newsletter"]))
    assert rows[0] | {"amplitude_id": ""} == {
        "amplitude_id": "",
        "user_id": "ava",
        "first_name": "Ava",
        "sizes": '["38", "M"]',
        "newsletter": "true",
    }


def test_table__all_properties__user_properties_of_all_members_without_built_in_properties() -> None:
    header = rows_of(table("vip", Documented(), None))[0].keys()
    assert header == {"amplitude_id", "user_id", "first_name", "email", "loyalty_points", "newsletter", "sizes"}


@pytest.mark.parametrize(
    ("documented", "expected"),
    [
        (Documented(), b'"amplitude_id","user_id","plan"\n"356000000001","ava",""\n'),
        (Documented(cohort_quoting="minimal"), b"amplitude_id,user_id,plan\n356000000001,ava,\n"),
        (Documented(cohort_prefix="gp"), b'"amplitude_id","user_id","gp:plan"\n"356000000001","ava",""\n'),
        (Documented(cohort_column="User ID"), b'"amplitude_id","User ID","plan"\n"356000000001","ava",""\n'),
        (Documented(cohort_empty="null"), b'"amplitude_id","user_id","plan"\n"356000000001","ava","null"\n'),
        (Documented(cohort_format="json"), b'[{"amplitude_id": 356000000001, "user_id": "ava", "plan": ""}]'),
    ],
)
def test_table__undocumented_point__has_a_switch(documented: Documented, expected: bytes) -> None:
    assert table("vip", documented, ["plan"]) == expected
