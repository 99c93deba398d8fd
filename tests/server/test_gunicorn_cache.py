"""The parts of gunicorn's requests and answers that the worker caches."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import gunicorn.http.wsgi
import gunicorn.util
import pytest
from gunicorn.config import Config

from proxy.server import gunicorn_cache
from tests.conftest import Service


@pytest.mark.parametrize("moment", [0.0, 1_796_000_000.9, 1_796_000_001.0, 1_796_000_001.5])
def test_http_date__any_second__as_gunicorn_writes_it(monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    monkeypatch.setattr(time, "time", lambda: moment)
    for _ in range(2):
        assert gunicorn_cache.http_date() == gunicorn.util.http_date(moment)


def test_date_header__answers_of_a_worker__current_time(service: Service) -> None:
    before = int(time.time())
    date = parsedate_to_datetime(service.get("/healthz").headers["Date"]).timestamp()
    assert before <= date <= time.time()


def test_environ__two_requests__equal_to_gunicorns_except_for_the_error_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((gunicorn.http.wsgi, "base_environ"), (gunicorn.util, "http_date")):
        monkeypatch.setattr(module, name, getattr(module, name))
    config = Config()
    expected = gunicorn.http.wsgi.base_environ(config).keys()
    gunicorn_cache.install(config)
    first, second = gunicorn.http.wsgi.base_environ(config), gunicorn.http.wsgi.base_environ(config)
    first["REQUEST_METHOD"] = "GET"
    assert second.keys() == expected
    second["wsgi.errors"].write("")
