"""Settings, read from the environment."""

import json
from collections.abc import Callable
from dataclasses import fields

import pytest

from proxy.api.caller_keys import Caller, KeyRing
from proxy.profile.aliases import Alias
from proxy.profile.parts import COHORTS, PROPERTIES
from proxy.sandbox.server import Sandbox
from proxy.settings import Settings, SettingsError, changed_settings, renamed_variables
from tests.conftest import ROOT, Service

GOOD = {"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": "braze:0123456789abcdef"}


@pytest.mark.contract("4 settings")
def test_settings__required_only__defaults_of_the_contract() -> None:
    settings = Settings.from_env(GOOD)
    assert settings.amplitude_base_url == "https://profile-api.amplitude.com"
    assert settings.amplitude_requests_per_minute == 600
    assert settings.amplitude_timeout_seconds == 5
    assert settings.accept_mapped_users is False
    assert settings.fetch_along == (PROPERTIES, COHORTS)
    assert settings.response_deadline_seconds == 1.5
    assert settings.cache_fresh_seconds == 900
    assert settings.cache_negative_seconds == 60
    assert settings.cache_max_mb == 64
    assert settings.log_level == "INFO"
    assert settings.braze_rest_endpoint is settings.braze_api_key is settings.braze_app_id is None
    assert settings.braze_create_users is False
    assert (settings.braze_batch_objects, settings.braze_requests_per_minute) == (75, 3000)
    assert settings.forward_events == settings.forward_properties == frozenset()


@pytest.mark.contract("4 settings")
def test_settings__several_errors__all_reported_with_variable_and_example() -> None:
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
        ("AMPLITUDE_BASE_URL", "ftp://host.com"),
        ("AMPLITUDE_COHORTS_URL", f"https://{'a' * 64}.example.com"),
        ("REDIS_URL", "redis://host..com"),
        ("REDIS_URL", "redis://host:99999"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("REDIS_URL", "redis://host/zero"),
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
def test_settings__invalid_value__error_names_the_variable_without_the_value(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.from_env(GOOD | {variable: value})
    (fault,) = wrong.value.faults
    assert fault.startswith(variable)
    if len(value) > 4:
        assert value not in fault.split("e.g.")[0]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PROXY_API_KEYS", "new:123,foo,ok:0123456789abcdef,bar:12", ["entry 1 (new)", "entry 2 is", "entry 4 (bar)"]),
        ("ALLOWED_NETWORKS", "10.0.0.0/33,192.0.2.0/24,,example.com", ["entry 1 must", "entry 4 must"]),
        ("ALIASES", "vip=c31,cohorts.gold=c32,cohorts.x=", ["has an entry (1)", "has an entry (3)"]),
    ],
)
def test_settings__several_invalid_entries__one_error_each(variable: str, value: str, expected: list[str]) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.from_env(GOOD | {variable: value})
    assert len(wrong.value.faults) == len(expected)
    for fault, start in zip(wrong.value.faults, expected, strict=True):
        assert fault.startswith(f"{variable} {start}")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TRUSTED_PROXY_HOPS", "-1", "must be a whole number from 0 to 10,"),
        ("BACKLOG_MAX_USERS", "-1", "must be a whole number from 0 to 10000000,"),
        ("BACKLOG_MAX_USERS", "1e3", "must be a whole number from 0 to 10000000,"),
        ("PORT", "0", "must be a whole number from 1 to 65535,"),
        ("CACHE_MAX_MB", "much", "must be a number from 1 to 1048576,"),
        ("CACHE_MAX_MB", "-5", "must be a number from 1 to 1048576,"),
    ],
)
def test_settings__invalid_number__error_has_the_range(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.from_env(GOOD | {variable: value})
    assert wrong.value.faults[0].startswith(f"{variable} {expected}")


def test_settings__api_key_with_colon__is_rejected() -> None:
    with pytest.raises(SettingsError, match="AMPLITUDE_API_KEY contains a colon") as wrong:
        Settings.from_env(GOOD | {"AMPLITUDE_API_KEY": "the-api-key:the-secret-key"})
    assert "the-secret-key" not in str(wrong.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "127.1.2.3"])
def test_settings__http_url__only_for_loopback(host: str) -> None:
    assert Settings.from_env(GOOD | {"AMPLITUDE_BASE_URL": f"http://{host}/"}).amplitude_base_url == f"http://{host}"


@pytest.mark.contract("8 events")
@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "https://api2.amplitude.com/batch"),
        ({"AMPLITUDE_COHORTS_URL": "https://Analytics.EU.amplitude.com/"}, "https://api.eu.amplitude.com/batch"),
        ({"AMPLITUDE_COHORTS_URL": "https://amplitude.example"}, "https://api2.amplitude.com/batch"),
        (
            {
                "AMPLITUDE_COHORTS_URL": "https://analytics.eu.amplitude.com",
                "AMPLITUDE_INGEST_URL": "http://localhost:8001/batch",
            },
            "http://localhost:8001/batch",
        ),
    ],
)
def test_settings__ingest_url__in_the_region_of_the_cohorts_unless_it_is_set(
    variables: dict[str, str], url: str
) -> None:
    assert Settings.from_env(GOOD | variables).ingest_url == url


def test_settings__blank_value__counts_as_not_set_except_fetch_along() -> None:
    settings = Settings.from_env(GOOD | {"AMPLITUDE_API_KEY": " ", "FETCH_ALONG": ""})
    assert settings.amplitude_api_key is None
    assert settings.fetch_along == ()


def test_former_name__used_alone__accepted_with_a_warning() -> None:
    env = GOOD | {"NAMES": "cohorts.vip=c31", "ALIASES": " "}
    assert Settings.from_env(env).aliases == (Alias("cohorts", "vip", "c31"),)
    assert renamed_variables(env) == ["NAMES is now called ALIASES; rename the variable"]
    assert renamed_variables(GOOD | {"ALIASES": "cohorts.vip=c31", "NAMES": ""}) == []
    with pytest.raises(SettingsError, match=r"^NAMES has an entry \(1\)"):
        Settings.from_env(GOOD | {"NAMES": "vip"})


def test_former_name__service_starts__warning_logged_once(start_service: Callable[..., Service]) -> None:
    with Sandbox() as sandbox:
        service = start_service(sandbox, NAMES="cohorts.gold=c31")
        assert service.get("/v1/cohorts?user_id=ava").json()["member"]["gold"] is True
    assert service.log.read_text().count("NAMES is now called ALIASES") == 1


def test_former_name__both_set__is_an_error_that_names_both() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(GOOD | {"NAMES": "cohorts.vip=c31", "ALIASES": "cohorts.vip=c31"})
    (fault,) = raised.value.faults
    assert fault.startswith("ALIASES and its former name NAMES")


def test_settings__repr__has_no_secret() -> None:
    shown = repr(Settings.from_env(GOOD | {"AMPLITUDE_API_KEY": "amplitude-api-key"}))
    assert "amplitude-secret" not in shown
    assert "amplitude-api-key" not in shown
    assert "0123456789abcdef" not in shown
    assert "'braze'" not in shown


@pytest.mark.contract("2 scopes")
@pytest.mark.parametrize(
    ("variable", "caller"),
    [("BRAZE_SECRET", Caller("braze", "read")), ("ADMIN_SECRET", Caller("admin", "admin"))],
)
def test_settings__secret_without_keys__creates_its_caller(variable: str, caller: Caller) -> None:
    settings = Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", variable: "0123456789abcdef" * 4})
    assert KeyRing(settings.caller_keys).check("0123456789abcdef" * 4, caller.name) == caller
    for value in ("visitor:0123456789abcdef", "0123456789abcdef:admin"):
        with pytest.raises(SettingsError, match=f"{variable} must be a secret without a name"):
            Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", variable: value})
    with pytest.raises(SettingsError, match="PROXY_API_KEYS is required"):
        Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", variable: " "})


@pytest.mark.contract("2 scopes")
def test_settings__one_secret_with_two_scopes__error_names_the_callers_without_the_secret() -> None:
    secret = "0123456789abcdef"
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({"AMPLITUDE_SECRET_KEY": "k", "BRAZE_SECRET": secret, "ADMIN_SECRET": secret})
    (fault,) = raised.value.faults
    assert "braze (read) and admin (admin) have the same secret" in fault
    assert secret not in fault


def test_changed_settings__some_set__only_these_without_secrets() -> None:
    env = GOOD | {
        "CACHE_MAX_MB": "128",
        "LOG_LEVEL": "info",
        "NAMES": "cohorts.vip=c31",
        "FETCH_ALONG": "",
        "REDIS_URL": "rediss://user:pass-word@host:6380/1",
        "ALLOWED_NETWORKS": " ",
    }
    assert changed_settings(Settings.from_env(env), env) == {
        "AMPLITUDE_SECRET_KEY": "set",
        "PROXY_API_KEYS": "set",
        "CACHE_MAX_MB": "128",
        "ALIASES": "cohorts.vip=c31",
        "FETCH_ALONG": "",
        "REDIS_URL": "rediss://host:6380/1",
    }


def test_heroku_button__settings__exist_and_include_all_required() -> None:
    variables = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))["env"]
    names = {setting.name.upper() for setting in fields(Settings)}
    assert variables.keys() <= names
    env = {
        name: variable.get("value", f"0123456789abcdef-0123456789abcdef-{name}")
        for name, variable in variables.items()
        if variable.get("required", True)
    }
    assert Settings.from_env(env).trusted_proxy_hops == 1
    generated = {name for name, variable in variables.items() if variable.get("generator") == "secret"}
    assert generated == {"BRAZE_SECRET", "ADMIN_SECRET", "REDIS_KEY_SECRET"}


def test_redis_url__backslash_in_the_password__accepted() -> None:
    url = "redis://:pa\\ss@host:6379/0"
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": "braze:a-secret-of-a-test", "REDIS_URL": url}
    assert Settings.from_env(env).redis_url == url


@pytest.mark.parametrize("secret", ["x" * 31, "x" * 513, "é" * 40])
def test_redis_key_secret__unsuitable__error_names_the_fix_without_the_secret(secret: str) -> None:
    with pytest.raises(SettingsError, match=r"REDIS_KEY_SECRET must be 32 to 512 .*openssl rand -hex 32") as error:
        Settings.from_env(GOOD | {"REDIS_KEY_SECRET": secret})
    assert secret not in str(error.value)
    assert Settings.from_env(GOOD | {"REDIS_KEY_SECRET": "x" * 32}).redis_key_secret == "x" * 32


@pytest.mark.parametrize("name", ["two words", "a:b", "x" * 65])
def test_amplitude_project__unsuitable__error(name: str) -> None:
    with pytest.raises(SettingsError, match="AMPLITUDE_PROJECT must be 1 to 64 letters"):
        Settings.from_env(GOOD | {"AMPLITUDE_PROJECT": name})


BRAZE = {"BRAZE_REST_ENDPOINT": "https://rest.iad-01.braze.com", "BRAZE_API_KEY": "braze-rest-key"}


def test_braze__connection__read_without_the_key_in_repr() -> None:
    env = (
        GOOD
        | BRAZE
        | {"BRAZE_APP_ID": "app-id", "FORWARD_EVENTS": "Order Completed, *", "FORWARD_PROPERTIES": "gp:plan"}
    )
    settings = Settings.from_env(env)
    assert settings.braze_rest_endpoint == "https://rest.iad-01.braze.com"
    assert settings.forward_events == {"Order Completed", "*"}
    assert settings.forward_properties == {"plan"}
    assert "braze-rest-key" not in repr(settings)
    assert changed_settings(settings, env)["BRAZE_API_KEY"] == "set"


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("https://rest.fra-02.braze.eu/", "https://rest.fra-02.braze.eu"),
        ("https://REST.us-10.braze.com", "https://rest.us-10.braze.com"),
        ("http://127.0.0.1:8002/", "http://127.0.0.1:8002"),
        ("http://[::1]:8002", "http://[::1]:8002"),
        ("https://localhost:8002", "https://localhost:8002"),
    ],
)
def test_braze_endpoint__valid__read_without_slash(value: str, endpoint: str) -> None:
    assert Settings.from_env(GOOD | BRAZE | {"BRAZE_REST_ENDPOINT": value}).braze_rest_endpoint == endpoint


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            "https://dashboard-01.braze.com",
            "must be the address of the REST API, e.g. BRAZE_REST_ENDPOINT=https://rest.iad-01.braze.com",
        ),
        (
            "https://dashboard-02.braze.eu/home",
            "must be the address of the REST API, e.g. BRAZE_REST_ENDPOINT=https://rest.fra-02.braze.eu",
        ),
        (
            "https://dashboard.us-10.braze.com",
            "must be the address of the REST API, e.g. BRAZE_REST_ENDPOINT=https://rest.us-10.braze.com",
        ),
        (
            "https://sdk.iad-03.braze.com",
            "must be the address of the REST API, e.g. BRAZE_REST_ENDPOINT=https://rest.iad-03.braze.com",
        ),
        (
            "https://rest.iad-01.braze.com/users/track",
            "must have nothing after the host, e.g. BRAZE_REST_ENDPOINT=https://rest.iad-01.braze.com",
        ),
        (
            "https://rest.fra-01.braze.eu:443",
            "must have nothing after the host, e.g. BRAZE_REST_ENDPOINT=https://rest.fra-01.braze.eu",
        ),
        ("http://127.0.0.1:1/a", "must have nothing after the host, e.g. BRAZE_REST_ENDPOINT=http://127.0.0.1:1"),
        ("https://rest.braze.com", "must be a REST endpoint of Braze; copy it from"),
        ("https://rest.iad-01.braze.com.example.org", "must be a REST endpoint of Braze; copy it from"),
        ("rest.iad-01.braze.com", "must start with https://, e.g. BRAZE_REST_ENDPOINT=https://rest.iad-01.braze.com"),
        ("http://rest.iad-01.braze.com", "must start with https://"),
        ("https://rest.iad-01.braze.com?x=1", "must have only a host and a path"),
    ],
)
def test_braze_endpoint__invalid__error_with_the_fix(value: str, problem: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(GOOD | BRAZE | {"BRAZE_REST_ENDPOINT": value})
    (fault,) = raised.value.faults
    assert fault.startswith(f"BRAZE_REST_ENDPOINT {problem}")


@pytest.mark.parametrize(("variable", "other"), [tuple(BRAZE), tuple(reversed(BRAZE))])
def test_braze__only_half_of_the_connection__error_names_both(variable: str, other: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(GOOD | {other: BRAZE[other], "FORWARD_EVENTS": "*"})
    assert raised.value.faults == [f"{variable} is required with {other}; set {variable}, or remove {other}"]


@pytest.mark.parametrize("variable", ["FORWARD_EVENTS", "FORWARD_PROPERTIES"])
def test_forward__without_braze__error_names_the_settings(variable: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(GOOD | {variable: "*"})
    assert raised.value.faults == [
        f"{variable} needs BRAZE_REST_ENDPOINT and BRAZE_API_KEY; set both, or remove {variable}"
    ]


@pytest.mark.parametrize("objects", ["0", "76", "many"])
def test_braze_batch_objects__out_of_range__error(objects: str) -> None:
    with pytest.raises(SettingsError, match="BRAZE_BATCH_OBJECTS must be a whole number from 1 to 75"):
        Settings.from_env(GOOD | {"BRAZE_BATCH_OBJECTS": objects})
