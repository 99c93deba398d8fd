"""Names that are safe in Liquid."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.profile.liquid_names import safe_names


@pytest.mark.contract("1 liquid-safe names")
@pytest.mark.parametrize(
    ("exact", "safe"),
    [
        ("plan", "plan"),
        ("gp:plan", "plan"),
        ("gp:gp:plan", "gp_plan"),
        ("loyalty-points", "loyalty-points"),
        ("_hidden", "_hidden"),
        ("my prop", "my_prop"),
        ("plan.type", "plan_type"),
        ("[Amplitude] City", "Amplitude_City"),
        ("a  --  b", "a_--_b"),
        ("-lead", "lead"),
        ("trail é", "trail"),
        ("1st", "_1st"),
        ("日本", "_"),
        ("", "_"),
        ("gp:", "_"),
        ("new\nline", "new_line"),
        ("plan\n", "plan"),
    ],
)
def test_safe_names__single_name__kept_if_safe_or_rewritten(exact: str, safe: str) -> None:
    assert safe_names([exact]) == {exact: safe}


def test_safe_names__safe_name_after_an_unsafe_name__safe_name_is_kept() -> None:
    assert safe_names(["my prop", "my_prop"]) == {"my prop": "my_prop_2", "my_prop": "my_prop"}


def test_safe_names__unsafe_names_collide__later_names_get_the_first_free_number() -> None:
    assert safe_names(["a b", "a.b", "a_b_2", "a:b"]) == {
        "a b": "a_b",
        "a.b": "a_b_3",
        "a_b_2": "a_b_2",
        "a:b": "a_b_4",
    }


def test_safe_names__rewritten_name_collides__name_with_fewer_changes_is_kept() -> None:
    assert safe_names(["gp:plan", "plan"]) == {"gp:plan": "plan_2", "plan": "plan"}
    assert safe_names(["gp:my plan", "gp:my_plan"]) == {"gp:my plan": "my_plan_2", "gp:my_plan": "my_plan"}
    assert safe_names(["plan", "gp:plan"]) == {"plan": "plan", "gp:plan": "plan_2"}


@pytest.mark.contract("1 liquid-safe names")
def test_safe_names__missing_name_collides__existing_name_is_kept() -> None:
    assert safe_names(["a b"], missing=["a_b"]) == {"a b": "a_b", "a_b": "a_b_2"}


@pytest.mark.contract("1 liquid-safe names")
@given(st.lists(st.text(max_size=6), unique=True), st.lists(st.text(max_size=6), unique=True))
def test_safe_names__any_names__complete_unique_and_safe(exact: list[str], missing: list[str]) -> None:
    names = safe_names(exact, missing)
    assert set(names) == {*exact, *missing}
    assert len(set(names.values())) == len(names)
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) for name in names.values())


@given(st.lists(st.text(alphabet="ab _.", max_size=4), unique=True), st.data())
def test_safe_names__any_missing_names__existing_names_are_unchanged(exact: list[str], data: st.DataObject) -> None:
    missing = data.draw(st.lists(st.text(alphabet="ab _.", max_size=4), unique=True))
    with_missing = safe_names(exact, missing)
    assert {name: with_missing[name] for name in exact} == safe_names(exact)
