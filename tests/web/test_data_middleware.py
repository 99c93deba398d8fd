"""The middleware for data requests: same answers, log lines and metrics as Flask, for every kind of request."""

from __future__ import annotations

import base64
import gc
import gzip
import io
import logging
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from flask import Flask

from proxy.app import create_app
from proxy.profile import encoding
from proxy.profile.errors import UpstreamRejected
from proxy.profile.parts import COHORTS, Identity
from proxy.profile.record import CachedPart, Record
from proxy.settings import Settings
from proxy.storage.redis.client import RedisClient
from proxy.web.request_body import MAX_BODY_BYTES
from proxy.web.services import installed
from tests.conftest import SECRET
from tests.support.fakes import FakeClock, FakeSource
from tests.support.redis_server import RedisServer
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
    """A kind of request. direct: the middleware answers it."""

    name: str
    query: str = USER
    path: str = "/v1/cohorts"
    method: str = "GET"
    environ: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    direct: bool = False
    body: bytes = b""


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


NETWORK = {"ALLOWED_NETWORKS": "192.0.2.0/24"}
BEHIND_PROXY = NETWORK | {"TRUSTED_PROXY_HOPS": "1"}
JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"
PADDING = "x" * (MAX_BODY_BYTES - len("user_id=ava&x="))


# gunicorn decodes the chunks, and ends the stream after the last one.
CHUNKED: dict[str, Any] = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


def post(
    name: str, body: bytes, content_type: str | None = FORM_TYPE, *, headers: dict[str, Any] | None = None, **more: Any
) -> Kind:
    environ = {"CONTENT_LENGTH": str(len(body))} | ({"CONTENT_TYPE": content_type} if content_type else {})
    return Kind(f"POST, {name}", method="POST", body=body, environ=environ | (headers or {}), **{"query": ""} | more)


KINDS = [
    Kind("cohorts", direct=True),
    Kind("properties", path="/v1/properties", direct=True),
    Kind("properties with keys", "user_id=ava&keys=plan,none", "/v1/properties", direct=True),
    Kind("recommendations", "user_id=ava&rec_id=a,b", "/v1/recommendations", direct=True),
    Kind("computations", path="/v1/computations", direct=True),
    Kind("propensities", "user_id=ava&prediction_id=p", "/v1/propensities", direct=True),
    Kind("profile", "include=cohorts,properties&user_id=ava", "/v1/profile", direct=True),
    Kind("drop-in", "user_id=ava&get_cohort_ids=true&get_amp_props=true", "/v1/userprofile", direct=True),
    Kind("drop-in without parts", path="/v1/userprofile", direct=True),
    Kind("drop-in, blank id", "user_id=", "/v1/userprofile"),
    Kind("on_error=retry", "user_id=ava&on_error=retry", direct=True),
    Kind("on_error, unknown word", "user_id=ava&on_error=x"),
    Kind("blank id", "user_id=", direct=True),
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
    Kind("POST, query only", method="POST", direct=True),
    post("form", b"user_id=ava", direct=True),
    post("form, trailing slash", b"user_id=ava", path="/v1/cohorts/", direct=True),
    post("form with a charset", b"user_id=ava", f"{FORM_TYPE}; charset=utf-8", direct=True),
    post("form to the drop-in", b"user_id=ava&get_cohort_ids=true", path="/v1/userprofile", direct=True),
    post("form, blank id", b"user_id=", direct=True),
    post("form, no id", b"x=1"),
    post("form, not UTF-8", b"user_id=%ff"),
    post("form, raw bytes", "user_id=ava&cohort_id=í".encode(), direct=True),
    post("form as large as allowed", f"user_id=ava&x={PADDING}".encode(), direct=True),
    post("form too large", f"user_id=ava&xx={PADDING}".encode()),
    post("form, key=value in the URL too", b"cohort_id=vip", query=USER, direct=True),
    post("id in URL and body", b"user_id=ava", query=USER),
    post("form in multipart", b"user_id=ava", "multipart/form-data; boundary=x"),
    post("no content type", b"user_id=ava", None),
    post("no content type and no body", b"", None, query=USER, direct=True),
    post("text", b"user_id=ava", "text/plain"),
    post("JSON", b'{"user_id": "ava"}', JSON_TYPE, direct=True),
    post("JSON with lists", b'{"user_id":"ava","cohort_id":["vip","x,y"]}', JSON_TYPE, direct=True),
    post("JSON with numbers", b'{"user_id":"ava","cohort_id":12.50}', f"{JSON_TYPE};charset=utf-8", direct=True),
    post("JSON with a byte order mark", b'\xef\xbb\xbf{"user_id":"ava"}', JSON_TYPE, direct=True),
    post("JSON, on_error=retry", b'{"user_id":"ava","on_error":"retry"}', JSON_TYPE, direct=True),
    post("JSON, wrong type", b'{"user_id":["ava"]}', JSON_TYPE),
    post("JSON, repeated key", b'{"user_id":"ava","user_id":"ben"}', JSON_TYPE),
    post("JSON with NaN", b'{"user_id":NaN}', JSON_TYPE),
    post("JSON, not an object", b"[]", JSON_TYPE),
    post("JSON, incomplete", b'{"user_id":', JSON_TYPE),
    post("JSON, deep", b"[" * 9000, JSON_TYPE),
    post("body shorter than its length", b"user_id=ava", headers={"CONTENT_LENGTH": "12"}),
    post("body longer than its length", b"user_id=ava&x=1", headers={"CONTENT_LENGTH": "11"}, direct=True),
    post("length not a number", b"user_id=ava", headers={"CONTENT_LENGTH": "x"}),
    post("chunked", b"user_id=ava", headers=CHUNKED, direct=True),
    post("chunked and too large", b"x" * (MAX_BODY_BYTES + 1) + b"&user_id=ava", headers=CHUNKED),
    post("gzip", gzip.compress(b"user_id=ava", mtime=0), headers={"HTTP_CONTENT_ENCODING": "gzip"}),
    post("no credentials, with a body", b"user_id=ava", headers={"HTTP_X_API_KEY": ""}),
    post("form with If-None-Match", b"user_id=ava", headers={"HTTP_IF_NONE_MATCH": "*"}),
    post("form in the background", b"user_id=ava", headers={"HTTP_PRIORITY": "u=7"}, direct=True),
    post("form to another path", b"user_id=ava", path="/v1/nothing"),
    Kind("PUT", method="PUT"),
    Kind("OPTIONS", method="OPTIONS"),
    Kind("unknown method", method="BREW"),
    Kind(
        "GET with a body", environ={"CONTENT_TYPE": FORM_TYPE, "CONTENT_LENGTH": "11"}, body=b"user_id=ben", direct=True
    ),
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
    Kind("no-cache", environ={"HTTP_CACHE_CONTROL": "no-cache"}, direct=True),
    Kind("max-age", environ={"HTTP_CACHE_CONTROL": "max-age=5"}, direct=True),
    Kind("max-age, long", environ={"HTTP_CACHE_CONTROL": "max-age=500"}, direct=True),
    Kind("background", environ={"HTTP_PRIORITY": "u=7"}, direct=True),
    Kind("urgent", environ={"HTTP_PRIORITY": "u=1"}, direct=True),
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
        self.source = FakeSource(self.clock)
        self.source.user_data = user_data or AVA
        self.app = create_app(Settings.from_env(variables), fetch=self.source.fetch, clock=self.clock)
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


CASES = [
    pytest.param(kind, draining, id=f"{kind.name}-{'draining' if draining else 'serving'}")
    for kind in KINDS
    for draining in ((False, True) if kind.method == "GET" else (False,))
]


@pytest.mark.parametrize(("kind", "draining"), CASES)
def test_data_middleware__any_request__same_answer_log_and_metrics_as_flask(
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
            assert side.flask_requests == (0 if kind.direct else 5)
    assert seen[0] == seen[1]


def test_data_middleware__answer_too_large__same_as_flask() -> None:
    kind = Kind("large", path="/v1/properties")
    answers = []
    for with_middleware in (True, False):
        side = Side({}, with_middleware=with_middleware, user_data={"amp_props": {"long": "x" * 1_000_000}})
        answers.append([side.answer(kind) for _ in range(3)])
    assert answers[0] == answers[1]
    assert b"upstream_invalid" in answers[0][2][2]


@pytest.mark.parametrize("query", [USER, f"{USER}&on_error=retry"])
@pytest.mark.parametrize("fault", [UpstreamRejected(), RuntimeError("a fault of the test")])
def test_data_middleware__call_fails__same_as_flask_for_one_call(
    fault: Exception, query: str, lines: list[dict[str, Any]]
) -> None:
    seen = []
    for with_middleware in (True, False):
        side = Side({}, with_middleware=with_middleware)
        side.source.fault = fault
        seen.append((side.answer(Kind("failing", query)), metrics_of(side), lines[:]))
        lines.clear()
        assert len(side.source.calls) == 1
        assert side.flask_requests == (0 if with_middleware and "retry" not in query else 1)
    assert seen[0] == seen[1]
    assert seen[0][0][0].startswith("500" if "retry" in query else "200")


@pytest.mark.parametrize("kind", [Kind("GET", f"{USER}&on_error=retry"), post("form", b"user_id=ava&on_error=retry")])
def test_data_middleware__not_available__same_as_flask_without_flask(kind: Kind, lines: list[dict[str, Any]]) -> None:
    seen = []
    for with_middleware in (True, False):
        side = Side({"AMPLITUDE_PROFILE_API": "off"}, with_middleware=with_middleware)
        seen.append((side.answer(kind), metrics_of(side), lines[:]))
        lines.clear()
        assert side.flask_requests == (0 if with_middleware else 1)
    assert seen[0] == seen[1]
    assert b"not_available" in seen[0][0][2]


def test_data_middleware__unexpected_error__same_as_flask_and_raised_once(lines: list[dict[str, Any]]) -> None:
    kind = post("failing", b"user_id=ava", headers={"HTTP_X_REQUEST_ID": "order/7"})
    seen = []
    for with_middleware in (True, False):
        side = Side({}, with_middleware=with_middleware)
        times = BrokenTimes()
        side.clock.now = times
        answer = side.answer(kind)
        side.clock.now = side.clock
        seen.append((answer, metrics_of(side), lines[:]))
        lines.clear()
        assert times.read == 1
    assert seen[0] == seen[1]
    assert seen[0][0][0] == "500 INTERNAL SERVER ERROR"


class BrokenTimes:
    """Raises an error instead of returning the time. Counts how often the time was read."""

    read = 0

    def __call__(self) -> float:
        self.read += 1
        raise RuntimeError("a fault of the test")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize(
    "kind",
    [
        Kind("GET"),
        Kind("known user, other part", path="/v1/userprofile"),
        post("form", b"user_id=ava"),
        Kind("unknown", "user_id=ben"),
    ],
    ids=lambda kind: kind.name,
)
def test_data_middleware__user_in_redis__same_as_flask_in_one_round_trip(
    kind: Kind, redis_server: RedisServer, lines: list[dict[str, Any]]
) -> None:
    shared = {"REDIS_URL": redis_server.url}
    seen = []
    writer = Side(shared, with_middleware=True)
    for user_id, record in (("ava", cohorts_of(writer.clock)), ("ben", Record(unknown_at=writer.clock.now()))):
        installed(writer.app).store.save(Identity(user_id, None), record, ())
    for with_middleware in (True, False):
        side = Side(shared, with_middleware=with_middleware)
        lines.clear()
        answers, trips = [], []
        for _ in range(4):
            answers.append(side.answer(kind))
            trips.append(client_of(side).stats().round_trips)
        assert trips == [1, 1, 1, 1], "only the first request reads from Redis"
        assert side.source.calls == []
        assert side.flask_requests == (0 if with_middleware else 4)
        counts = [line for line in metrics_of(side) if line.startswith("ccproxy_request")]
        seen.append((answers, counts, lines[:]))
        client_of(side).stop()
    client_of(writer).stop()
    assert seen[0] == seen[1]


def cohorts_of(clock: FakeClock) -> Record:
    return Record({COHORTS: CachedPart(encoding.write(["vip"]), clock.now())}, None, "ava", None)


def client_of(side: Side) -> RedisClient:
    client = installed(side.app).redis
    assert client is not None
    return client


@pytest.mark.parametrize("with_middleware", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        post("invalid", b"x=1"),
        post("wrong key", b"user_id=ava", headers={"HTTP_X_API_KEY": "wrong-wrong-wrong"}),
        post("retry", b"user_id=ava&on_error=retry"),
    ],
    ids=lambda kind: kind.name,
)
def test_data_middleware__refused_request__memory_is_free_without_the_garbage_collector(
    kind: Kind, with_middleware: bool
) -> None:
    side = Side({}, with_middleware=with_middleware)
    side.source.fault = UpstreamRejected()
    body = io.BytesIO(kind.body)
    released = weakref.ref(body)
    gc.disable()
    try:
        side.answer(replace(kind, environ=kind.environ | {"wsgi.input": body}))
        del body
        assert released() is None
    finally:
        gc.enable()
