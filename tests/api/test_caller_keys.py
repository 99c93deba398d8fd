"""Caller keys: parse, check, generate and remember."""

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.caller_keys import SCOPES, Accepted, Caller, KeyRing, Scope, entry, generate, parse, same_secret
from proxy.profile.values import BadValue

PLAIN = "0123456789abcdef"
BRAZE = Caller("braze", "admin")


def ring(entries: str) -> KeyRing:
    return KeyRing(parse(entries))


@pytest.mark.contract("2 authentication")
def test_check__plain_or_hashed_secret__name_of_the_caller() -> None:
    keys = ring(f"braze:{PLAIN}, ops:sha256${hashlib.sha256(b'another-secret-x').hexdigest().upper()} ,")
    assert keys.check(PLAIN) == BRAZE
    assert keys.check("another-secret-x") == Caller("ops", "admin")
    assert keys.check("something-else") is None


def test_check__name_sent__must_match() -> None:
    keys = ring(f"braze:{PLAIN}")
    assert keys.check(PLAIN, "braze") == BRAZE
    assert keys.check(PLAIN, "other") is None
    assert keys.check(PLAIN, "") is None


def test_check__two_secrets_of_one_name__both_accepted() -> None:
    keys = ring(f"braze:{PLAIN},braze:another-secret-x")
    assert keys.check(PLAIN, "braze") == keys.check("another-secret-x", "braze") == BRAZE


def test_check__hash_sent_as_the_secret__refused() -> None:
    (key,) = parse(f"braze:{PLAIN}")
    assert KeyRing((key,)).check(f"sha256${key.digest.hex()}") is None


@pytest.mark.parametrize(
    "secret", ["0123456789abcde", "0123456789 abcdef", "0123456789abcdeé", "abc=0123456789abcdef", "sha256$abc", ""]
)
def test_parse__invalid_secret__refused_and_not_shown(secret: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse(f"ok:{PLAIN},braze:{secret}")
    assert "entry 2" in str(raised.value)
    assert not secret or secret not in str(raised.value)


@pytest.mark.parametrize("text", ["no-colon-in-this-entry", "a name:0123456789abcdef", ":0123456789abcdef"])
def test_parse__invalid_name__refused(text: str) -> None:
    with pytest.raises(BadValue, match="entry 1"):
        parse(text)


@pytest.mark.parametrize("rest", ["", "4f5b3e5", "0" * 63])
def test_parse__hash_without_its_dollar_sign__refused_with_advice_to_quote(rest: str) -> None:
    with pytest.raises(BadValue, match="single quotes"):
        parse(f"braze:sha256{rest}")


def test_parse__several_invalid_entries__all_are_named() -> None:
    with pytest.raises(BadValue) as raised:
        parse(f"new:123,foo,ok:{PLAIN},bar:sha256$12")
    assert [fault.split()[1] for fault in raised.value.faults] == ["1", "2", "4"]
    assert all(fault in str(raised.value) for fault in raised.value.faults)


@pytest.mark.contract("2 scopes")
def test_parse__scope_after_a_plain_or_hashed_secret__is_that_of_the_caller() -> None:
    digest = hashlib.sha256(b"another-secret-x").hexdigest()
    keys = ring(f"braze:{PLAIN}=:read, braze:sha256${digest}:push,ops:{PLAIN}")
    assert keys.check(f"{PLAIN}=") == Caller("braze", "read")
    assert keys.check("another-secret-x", "braze") == Caller("braze", "push")
    assert keys.check(PLAIN) == Caller("ops", "admin")
    assert keys.callers == (Caller("braze", "read"), Caller("braze", "push"), Caller("ops", "admin"))


@pytest.mark.contract("2 scopes")
@pytest.mark.parametrize("rest", ["write", "READ", "", "read:push", "the-rest-of-a-secret", " read"])
def test_parse__unknown_scope__error_names_the_scopes_and_shows_no_part_of_the_secret(rest: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse(f"ok:{PLAIN}:read,braze:{PLAIN}:{rest}")
    (fault,) = raised.value.faults
    assert fault.startswith("entry 2 (braze) ")
    assert all(f":{scope}" in fault for scope in SCOPES)
    assert PLAIN not in fault
    assert rest.strip().lower() in ("read", "") or rest not in fault


def test_same_secret__other_scope__both_keys_and_none_for_a_rotation() -> None:
    assert same_secret(parse(f"braze:{PLAIN}:read,braze:another-secret-x:push,old:{PLAIN}:read")) is None
    found = same_secret(parse(f"braze:{PLAIN}:read,ops:{PLAIN}"))
    assert found
    assert [key.caller.name for key in found] == ["braze", "ops"]


def test_check__secret_with_padding__accepted() -> None:
    assert ring(f"braze:{PLAIN}==").check(f"{PLAIN}==") == BRAZE


@pytest.mark.contract("2 scopes")
@pytest.mark.parametrize("scope", SCOPES)
def test_generate__entry_of_a_new_secret__accepts_it_with_its_scope_without_showing_it(scope: Scope) -> None:
    secret = generate()
    line = entry("braze", secret, scope)
    assert secret not in line
    assert ring(line).check(secret, "braze") == Caller("braze", scope)
    assert generate() != secret


def test_key__repr__shows_only_the_name_and_the_scope() -> None:
    (key,) = parse(f"braze:{PLAIN}:push")
    assert repr(key) == "Key('braze', 'push')"


@given(st.text(), st.text() | st.none())
def test_check__any_text__does_not_raise(secret: str, name: str | None) -> None:
    assert ring(f"braze:{PLAIN}").check(secret, name) is None or secret == PLAIN


def test_accepted__100_credentials__last_64_are_remembered_as_digests() -> None:
    accepted = Accepted()
    credentials = [(f"Bearer a-secret-of-visitor-{number}", None) for number in range(100)]
    for pair in credentials:
        assert accepted.caller(pair) is None
        accepted.remember(pair, BRAZE)
    assert [pair for pair in credentials if accepted.caller(pair) == BRAZE] == credentials[-64:]
    assert accepted.caller((None, credentials[-1][0])) is None
    assert Accepted().caller(credentials[-1]) is None
    assert b"a-secret" not in pickle.dumps(accepted)
