"""The standard filters print what Ruby's Liquid prints, for values of every type as input and as argument."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.liquid.standard_filters import STANDARD
from tests.support.liquid import rendered_by_product, rendered_by_ruby, ruby_is_missing

pytestmark = pytest.mark.skipif(ruby_is_missing(), reason="Ruby's Liquid is not installed")

VALUES: dict[str, Any] = {
    "nil": None,
    "true": True,
    "false": False,
    "zero": 0,
    "integer": -17,
    "digit": 2,
    "large": 10**20,
    "float": 2.5,
    "negative": -12.345,
    "huge": 1e20,
    "tiny": 1.5e-7,
    "empty_text": "",
    "blank": " \t",
    "text": "Größe <b>x</b> & 'y'",
    "number_text": "4.5 stars",
    "digits_text": "12",
    "decimal_text": " 3.75",
    "date_text": "2026-03-04 05:06:07 +0200",
    "letter": "a",
    "list": ["b", "a", "B", "a"],
    "numbers": [3, 1.5, 2, None, 1],
    "mixed": [1, "a", None, True, [2, {"a": 1}]],
    "empty_list": [],
    "objects": [{"a": 2}, {"a": 1, "b": "x"}, {}, {"a": None}],
    "object": {"a": 1, "b": [1, "two"], "c": {"d": None}},
    "empty_object": {},
}
"""Name to value. A name that is not here is absent."""
NAMES = [f"v.{name}" for name in VALUES] + ["v.absent", "(1..3)", "blank"]
SEPARATOR = "\n#\n"
PER_TEMPLATE = 300
LEAVES_PYTHON_TEXT = ("None", "NoneType", "Error:", "datetime", "__", "<class", "Decimal")


def few() -> Iterator[str]:
    """Yield each filter with each value as input and as first argument, and with further arguments of some values."""
    for name, value in itertools.product(STANDARD, NAMES):
        yield f"{value} | {name}"
    for name, value, argument in itertools.product(STANDARD, ("v.text", "v.objects"), NAMES):
        yield f"{value} | {name}: {argument}"
    for name, value in itertools.product(STANDARD, NAMES):
        yield f"{value} | {name}: 2"
        yield f"v.list | {name}: 1, {value}"
        yield f"'a-b-a' | {name}: 'a', {value}"
    for name in STANDARD:
        yield f"v.text | {name}: 1, 2, 3"
        yield f"v.text | {name}: 1, 2, 3, 4"
        yield f"v.nil | {name}: named: 1"
        yield f"v.false | {name}: 'x', allow_false: true"


def many() -> Iterator[str]:
    """Yield each filter with each value as input and each two values as arguments."""
    for name, value, first in itertools.product(STANDARD, NAMES, NAMES):
        yield f"{value} | {name}: {first}"
        yield f"{value} | {name}: {first}, 2"
        yield f"{value} | {name}: 2, {first}"
        yield f"{value} | {name}: 'a', {first}"


def chains(count: int) -> Iterator[str]:
    """Yield random chains of filters."""
    choice = random.Random(5)  # noqa: S311
    for _ in range(count):
        filters = []
        for _ in range(choice.randint(2, 4)):
            arguments = ", ".join(choice.choices(NAMES, k=choice.choice((0, 0, 1, 1, 2))))
            filters.append(choice.choice([*STANDARD]) + (f": {arguments}" if arguments else ""))
        yield " | ".join([choice.choice(NAMES), *filters])


def alike(expression: str, text: str, right: str) -> bool:
    """Return whether two texts are the same; the order of equal entries is not defined after Ruby's sort."""
    return text == right or ("sort" in expression and sorted(text) == sorted(right))


def compare(expressions: list[str]) -> int:
    """Compare the texts of both engines and return their number."""
    # Bytes that base64 decodes make the rest of Ruby's output binary.
    alone = [each for each in expressions if "base64" in each]
    others = [each for each in expressions if "base64" not in each]
    batches = [others[at : at + PER_TEMPLATE] for at in range(0, len(others), PER_TEMPLATE)]
    batches += [[each] for each in alone]
    templates = [SEPARATOR.join(f"{{{{ {each} }}}}" for each in batch) for batch in batches]
    data = {"v": VALUES}
    by_ruby = rendered_by_ruby([(template, data) for template in templates])
    different = []
    for batch, template, expected in zip(batches, templates, by_ruby, strict=True):
        texts = rendered_by_product(template, data).split(SEPARATOR)
        if len(texts) != len(batch):
            texts = [rendered_by_product(f"{{{{ {each} }}}}", data) for each in batch]
        different += [
            f"{each}: {text!r}, Ruby {right!r}"
            for each, text, right in zip(batch, texts, expected.split(SEPARATOR), strict=True)
            if not alike(each, text, right)
        ]
        leaked = [text for text in texts if any(part in text for part in LEAVES_PYTHON_TEXT)]
        assert not leaked, leaked[:3]
    assert not different, f"{len(different)} of {len(expressions)} differ:\n" + "\n".join(different[:400])
    return len(expressions)


def test_filters__values_as_input_and_argument__as_ruby(record_property: Any) -> None:
    record_property("expressions", compare([*few(), *chains(500)]))


@pytest.mark.slow
def test_filters__all_pairs_of_values_and_long_chains__as_ruby(record_property: Any) -> None:
    record_property("expressions", compare([*many(), *chains(20_000)]))


def test_values__json__is_the_same_in_both_engines() -> None:
    expected = rendered_by_ruby([("{{ v }}", {"v": VALUES})])[0]
    assert rendered_by_product("{{ v }}", {"v": VALUES}) == expected, json.dumps(VALUES)
