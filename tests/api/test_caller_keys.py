"""Caller keys."""

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.caller_keys import Accepted, KeyRing, entry, generate, parse
from proxy.profile.values import BadValue

PLAIN = "0123456789abcdef"


def ring(entries: str) -> KeyRing:
    return KeyRing(parse(entries))


@pytest.mark.contract("2 authentication")
def test_a_plain_and_a_hashed_secret_both_open_and_name_the_caller() -> None:
    keys = ring(f"braze:{PLAIN}, ops:sha256${hashlib.sha256(b'another-secret-x').hexdigest().upper()} ,")
    assert keys.check(PLAIN) == "braze"
    assert keys.check("another-secret-x") == "ops"
    assert keys.check("something-else") is None


def test_the_name_must_fit_where_one_is_presented() -> None:
    keys = ring(f"braze:{PLAIN}")
    assert keys.check(PLAIN, "braze") == "braze"
    assert keys.check(PLAIN, "other") is None
    assert keys.check(PLAIN, "") is None


def test_the_same_name_twice_is_a_rotation() -> None:
    keys = ring(f"braze:{PLAIN},braze:another-secret-x")
    assert keys.check(PLAIN, "braze") == keys.check("another-secret-x", "braze") == "braze"


def test_the_hash_itself_is_no_secret() -> None:
    (key,) = parse(f"braze:{PLAIN}")
    assert KeyRing((key,)).check(f"sha256${key.digest.hex()}") is None


@pytest.mark.parametrize(
    "secret", ["0123456789abcde", "0123456789 abcdef", "0123456789abcdeé", "abc=0123456789abcdef", "sha256$abc", ""]
)
def test_a_bad_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse(f"ok:{PLAIN},braze:{secret}")
    assert "entry 2" in str(raised.value)
    assert not secret or secret not in str(raised.value)


@pytest.mark.parametrize("text", ["no-colon-in-this-entry", "a name:0123456789abcdef", ":0123456789abcdef"])
def test_a_bad_name_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="entry 1"):
        parse(text)


@pytest.mark.parametrize("rest", ["", "4f5b3e5", "0" * 63])
def test_a_hash_whose_dollar_a_shell_ate_is_not_taken_for_a_secret(rest: str) -> None:
    with pytest.raises(BadValue, match="single quotes"):
        parse(f"braze:sha256{rest}")


def test_every_entry_that_cannot_be_used_is_named() -> None:
    with pytest.raises(BadValue) as raised:
        parse(f"new:123,foo,ok:{PLAIN},bar:sha256$12")
    assert [fault.split()[1] for fault in raised.value.faults] == ["1", "2", "4"]
    assert all(fault in str(raised.value) for fault in raised.value.faults)


def test_padding_is_allowed_at_the_end() -> None:
    assert ring(f"braze:{PLAIN}==").check(f"{PLAIN}==") == "braze"


def test_a_generated_secret_opens_by_its_entry_which_does_not_reveal_it() -> None:
    secret = generate()
    line = entry("braze", secret)
    assert secret not in line
    assert ring(line).check(secret, "braze") == "braze"
    assert generate() != secret


def test_no_digest_is_in_a_repr() -> None:
    (key,) = parse(f"braze:{PLAIN}")
    assert repr(key) == "Key('braze')"


@given(st.text(), st.text() | st.none())
def test_whatever_is_presented_is_answered_not_raised(secret: str, name: str | None) -> None:
    assert ring(f"braze:{PLAIN}").check(secret, name) is None or secret == PLAIN


def test_accepted_credentials_are_known_again_by_a_digest_and_only_so_many() -> None:
    accepted = Accepted()
    credentials = [(f"Bearer a-secret-of-somebody-{number}", None) for number in range(100)]
    for pair in credentials:
        assert accepted.caller(pair) is None
        accepted.remember(pair, "braze")
    assert [pair for pair in credentials if accepted.caller(pair) == "braze"] == credentials[-64:]
    assert accepted.caller((None, credentials[-1][0])) is None
    assert Accepted().caller(credentials[-1]) is None
    assert b"a-secret" not in pickle.dumps(accepted)
