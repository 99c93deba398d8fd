"""The environment, read once."""

import json
from dataclasses import fields

import pytest

from proxy.keys import KeyRing
from proxy.parts import COHORTS, PROPERTIES
from proxy.settings import Settings, SettingsError
from tests.conftest import ROOT

GOOD = {"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": "braze:0123456789abcdef"}


def test_defaults_are_the_contract_s() -> None:
    settings = Settings.from_env(GOOD)
    assert settings.amplitude_base_url == "https://profile-api.amplitude.com"
    assert settings.amplitude_requests_per_minute == 600
    assert settings.amplitude_timeout_seconds == 5
    assert settings.fetch_along == (PROPERTIES, COHORTS)
    assert settings.response_deadline_seconds == 1.5
    assert settings.cache_fresh_seconds == 900
    assert settings.cache_negative_seconds == 60
    assert settings.cache_max_mb == 64
    assert settings.log_level == "INFO"


def test_every_fault_is_reported_at_once_with_variable_and_example() -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.from_env({"AMPLITUDE_TIMEOUT_SECONDS": "soon", "CACHE_MAX_MB": "0"})
    assert [fault.split()[0] for fault in wrong.value.faults] == [
        "AMPLITUDE_SECRET_KEY",
        "AMPLITUDE_TIMEOUT_SECONDS",
        "PROXY_API_KEYS",
        "CACHE_MAX_MB",
    ]
    assert all("e.g. " in fault and "\n" not in fault for fault in wrong.value.faults)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AMPLITUDE_SECRET_KEY", "pasted with space"),
        ("AMPLITUDE_API_KEY", "kéy-with-accent"),
        ("AMPLITUDE_BASE_URL", "http://profile-api.amplitude.com"),
        ("AMPLITUDE_BASE_URL", "profile-api.amplitude.com"),
        ("AMPLITUDE_BASE_URL", "https://user:pass@host"),
        ("AMPLITUDE_BASE_URL", "https://host:99999"),
        ("AMPLITUDE_BASE_URL", "https://host/?a=b"),
        ("AMPLITUDE_BASE_URL", "https://[bad"),
        ("AMPLITUDE_BASE_URL", "https://exa mple.com"),
        ("AMPLITUDE_BASE_URL", "https://host.com/?"),
        ("PORT", "99999"),
        ("PORT", "http"),
        ("ALLOWED_NETWORKS", "10.0.0.0/33"),
        ("ALLOWED_NETWORKS", "example.com"),
        ("TRUSTED_PROXY_HOPS", "-1"),
        ("AMPLITUDE_REQUESTS_PER_MINUTE", "0"),
        ("AMPLITUDE_REQUESTS_PER_MINUTE", "600.5"),
        ("AMPLITUDE_REQUESTS_PER_MINUTE", "9" * 5000),
        ("AMPLITUDE_TIMEOUT_SECONDS", "nan"),
        ("FETCH_ALONG", "properties,recommendations"),
        ("PROXY_API_KEYS", "braze:too-short"),
        ("PROXY_API_KEYS", ","),
        ("RESPONSE_DEADLINE_SECONDS", "-1"),
        ("CACHE_FRESH_SECONDS", "inf"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_is_named_and_never_echoed(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.from_env(GOOD | {variable: value})
    (fault,) = wrong.value.faults
    assert fault.startswith(variable)
    if len(value) > 4:
        assert value not in fault.split("e.g.")[0]


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "127.1.2.3"])
def test_plain_http_is_for_loopback(host: str) -> None:
    assert Settings.from_env(GOOD | {"AMPLITUDE_BASE_URL": f"http://{host}/"}).amplitude_base_url == f"http://{host}"


def test_blank_counts_as_absent_except_for_fetch_along() -> None:
    settings = Settings.from_env(GOOD | {"AMPLITUDE_API_KEY": " ", "FETCH_ALONG": ""})
    assert settings.amplitude_api_key is None
    assert settings.fetch_along == ()


def test_no_secret_is_in_a_repr() -> None:
    shown = repr(Settings.from_env(GOOD | {"AMPLITUDE_API_KEY": "amplitude-api-key"}))
    assert "amplitude-secret" not in shown
    assert "amplitude-api-key" not in shown
    assert "braze" not in shown


def test_a_generated_secret_alone_makes_a_caller_named_braze() -> None:
    settings = Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "BRAZE_SECRET": "0123456789abcdef" * 4})
    ring = KeyRing(settings.proxy_api_keys + settings.braze_secret)
    assert ring.check("0123456789abcdef" * 4, "braze") == "braze"
    with pytest.raises(SettingsError, match="BRAZE_SECRET is a secret alone"):
        Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "BRAZE_SECRET": "braze:0123456789abcdef"})
    with pytest.raises(SettingsError, match="PROXY_API_KEYS is missing"):
        Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "BRAZE_SECRET": " "})


def test_the_button_asks_for_settings_that_exist_and_for_all_that_are_required() -> None:
    asked = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))["env"]
    known = {one.name.upper() for one in fields(Settings)}
    assert asked.keys() <= known
    given = {name: one.get("value", "0123456789abcdef") for name, one in asked.items()}
    assert Settings.from_env(given).trusted_proxy_hops == 1
