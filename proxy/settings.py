"""Reads settings from the environment. Reports all errors together, without secrets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from proxy.api import setting_readers as readers
from proxy.api.caller_keys import Key, same_secret
from proxy.profile.aliases import Alias
from proxy.profile.aliases import parse as parse_aliases
from proxy.profile.parts import Part
from proxy.profile.values import BadValue

EU_COHORTS_URL = "https://analytics.eu.amplitude.com"
INGEST_URL = "https://api2.amplitude.com/batch"
EU_INGEST_URL = "https://api.eu.amplitude.com/batch"


class SettingsError(Exception):
    """Settings are invalid. Each of `faults` is a line with variable, problem and example, without secrets."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


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
        readers.text, "the project's secret key", example="0123456789abcdef0123456789abcdef", secret=True
    )
    amplitude_profile_api: bool = _setting(
        readers.on_off,
        "`off` to run without the User Profile API, as in Amplitude's EU region: only pushed and exported data is "
        "served, and `AMPLITUDE_SECRET_KEY` is needed only by `warm --cohort` and `sync --cohort`",
        "on",
        example="off",
    )
    amplitude_api_key: str | None = _setting(
        readers.api_key,
        "the project's API key; if set, calls use Basic `api_key:secret_key` instead of `Api-Key <secret>`",
        None,
        example="fedcba9876543210fedcba9876543210",
        secret=True,
    )
    amplitude_project: str | None = _setting(
        readers.project,
        "any name for the Amplitude project; set a different name for each project if several projects share one Redis",
        None,
        example="shop",
    )
    amplitude_base_url: str = _setting(
        readers.base_url,
        "URL of Amplitude's User Profile API; `http:` only for loopback addresses",
        "https://profile-api.amplitude.com",
    )
    amplitude_cohorts_url: str = _setting(
        readers.base_url,
        "URL for the downloads of `warm --cohort` and `sync --cohort`; `https://analytics.eu.amplitude.com` for a "
        "project in the EU",
        "https://amplitude.com",
    )
    amplitude_ingest_url: str | None = _setting(
        readers.base_url,
        f"URL of Amplitude's Batch API for events of Braze Currents; if not set, `{INGEST_URL}`, or "
        f"`{EU_INGEST_URL}` if `AMPLITUDE_COHORTS_URL` is `{EU_COHORTS_URL}`",
        None,
        example=INGEST_URL,
    )
    amplitude_requests_per_minute: int = _setting(
        readers.whole(1, 1_000_000), "calls a minute from the organisation's quota that this service may use", "600"
    )
    amplitude_timeout_seconds: float = _setting(readers.number(0.1, 60), "timeout of a call to Amplitude", "5")
    accept_mapped_users: bool = _setting(
        readers.boolean,
        "`true` if Amplitude's User Mapping merges users in this project: answers about a user other than the "
        "requested one are then accepted",
        "false",
        example="true",
    )
    fetch_along: tuple[Part, ...] = _setting(
        readers.fetch_along,
        "data that each call also fetches, at no extra cost; empty to fetch only the requested data",
        "properties,cohorts",
    )
    proxy_api_keys: tuple[Key, ...] = _setting(
        readers.keys,
        "`name:secret:scope` of each caller, comma-separated, with the scope `read`, `push` or `admin`; without a "
        "scope, `admin`; `new-key` creates an entry",
        example="braze:sha256$<64 hexadecimal digits>:read",
        secret=True,
    )
    braze_secret: tuple[Key, ...] = _setting(
        readers.secret("braze", "read"),
        "secret of the caller `braze` with the scope `read`, for platforms that generate a secret; use with or instead "
        "of `PROXY_API_KEYS`",
        (),
        example="<16 or more letters and digits>",
        secret=True,
    )
    admin_secret: tuple[Key, ...] = _setting(
        readers.secret("admin", "admin"),
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
        readers.property_names,
        "user properties whose values stay text when they arrive as text (files and webhooks), comma-separated",
        frozenset(),
        example="zip,phone",
    )
    response_deadline_seconds: float = _setting(
        readers.number(0.1, 30), "time limit for every data answer; Braze gives up after 2 seconds", "1.5"
    )
    cache_fresh_seconds: float = _setting(readers.duration, "how long an answer is served as fresh", "900")
    cache_stale_while_revalidate_seconds: float = _setting(
        readers.number(0, readers.YEAR_SECONDS),
        "how long after becoming stale an answer is served at once and refreshed in the background",
        "900",
    )
    cache_stale_if_error_seconds: float = _setting(
        readers.number(0, readers.YEAR_SECONDS),
        "how long after becoming stale an answer is served if Amplitude cannot answer",
        "86400",
    )
    cache_warm_seconds: float = _setting(
        readers.duration, "how long data fetched by `warm` is served as fresh", "86400"
    )
    cache_pushed_seconds: float = _setting(
        readers.duration, "how long data pushed by Amplitude is served as fresh", "86400"
    )
    cache_negative_seconds: float = _setting(
        readers.duration, "how long the cache remembers that a user is unknown", "60"
    )
    cache_max_mb: float = _setting(readers.number(1, 1_048_576), "memory of the cache in each process, in MiB", "64")
    backlog_max_users: int = _setting(readers.whole(0, 10_000_000), "maximum number of users in the backlog", "10000")
    backlog_max_age_seconds: float = _setting(
        readers.duration, "how long a user stays in the backlog after the last request", "900"
    )
    redis_url: str | None = _setting(
        readers.redis_url,
        "URL of the Redis that processes and machines share for cache, quota and calls; if not set, one process runs",
        None,
        example="rediss://:password@host:6380/0",
        secret=True,
        shown=readers.without_credentials,
    )
    redis_tls_verify: bool = _setting(
        readers.boolean,
        "`false` if the provider uses self-signed certificates (Heroku Key-Value Store)",
        "true",
        example="false",
    )
    redis_key_secret: str | None = _setting(
        readers.key_secret,
        "secret for the digests of ids in Redis keys, 32 characters or more; the same for all processes, `warm` and "
        "`forget`; `openssl rand -hex 32` creates it",
        None,
        example="<64 hexadecimal digits>",
        secret=True,
    )
    allowed_networks: tuple[readers.Network, ...] = _setting(
        readers.networks,
        "networks in CIDR notation, comma-separated, that may call the data routes and open "
        "`/playground`, `/status` and `/metrics`",
        (),
        example="52.58.142.0/24,2001:db8::/32",
    )
    trusted_proxy_hops: int = _setting(
        readers.whole(0, 10), "number of proxies in front that set `X-Forwarded-For` (Heroku: 1)", "0", example="1"
    )
    braze_rest_endpoint: str | None = _setting(
        readers.braze_endpoint,
        "REST endpoint of your Braze instance, without a path; required with `BRAZE_API_KEY`",
        None,
        example="https://rest.iad-01.braze.com",
    )
    braze_api_key: str | None = _setting(
        readers.text,
        "REST API key of Braze with the permission `users.track`; not the same as `BRAZE_SECRET`",
        None,
        example="01234567-89ab-cdef-0123-456789abcdef",
        secret=True,
    )
    braze_app_id: str | None = _setting(
        readers.text,
        "app identifier for forwarded events; if not set, the events belong to no app",
        None,
        example="89abcdef-0123-4567-89ab-cdef01234567",
        secret=True,
    )
    braze_create_users: bool = _setting(
        readers.boolean,
        "with `true`, Braze creates users that it does not know; with `false`, Braze ignores them",
        "false",
        example="true",
    )
    braze_batch_objects: int = _setting(
        readers.whole(1, 75), "maximum number of objects in a request to Braze, attributes and events together", "75"
    )
    braze_requests_per_minute: int = _setting(
        readers.whole(1, 1_000_000),
        "maximum number of requests to Braze in any 60 seconds; with Redis, of all processes together, and without "
        "Redis, of each process",
        "3000",
    )
    forward_events: frozenset[str] = _setting(
        readers.names,
        "event types that the webhook for users forwards to Braze, comma-separated, or `*` for all",
        frozenset(),
        example="Order Completed,Trial Started",
    )
    forward_properties: frozenset[str] = _setting(
        readers.property_names,
        "user properties that the webhook for users forwards to Braze as custom attributes, comma-separated, or `*` "
        "for all",
        frozenset(),
        example="plan,loyalty_points",
    )
    playground_demo_users: tuple[str, ...] = _setting(
        readers.ids,
        "ids of made-up users, comma-separated; the playground renders for the first user at once and makes calls "
        "while you type; set only with an emulated Amplitude, as `demo` does",
        (),
        example="ava,ben,cleo",
        shown=lambda _: "set",
    )
    log_level: str = _setting(readers.level, "DEBUG, INFO, WARNING or ERROR", "INFO")
    log_format: Literal["json", "text"] = _setting(
        readers.log_format, "`json`, or `text` for reading in a terminal", "json"
    )
    port: int = _setting(
        readers.whole(1, 65535), "port to listen on: on all addresses if set, otherwise on 127.0.0.1 only", "8000"
    )
    web_concurrency: int = _setting(
        readers.whole(1, 64), "number of worker processes; ignored without `REDIS_URL`", "1", example="2"
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
                faults += [f"{variable} {fault}, e.g. {variable}={error.example or example}" for fault in error.faults]
        faults += _braze_faults(env)
        if faults:
            raise SettingsError(faults)
        settings = cls(**values)
        if same := same_secret(settings.caller_keys):
            first, second = (f"{key.caller.name} ({key.caller.scope})" for key in same)
            fault = f"PROXY_API_KEYS, BRAZE_SECRET or ADMIN_SECRET: {first} and {second} have the same secret"
            raise SettingsError([f"{fault}; use a different secret for each scope"])
        return settings

    @property
    def ingest_url(self) -> str:
        """The URL of Amplitude's Batch API, in the region of AMPLITUDE_COHORTS_URL by default."""
        is_eu = urlsplit(self.amplitude_cohorts_url).hostname == urlsplit(EU_COHORTS_URL).hostname
        return self.amplitude_ingest_url or (EU_INGEST_URL if is_eu else INGEST_URL)

    @property
    def caller_keys(self) -> tuple[Key, ...]:
        """The keys of all callers."""
        return self.proxy_api_keys + self.braze_secret + self.admin_secret


def _braze_faults(env: Mapping[str, str]) -> list[str]:
    """Return an error for each setting that needs another setting of Braze."""
    connection = ("BRAZE_REST_ENDPOINT", "BRAZE_API_KEY")
    missing = [variable for variable in connection if not _is_set(env, variable)]
    if len(missing) == 1:
        other = connection[1 - connection.index(missing[0])]
        return [f"{missing[0]} is required with {other}; set {missing[0]}, or remove {other}"]
    if missing:
        needed = " and ".join(connection)
        return [
            f"{variable} needs {needed}; set both, or remove {variable}"
            for variable in ("FORWARD_EVENTS", "FORWARD_PROPERTIES")
            if _is_set(env, variable)
        ]
    return []


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
