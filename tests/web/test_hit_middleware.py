"""The middleware for fresh hits: same answers, log lines and metrics as Flask, for every kind of request."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask

from proxy.app import create_app
from proxy.settings import Settings
from proxy.web.services import installed
from tests.conftest import SECRET
from tests.support.fakes import FakeClock, FakeSource
from tests.support.wait import until

PUSH_SECRET = "a-secret-for-pushes"
AVA = {
    "user_id": "ava",
    "device_id": None,
    "amp_props": {"gp:plan": "gold", "city": "Zürich"},
    "cohort_ids": ["vip"],
    "recommendations": [{"rec_id": "a", "items": ["1", "2"], "is_control": False}],
}
USER = "user_id=ava"


@dataclass(frozen=True)
class Kind:
    """A kind of request. direct: the middleware answers it while the user is fresh in memory."""

    name: str
    query: str = USER
    path: str = "/v1/cohorts"
    method: str = "GET"
    environ: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    direct: bool = False
    body: bytes = b""


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


NETWORK = {"ALLOWED_NETWORKS": "192.0.2.0/24"}
BEHIND_PROXY = NETWORK | {"TRUSTED_PROXY_HOPS": "1"}
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": "11"}
KINDS = [
    Kind("cohorts", direct=True),
    Kind("properties", path="/v1/properties", direct=True),
    Kind("properties with keys", "user_id=ava&keys=plan,none", "/v1/properties", direct=True),
    Kind("recommendations", "user_id=ava&rec_id=a,b", "/v1/recommendations", direct=True),
    Kind("computations", path="/v1/computations", direct=True),
    Kind("propensities", "user_id=ava&prediction_id=p", "/v1/propensities", direct=True),
    Kind("profile", "include=cohorts,properties&user_id=ava", "/v1/profile", direct=True),
    Kind("drop-in", "user_id=ava&get_cohort_ids=true&get_amp_props=true", "/v1/userprofile", direct=True),
    Kind("drop-in without parts", path="/v1/userprofile"),
    Kind("drop-in, blank id", "user_id=", "/v1/userprofile"),
    Kind("on_error=retry", "user_id=ava&on_error=retry", direct=True),
    Kind("on_error, unknown word", "user_id=ava&on_error=x"),
    Kind("blank id", "user_id="),
    Kind("two ids, one blank", "user_id=ava&device_id=", direct=True),
    Kind("no id", ""),
    Kind("no parameter", "", path="/v1/profile"),
    Kind("repeated id", "user_id=ava&user_id=ben"),
    Kind("repeated list", "user_id=ava&cohort_id=vip&cohort_id=x", direct=True),
    Kind("unknown parameter", "user_id=ava&cache_buster=1", direct=True),
    Kind("percent-encoded", "user_id=%61va&cohort_id=v%C3%ADp", direct=True),
    Kind("plus and semicolon", "user_id=+ava+;&x", direct=True),
    Kind("not UTF-8", "user_id=%ff"),
    Kind("raw bytes over 127", "user_id=ava&cohort_id=\xc3\xad", direct=True),
    Kind("raw bytes, not UTF-8", "user_id=ava&cohort_id=\xff"),
    Kind("control character", "user_id=a%00"),
    Kind("long value", f"user_id=ava&cohort_id={'x' * 600}"),
    Kind("long query", f"user_id=ava&x={'x' * 3000}", direct=True),
    Kind("trailing slash", path="/v1/cohorts/", direct=True),
    Kind("two trailing slashes", path="/v1/cohorts//"),
    Kind("double slash at the start", path="//v1/cohorts"),
    Kind("double slash inside", path="/v1//cohorts"),
    Kind("no slash at the start", path="v1/cohorts"),
    Kind("empty path", path=""),
    Kind("upper case", path="/V1/cohorts"),
    Kind("HEAD", method="HEAD"),
    Kind("POST, query only", method="POST"),
    Kind("POST, form", "", method="POST", environ=FORM, body=b"user_id=ava"),
    Kind("POST, id in URL and body", method="POST", environ=FORM, body=b"user_id=ava"),
    Kind("PUT", method="PUT"),
    Kind("OPTIONS", method="OPTIONS"),
    Kind("unknown method", method="BREW"),
    Kind("GET with a body", environ=FORM, body=b"user_id=ben", direct=True),
    Kind("other route", path="/healthz"),
    Kind("unknown path", path="/v1/nothing"),
    Kind("no credentials", environ={"HTTP_X_API_KEY": ""}),
    Kind("wrong key", environ={"HTTP_X_API_KEY": "wrong-wrong-wrong"}),
    Kind("Basic", environ={"HTTP_AUTHORIZATION": basic("braze", SECRET)}, direct=True),
    Kind("Basic, wrong name", environ={"HTTP_AUTHORIZATION": basic("other", SECRET)}),
    Kind("Basic, not base64", environ={"HTTP_AUTHORIZATION": "Basic \xe9"}),
    Kind("Bearer", environ={"HTTP_AUTHORIZATION": f"bearer {SECRET}"}, direct=True),
    Kind("Api-Key", environ={"HTTP_AUTHORIZATION": f"Api-Key {SECRET}"}, direct=True),
    Kind("unknown scheme", environ={"HTTP_AUTHORIZATION": f"Digest {SECRET}"}),
    Kind("empty Authorization, right key", environ={"HTTP_AUTHORIZATION": ""}),
    Kind("wrong Authorization, right key", environ={"HTTP_AUTHORIZATION": "Bearer wrong-wrong-wrong"}),
    Kind("key with white space", environ={"HTTP_X_API_KEY": f" {SECRET} "}, direct=True),
    Kind("wrong scope", environ={"HTTP_X_API_KEY": PUSH_SECRET}),
    Kind("page of another site", environ={"HTTP_SEC_FETCH_SITE": "cross-site"}),
    Kind("page of this site", environ={"HTTP_SEC_FETCH_SITE": "same-origin"}, direct=True),
    Kind("allowed address", environ={"REMOTE_ADDR": "192.0.2.7"}, settings=NETWORK, direct=True),
    Kind("other address", environ={"REMOTE_ADDR": "198.51.100.7"}, settings=NETWORK),
    Kind("no address", environ={"REMOTE_ADDR": ""}, settings=NETWORK),
    Kind("forwarded", environ={"HTTP_X_FORWARDED_FOR": "10.0.0.1, 192.0.2.7"}, settings=BEHIND_PROXY, direct=True),
    Kind("forwarded, other address", environ={"HTTP_X_FORWARDED_FOR": "192.0.2.7,10.0.0.1"}, settings=BEHIND_PROXY),
    Kind("not forwarded", settings=BEHIND_PROXY),
    Kind("forwarded, without networks", environ={"HTTP_X_FORWARDED_FOR": "10.0.0.1"}, direct=True),
    Kind("If-None-Match, every tag", environ={"HTTP_IF_NONE_MATCH": "*"}),
    Kind("If-None-Match, other tag", environ={"HTTP_IF_NONE_MATCH": '"x"'}),
    Kind("no-cache", environ={"HTTP_CACHE_CONTROL": "no-cache"}),
    Kind("max-age", environ={"HTTP_CACHE_CONTROL": "max-age=5"}),
    Kind("max-age, long", environ={"HTTP_CACHE_CONTROL": "max-age=500"}),
    Kind("background", environ={"HTTP_PRIORITY": "u=7"}),
    Kind("urgent", environ={"HTTP_PRIORITY": "u=1"}),
    Kind("own request id", environ={"HTTP_X_REQUEST_ID": "order/7"}, direct=True),
    Kind("bad request id", environ={"HTTP_X_REQUEST_ID": "a b"}, direct=True),
    Kind("long request id", environ={"HTTP_X_REQUEST_ID": "x" * 201}, direct=True),
    Kind("odd host", environ={"HTTP_HOST": "a..b"}, direct=True),
    Kind("cookie", environ={"HTTP_COOKIE": "session=1"}, direct=True),
    Kind("HTTP/1.0", environ={"SERVER_PROTOCOL": "HTTP/1.0"}, direct=True),
]


class Side:
    """An application with its own cache, clock and emulated Amplitude. with_middleware: False for Flask alone."""

    def __init__(
        self, settings: dict[str, str], *, with_middleware: bool, user_data: dict[str, Any] | None = None
    ) -> None:
        keys = f"braze:{SECRET},amplitude:{PUSH_SECRET}:push"
        variables = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": keys} | settings
        self.clock = FakeClock()
        source = FakeSource(self.clock)
        source.user_data = user_data or AVA
        self.app = create_app(Settings.from_env(variables), fetch=source.fetch, clock=self.clock)
        if not with_middleware:
            self.app.wsgi_app = Flask.wsgi_app.__get__(self.app)  # type: ignore[method-assign]
        self.flask_requests = 0
        self.app.url_value_preprocessor(self._count)

    def _count(self, *_: object) -> None:
        self.flask_requests += 1

    def answer(self, kind: Kind) -> tuple[str, list[tuple[str, str]], bytes]:
        """Return status, headers in order, and body."""
        started: list[Any] = []
        environ = {
            "REQUEST_METHOD": kind.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": kind.path,
            "QUERY_STRING": kind.query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "proxy.example",
            "HTTP_X_API_KEY": SECRET,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(kind.body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        } | kind.environ

        def start_response(*arguments: Any) -> Callable[[bytes], object]:
            started.append(arguments)
            return started.append

        body = b"".join(self.app.wsgi_app(environ, start_response))
        (status, headers), *_ = started
        return status, [(name, _without_random_id(value)) for name, value in headers], body


def _without_random_id(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{32}\b(?!\")", "random", text)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Collect the fields of all log lines of the package."""
    collected: list[dict[str, Any]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            usual = {*vars(logging.makeLogRecord({})), "message", "taskName"}
            fields = {name: value for name, value in vars(record).items() if name not in usual}
            fields.pop("request_id", None)
            collected.append({"level": record.levelname, "event": record.getMessage(), "logger": record.name} | fields)

    logger, collector = logging.getLogger("proxy"), Collector()
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    yield collected
    logger.setLevel(level)
    logger.removeHandler(collector)


def metrics_of(side: Side) -> list[str]:
    """Return the lines of the metrics without times of creation."""
    text = installed(side.app).metrics.text().decode()
    return [line for line in text.splitlines() if "_created" not in line]


@pytest.mark.parametrize("draining", [False, True], ids=["serving", "draining"])
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_hit_middleware__any_request__same_answer_log_and_metrics_as_flask(
    kind: Kind, draining: bool, lines: list[dict[str, Any]]
) -> None:
    seen = []
    for with_middleware in (True, False):
        side = Side(kind.settings, with_middleware=with_middleware)
        if draining:
            installed(side.app).draining.set()
        answers = []
        for _ in range(4):  # a miss, a hit, a hit that keeps the body, and the kept body
            answers.append(side.answer(kind))
            side.clock.advance(7)
        side.clock.advance(900)  # stale
        answers.append(side.answer(kind))
        until(installed(side.app).scheduler.idle, "the refresh did not end")
        seen.append((answers, metrics_of(side), lines[:]))
        lines.clear()
        if with_middleware:
            assert side.flask_requests == (2 if kind.direct else 5)
    assert seen[0] == seen[1]


def test_hit_middleware__answer_too_large__same_as_flask() -> None:
    kind = Kind("large", path="/v1/properties")
    answers = []
    for with_middleware in (True, False):
        side = Side({}, with_middleware=with_middleware, user_data={"amp_props": {"long": "x" * 1_000_000}})
        answers.append([side.answer(kind) for _ in range(3)])
    assert answers[0] == answers[1]
    assert b"upstream_invalid" in answers[0][2][2]
