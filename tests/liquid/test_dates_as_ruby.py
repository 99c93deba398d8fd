"""The filter `date` reads and prints dates as Ruby's Liquid does."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Sequence

import pytest

from tests.support.liquid import rendered_by_product, rendered_by_ruby, ruby_is_missing

pytestmark = pytest.mark.skipif(ruby_is_missing(), reason="Ruby's Liquid is not installed")

DATES = [
    *("2026-01-02", "01/02/2026", "13/02/2026", "02/13/2026", "2/1/26", "26/1/2", "1.2.2026", "2026.1.2", "20260102"),
    *("20260102T030405Z", "2026-01-02T24:00:00", "24:00", "24:01", "25:00", "10:30", "10:30pm", "10 pm", "12am"),
    *("jan", "feb2026", "2026-W05", "2026-033", "2026-366", "2024-366", "99-1-2", "5", "2026", "202601", "1-2-2026"),
    *("31-2-2026", "2026-02-30", "2026-04-31T10:00:00", "h23", "20260102030405", "2026-01-02T03:04:05.678+05:30"),
    *("2 jan 2026", "Jan 2, 2026", "January 2 2026 5:06 pm", "Fri, 02 Jan 2026 03:04:05 GMT", "today ", "yesterday"),
    *("2026-01-02 03:04:05 UTC", "2026-01-02 03:04:05 EST", "2026-01-02 03:04:05 -0500", "2026-01-02 03:04 +02:00"),
    *("2nd of January 2026", "jan 2", "2 jan", "jan 2026", "monday", "3 o'clock", "Sept 5 '26", "jan 5 bc 100"),
    *("2026-01-02 3:04 America/New_York", "2026-01-02 3 pm", "a 2026-01-02 b", "may the 4th", "hello", "10:00 +5"),
    *("2026-01-02 03:04:05 z", "2026-1-2 3:4:5", "23:59:60", "2026-01-02 10:00 gmt+3", "1 2 3", "12 12 2012"),
    *(
        "1700000000",
        "1700000000000",
        "-1",
        "1e9",
        "0",
        "99999999999999999999",
        " 2026-01-02 ",
        "2026-13-01",
        "2026-00-10",
    ),
    *(
        "12-jan-2026",
        "jan-12-2026",
        "H30.1.2",
        "--02-03",
        "'26",
        "3rd",
        "2026-01-02T03:04:05+0530",
        "2026-01-02T03:04Z",
    ),
    *("2026-12-31 23:59:59 -0000", "2026-06-15 12:00:00 PDT", "0001-01-01", "10000-01-01", "-0044-03-15", "31/12/1999"),
    *("Thu Jan  2 03:04:05 2026", "2026-01-02 at 10:00", "02 Jan", "10h30", "10h", "8:05:03.25 am", "2026/1/2 1:2:3"),
]
LETTERS = "aAbBcCdDeFgGhHIjklLmMnNpPrRsStTuUvVwWxXyYzZ%"
DIRECTIVES = [
    *(f"%{letter}" for letter in string.ascii_letters + "%+"),
    *map("".join, itertools.product("%", ("-", "0", "^", "#", "_", "10", "-5", "_5", "05", "^9"), LETTERS)),
    *(f"%E{letter}" for letter in "cCxXyYdH"),
    *(f"%O{letter}" for letter in "deHkIlmMSuUVwWyYc"),
    *("%:z", "%::z", "%:::z", "%::::z", "%3N", "%6N", "%9N", "%12N", "%1L", "%_10z", "%-z", "%-:z", "%010:z"),
    *("%", "%%Y", "%-", "%5", "100%", "%é", "%Q", "%-d.%-m.%Y", "%B %-d, %Y at %l:%M %p", "%:", "%:Y"),
]  # fmt: skip
MOMENTS = [0, 1, -1, 86_399, 951_782_400, 1_700_000_000, 1_700_000_000_123, -62_135_596_801, 253_402_300_800, 10**20]


def compare(expressions: Sequence[tuple[object, object]]) -> None:
    """Compare both engines for each value and format."""
    form = "{% for e in d %}{{ e[0] | date: e[1] }}\n#\n{% endfor %}"
    batches = [expressions[at : at + 2_000] for at in range(0, len(expressions), 2_000)]
    remaining = []
    for batch, right in zip(batches, rendered_by_ruby([(form, {"d": batch}) for batch in batches]), strict=True):
        remaining += [value for value, _, _ in differences(form, batch, right)]
    # An incomplete date gets the current minute, and the minute may have ended between both engines.
    (right,) = rendered_by_ruby([(form, {"d": remaining})])
    different = [f"{value}: {text!r}, Ruby {other!r}" for value, text, other in differences(form, remaining, right)]
    assert not different, f"{len(different)} of {len(expressions)} differ:\n" + "\n".join(different[:200])


def differences(
    form: str, batch: Sequence[tuple[object, object]], right: str
) -> list[tuple[tuple[object, object], str, str]]:
    """Return each value whose result is not `right`, the result of Ruby, with both results."""
    texts = zip(batch, rendered_by_product(form, {"d": batch}).split("\n#\n"), right.split("\n#\n"), strict=False)
    return [(value, text, other) for value, text, other in texts if text != other]


def test_date__texts_in_every_notation__read_as_ruby() -> None:
    texts = [
        *DATES,
        *(text.upper() for text in DATES),
        *(f"{a} {b}" for a, b in itertools.product(DATES[:12], ("5pm", "03:04 +0100", "x"))),
    ]
    compare([(text, "%Y-%m-%d %H:%M:%S.%L %z %Z") for text in texts])


def test_date__directives_with_flags_and_widths__printed_as_ruby() -> None:
    values: list[object] = [*MOMENTS, "2026-03-04 05:06:07.089 -0330", "2025-12-29 23:00:00 +0530"]
    compare([(value, form) for value in values for form in DIRECTIVES])


def test_date__values_that_are_not_dates__unchanged() -> None:
    values: list[object] = [None, True, False, 1.5, "", " ", [], ["2026-01-02"], {}, {"a": 1}]
    forms: list[object] = ["%Y", "", None, 5, [], "x"]
    compare([(value, form) for value in values for form in forms])


def test_date__now_and_today__is_this_day_in_utc() -> None:
    compare([(word, "%Y-%m-%d %z %Z") for word in ("now", "today", "NOW", "Today", "now ")])


@pytest.mark.slow
def test_date__random_texts__read_as_ruby() -> None:
    choice = random.Random(7)  # noqa: S311
    days = ["1", "31", "07", "2nd", "jan", "December", "2026", "'26", "99", "02"]
    times = ["", "", "5:06", "23:59:59.5", "12 am", "11pm", "24:00", "T03:04", "10h", "0:00:60"]
    zones = ["", "", "z", "utc", "gmt", "pst", "+01:00", "-0930", "+05", "cet", "x"]
    texts = []
    for _ in range(20_000):
        day = choice.choice("-/. ,").join(choice.choices(days, k=choice.randint(1, 3)))
        texts.append(" ".join([day, choice.choice(times), choice.choice(zones)]).strip())
    compare([(text, "%Y-%m-%d %H:%M:%S %z") for text in texts])
