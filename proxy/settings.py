"""Reads settings from the environment. Reports all errors together, without secrets."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from proxy.api.caller_keys import Key, Scope, same_secret
from proxy.api.caller_keys import parse as parse_keys
from proxy.api.urls import parse_service_url, parse_url
from proxy.profile.aliases import Alias
from proxy.profile.aliases import parse as parse_aliases
from proxy.profile.liquid_names import USER_PROPERTY
from proxy.profile.parts import COHORTS, PROPERTIES, Part
from proxy.profile.values import BadValue, parse_list, split_list

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """Settings are invalid. Each of `faults` is a line with variable, problem and example, without secrets."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def _text(value: str) -> str:
    if not value.isprintable() or not value.isascii() or " " in value:
        raise BadValue("contains a space or another invalid character; copy the key again")
    return value


def _api_key(value: str) -> str:
    if ":" in value:
        raise BadValue("contains a colon; set the API key alone, without the secret key")
    return _text(value)


def _project(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise BadValue("must be 1 to 64 letters, digits, '.', '_' or '-'")
    return value


def _key_secret(value: str) -> str:
    if not 32 <= len(value) <= 512 or not value.isascii() or not value.isprintable():
        raise BadValue("must be 32 to 512 letters, digits or signs; create it with `openssl rand -hex 32`")
    return value


def _base_url(value: str) -> str:
    parse_service_url(value)
    return value.rstrip("/")


def _redis_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if scheme.lower() == "unix":
        raise BadValue("names a Unix socket, which is not supported; use redis://host:port")
    if scheme.lower() not in ("redis", "rediss") or not separator:
        raise BadValue("must begin with redis:// or rediss://")
    if not value.isprintable():
        raise BadValue("contains a control character; copy the URL again")
    url = f"{scheme.lower()}://{rest}"
    # An unencoded password may contain any character, but @ never occurs after the host.
    credentials, at, location = rest.rpartition("@")
    parts = parse_url(f"redis://{location}")
    try:
        is_encoded = urlsplit(url).netloc == credentials + at + parts.netloc
    except ValueError:
        is_encoded = False
    if not is_encoded:
        raise BadValue(
            "has special characters in the user or password; percent-encode them: / as %2F, ? as %3F, # as %23, "
            "@ as %40, % as %25, [ as %5B"
        )
    if "?" in location:
        raise BadValue(
            "has options after ?; remove them, and set REDIS_TLS_VERIFY=false if they turn off the TLS verification"
        )
    if parts.fragment or not re.fullmatch(r"/?[0-9]{0,5}", parts.path):
        raise BadValue("must have nothing after the port except a database number")
    return url


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise BadValue(f"must be a number from {low:.10g} to {high:.10g}")
        return number

    return read


_YEAR = 31_536_000
_duration = _number(1, _YEAR)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit()) or len(value) > 12 or not low <= int(value) <= high:
            raise BadValue(f"must be a whole number from {low} to {high}")
        return int(value)

    return read


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise BadValue("must be true or false")
    return value.lower() == "true"


def _on_off(value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise BadValue("must be on or off")
    return value.lower() == "on"


def _level(value: str) -> str:
    if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise BadValue("must be DEBUG, INFO, WARNING or ERROR")
    return value.upper()


def _fetch_along(value: str) -> tuple[Part, ...]:
    free = {"properties": PROPERTIES, "cohorts": COHORTS}
    words = split_list(value)
    if not set(words) <= free.keys():
        raise BadValue("must be properties, cohorts, both, or empty; other data is fetched only on request")
    return tuple(part for word, part in free.items() if word in words)


def _property_names(value: str) -> frozenset[str]:
    return frozenset(name.removeprefix(USER_PROPERTY) for name in split_list(value))


def _networks(value: str) -> tuple[Network, ...]:
    networks = parse_list(value, _network)
    if not networks:
        raise BadValue("has no network; add a network, or remove the variable")
    return networks


def _network(number: int, entry: str) -> Network:
    try:
        # Not strict, because some forms show 52.58.142.0/24 as 52.58.142.7/24.
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise BadValue(f"entry {number} must be an address or a network in CIDR notation") from None


def _keys(value: str) -> tuple[Key, ...]:
    keys = parse_keys(value)
    if not keys:
        raise BadValue("has no entry; add name:secret")
    return keys


def _secret(name: str, scope: Scope) -> Callable[[str], tuple[Key, ...]]:
    def read(value: str) -> tuple[Key, ...]:
        if ":" in value or "," in value:
            raise BadValue("must be a secret without a name; put entries with names into PROXY_API_KEYS")
        return _keys(f"{name}:{value}:{scope}")

    return read


def _setting(
    read: Callable[[str], Any],
    help: str,
    default: Any = MISSING,
    *,
    example: str | None = None,
    secret: bool = False,
    former: str | None = None,
    shown: Callable[[str], str] | None = None,
) -> Any:
    """Return the field of a variable. A text default is parsed like the variable.

    shown: returns the text for the log; by default `set` for a secret, and the whole text of other variables.
    """
    shown = shown or ((lambda _: "set") if secret else str)
    metadata = {"read": read, "help": help, "example": example or default, "former": former, "shown": shown}
    return field(default=read(default) if isinstance(default, str) else default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One attribute per environment variable, with its name in lower case. Durations are in seconds."""

    amplitude_secret_key: str = _setting(
        _text, "the project's secret key", example="0123456789abcdef0123456789abcdef", secret=True
    )
    amplitude_profile_api: bool = _setting(
        _on_off,
        "`off` to run without the User Profile API, as in Amplitude's EU region: only pushed and exported data is "
        "served, and `AMPLITUDE_SECRET_KEY` is needed only by `warm --cohort`",
        "on",
        example="off",
    )
    amplitude_api_key: str | None = _setting(
        _api_key,
        "the project's API key; if set, calls use Basic `api_key:secret_key` instead of `Api-Key <secret>`",
        None,
        example="fedcba9876543210fedcba9876543210",
        secret=True,
    )
    amplitude_project: str | None = _setting(
        _project,
        "any name for the Amplitude project; set a different name for each project if several projects share one Redis",
        None,
        example="shop",
    )
    amplitude_base_url: str = _setting(
        _base_url,
        "URL of Amplitude's User Profile API; `http:` only for loopback addresses",
        "https://profile-api.amplitude.com",
    )
    amplitude_cohorts_url: str = _setting(
        _base_url,
        "URL for the downloads of `warm --cohort`; `https://analytics.eu.amplitude.com` for a project in the EU",
        "https://amplitude.com",
    )
    amplitude_requests_per_minute: int = _setting(
        _whole(1, 1_000_000), "calls a minute from the organisation's quota that this service may use", "600"
    )
    amplitude_timeout_seconds: float = _setting(_number(0.1, 60), "timeout of a call to Amplitude", "5")
    accept_mapped_users: bool = _setting(
        _boolean,
        "`true` if Amplitude's User Mapping merges users in this project: answers about a user other than the "
        "requested one are then accepted",
        "false",
        example="true",
    )
    fetch_along: tuple[Part, ...] = _setting(
        _fetch_along,
        "data that each call also fetches, at no extra cost; empty to fetch only the requested data",
        "properties,cohorts",
    )
    proxy_api_keys: tuple[Key, ...] = _setting(
        _keys,
        "`name:secret:scope` of each caller, comma-separated, with the scope `read`, `push` or `admin`; without a "
        "scope, `admin`; `new-key` creates an entry",
        example="braze:sha256$<64 hexadecimal digits>:read",
        secret=True,
    )
    braze_secret: tuple[Key, ...] = _setting(
        _secret("braze", "read"),
        "secret of the caller `braze` with the scope `read`, for platforms that generate a secret; use with or instead "
        "of `PROXY_API_KEYS`",
        (),
        example="<16 or more letters and digits>",
        secret=True,
    )
    admin_secret: tuple[Key, ...] = _setting(
        _secret("admin", "admin"),
        "secret of the caller `admin` with the scope `admin`; use with or instead of `PROXY_API_KEYS`",
        (),
        example="<16 or more letters and digits>",
        secret=True,
    )
    aliases: tuple[Alias, ...] = _setting(
        parse_aliases,
        "short names for Amplitude's ids, `kind.name=id`, comma-separated; kinds are `recommendations`, "
        "`cohorts`, `computations` and `predictions`",
        (),
        example="recommendations.homepage=abc123,cohorts.vip=c31",
        former="NAMES",
    )
    text_properties: frozenset[str] = _setting(
        _property_names,
        "user properties whose values stay text when they arrive as text (files and webhooks), comma-separated",
        frozenset(),
        example="zip,phone",
    )
    response_deadline_seconds: float = _setting(
        _number(0.1, 30), "time limit for every data answer; Braze gives up after 2 seconds", "1.5"
    )
    cache_fresh_seconds: float = _setting(_duration, "how long an answer is served as fresh", "900")
    cache_stale_while_revalidate_seconds: float = _setting(
        _number(0, _YEAR),
        "how long after becoming stale an answer is served at once and refreshed in the background",
        "900",
    )
    cache_stale_if_error_seconds: float = _setting(
        _number(0, _YEAR),
        "how long after becoming stale an answer is served if Amplitude cannot answer",
        "86400",
    )
    cache_warm_seconds: float = _setting(_duration, "how long data fetched by `warm` is served as fresh", "86400")
    cache_pushed_seconds: float = _setting(_duration, "how long data pushed by Amplitude is served as fresh", "86400")
    cache_negative_seconds: float = _setting(_duration, "how long the cache remembers that a user is unknown", "60")
    cache_max_mb: float = _setting(_number(1, 1_048_576), "memory of the cache in each process, in MiB", "64")
    backlog_max_users: int = _setting(_whole(0, 10_000_000), "maximum number of users in the backlog", "10000")
    backlog_max_age_seconds: float = _setting(
        _duration, "how long a user stays in the backlog after the last request", "900"
    )
    redis_url: str | None = _setting(
        _redis_url,
        "URL of the Redis that processes and machines share for cache, quota and calls; if not set, one process runs",
        None,
        example="rediss://:password@host:6380/0",
        secret=True,
        shown=_without_credentials,
    )
    redis_tls_verify: bool = _setting(
        _boolean,
        "`false` if the provider uses self-signed certificates (Heroku Key-Value Store)",
        "true",
        example="false",
    )
    redis_key_secret: str | None = _setting(
        _key_secret,
        "secret for the digests of ids in Redis keys, 32 characters or more; the same for all processes, `warm` and "
        "`forget`; `openssl rand -hex 32` creates it",
        None,
        example="<64 hexadecimal digits>",
        secret=True,
    )
    allowed_networks: tuple[Network, ...] = _setting(
        _networks,
        "networks in CIDR notation, comma-separated, that may call the data routes and open "
        "`/playground`, `/status` and `/metrics`",
        (),
        example="52.58.142.0/24,2001:db8::/32",
    )
    trusted_proxy_hops: int = _setting(
        _whole(0, 10), "number of proxies in front that set `X-Forwarded-For` (Heroku: 1)", "0", example="1"
    )
    playground_demo_users: tuple[str, ...] = _setting(
        lambda value: tuple(split_list(value)),
        "ids of made-up users, comma-separated; the playground renders for the first user at once and makes calls "
        "while you type; set only with an emulated Amplitude, as `demo` does",
        (),
        example="ava,ben,cleo",
        shown=lambda _: "set",
    )
    log_level: str = _setting(_level, "DEBUG, INFO, WARNING or ERROR", "INFO")
    port: int = _setting(
        _whole(1, 65535), "port to listen on: on all addresses if set, otherwise on 127.0.0.1 only", "8000"
    )
    web_concurrency: int = _setting(
        _whole(1, 64), "number of worker processes; ignored without `REDIS_URL`", "1", example="2"
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings from `env`. Raises SettingsError with all faults.

        A blank variable counts as not set, except FETCH_ALONG.
        """
        values: dict[str, Any] = {}
        faults = []
        for setting in fields(cls):
            variable, former, example = setting.name.upper(), setting.metadata["former"], setting.metadata["example"]
            if former and _is_set(env, former):
                if _is_set(env, variable):
                    faults.append(f"{variable} and its former name {former} are both set; remove {former}")
                    continue
                variable = former
            if not _is_set(env, variable):
                if variable == "PROXY_API_KEYS" and (_is_set(env, "BRAZE_SECRET") or _is_set(env, "ADMIN_SECRET")):
                    values[setting.name] = ()
                elif (
                    variable == "AMPLITUDE_SECRET_KEY" and env.get("AMPLITUDE_PROFILE_API", "").strip().lower() == "off"
                ):
                    values[setting.name] = ""
                elif setting.default is MISSING:
                    create = " (create an entry: python -m proxy new-key braze)" if variable == "PROXY_API_KEYS" else ""
                    faults.append(f"{variable} is required; set it{create}, e.g. {variable}={example}")
                continue
            try:
                values[setting.name] = setting.metadata["read"](env[variable].strip())
            except BadValue as error:
                faults += [f"{variable} {fault}, e.g. {variable}={example}" for fault in error.faults]
        if faults:
            raise SettingsError(faults)
        settings = cls(**values)
        if same := same_secret(settings.caller_keys):
            first, second = (f"{key.caller.name} ({key.caller.scope})" for key in same)
            fault = f"PROXY_API_KEYS, BRAZE_SECRET or ADMIN_SECRET: {first} and {second} have the same secret"
            raise SettingsError([f"{fault}; use a different secret for each scope"])
        return settings

    @property
    def caller_keys(self) -> tuple[Key, ...]:
        """The keys of all callers."""
        return self.proxy_api_keys + self.braze_secret + self.admin_secret


def changed_settings(settings: Settings, env: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each variable of `env` whose value differs from the default. A secret is only `set`.

    settings: the settings from `env`.
    """
    return {
        setting.name.upper(): setting.metadata["shown"](_text_of(env, setting))
        for setting in fields(settings)
        if (value := getattr(settings, setting.name)) != setting.default
        and (value or setting.default is not MISSING)  # a required setting may be empty if it is not needed
    }


def _text_of(env: Mapping[str, str], setting: Field[Any]) -> str:
    text = env.get(setting.name.upper(), "").strip()
    return text or env.get(setting.metadata["former"] or "", "").strip()


VARIABLES = {setting.name.upper(): setting.metadata["former"] for setting in fields(Settings)}
"""Each variable with its former name, or None."""


def renamed_variables(env: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable of `env` that is set under its former name."""
    return [
        f"{former} is now called {variable}; rename the variable"
        for variable, former in VARIABLES.items()
        if former and _is_set(env, former)
    ]


def _is_set(env: Mapping[str, str], variable: str) -> bool:
    # Hosting dashboards set unused variables to blank values.
    return bool(env.get(variable, "").strip()) or (variable == "FETCH_ALONG" and variable in env)
