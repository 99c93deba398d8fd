"""The client for Amplitude, with the sandbox as its server."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import trustme
import urllib3

from proxy.amplitude.calls import plan_calls
from proxy.amplitude.client import AmplitudeClient, Fetched, translate_error
from proxy.monitoring.logs import configure_logging
from proxy.profile import encoding
from proxy.profile.errors import (
    QuotaExhausted,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, recommendation
from proxy.sandbox.faults import Fault, FaultKind
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import free_port

HOMEPAGE = recommendation("homepage")


def amplitude(
    sandbox: Sandbox, *, timeout: float = 5.0, api_key: str | None = None, secret: str = ""
) -> AmplitudeClient:
    return AmplitudeClient(sandbox.url, secret or sandbox.secret_key, api_key, timeout=timeout)


def fetch(sandbox: Sandbox, *parts: Part, user: str = "ava", **options: Any) -> Fetched:
    return amplitude(sandbox, **options).fetch(Identity(user, None), plan_calls(parts)[0])


def value_of(fetched: Fetched, part: Part) -> Any:
    return encoding.read(fetched.record.parts[part].value)


def test_fetch__several_parts__one_call_and_one_exposure(sandbox: Sandbox) -> None:
    before = time.time()
    fetched = fetch(sandbox, HOMEPAGE, PROPERTIES, COHORTS)
    assert value_of(fetched, HOMEPAGE)["items"] == ["trail-shoe", "rain-shell", "head-torch"]
    assert value_of(fetched, PROPERTIES)["gp:first_name"] == "Ava"
    assert value_of(fetched, COHORTS) == ["vip", "c31"]
    assert (fetched.record.user_id, fetched.record.device_id) == ("ava", "device-ava")
    assert before <= fetched.record.fetched_at(COHORTS) <= time.time()
    assert not fetched.faults
    assert sandbox.exposures == [("ava", "homepage")]
    assert sandbox.report()["calls"] == 1


def test_fetch__id_with_special_characters__arrives_unchanged(sandbox: Sandbox) -> None:
    assert value_of(fetch(sandbox, PROPERTIES, user="dário & söhne"), PROPERTIES)["gp:日本"] == "Japan"
    assert sandbox.calls[0][1]["user_id"] == "dário & söhne"


def test_fetch__device_id_only__returns_its_data(sandbox: Sandbox) -> None:
    fetched = amplitude(sandbox).fetch(Identity(None, "device-only"), plan_calls([COHORTS])[0])
    assert value_of(fetched, COHORTS) == ["app-users"]
    assert (fetched.record.user_id, fetched.record.device_id) == (None, "device-only")


@pytest.mark.contract("1 unknown users")
@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_fetch__unknown_user__recognised_with_any_status(sandbox: Sandbox, status: int) -> None:
    sandbox.documented = Documented(unknown_status=status)
    assert fetch(sandbox, COHORTS, user="stranger").record.unknown_at == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("unasked", ["null", "missing"])
@pytest.mark.parametrize("dormant", ["null", "missing", "empty"])
def test_fetch__dormant_user__no_recommendations_and_no_fault(sandbox: Sandbox, dormant: Any, unasked: Any) -> None:
    sandbox.documented = Documented(dormant=dormant, unasked=unasked)
    fetched = fetch(sandbox, HOMEPAGE, PROPERTIES, user="cleo")
    assert value_of(fetched, HOMEPAGE) is None
    assert value_of(fetched, PROPERTIES) == {"gp:first_name": "Cleo"}
    assert not fetched.faults


def test_fetch__api_key_header_and_basic_auth__accepted_where_expected(sandbox: Sandbox) -> None:
    sandbox.documented = Documented(credentials="api-key")
    assert fetch(sandbox, COHORTS).record.parts
    sandbox.documented = Documented(credentials="basic")
    assert fetch(sandbox, COHORTS, api_key=sandbox.api_key).record.parts
    with pytest.raises(UpstreamRejected):
        fetch(sandbox, COHORTS)


def test_fetch__wrong_secret__rejected(sandbox: Sandbox) -> None:
    with pytest.raises(UpstreamRejected):
        fetch(sandbox, COHORTS, secret="another")


@pytest.mark.parametrize(("retry_after", "seconds"), [(None, 60), (7, 7), (0, 1), (999_999, 3600)])
def test_fetch__429__retry_after_is_read_within_limits(sandbox: Sandbox, retry_after: int | None, seconds: int) -> None:
    sandbox.documented = Documented(retry_after=retry_after)
    sandbox.per_minute = 1
    fetch(sandbox, COHORTS)
    with pytest.raises(QuotaExhausted) as refused:
        fetch(sandbox, COHORTS)
    assert refused.value.retry_after == seconds


FAULTS: list[tuple[FaultKind, type[UpstreamError]]] = [
    ("hang", UpstreamTimeout),
    ("drip-headers", UpstreamTimeout),
    ("drip-body", UpstreamTimeout),
    ("slow", UpstreamTimeout),
    ("reset", UpstreamUnavailable),
    ("status", UpstreamUnavailable),
    ("quota", QuotaExhausted),
    ("broken-json", UpstreamInvalid),
    ("wrong-shape", UpstreamInvalid),
    ("oversize", UpstreamInvalid),
    ("redirect", UpstreamInvalid),
    ("not-utf-8", UpstreamInvalid),
]


@pytest.mark.contract("1 error words")
@pytest.mark.parametrize(("kind", "fault"), FAULTS, ids=[kind for kind, _ in FAULTS])
def test_fetch__each_fault__its_error_in_time_and_the_next_call_succeeds(
    sandbox: Sandbox, kind: FaultKind, fault: type[UpstreamError]
) -> None:
    sandbox.break_with(Fault(kind, seconds=20))
    # Only faults that last until the timeout get a short timeout. Other faults may take longer on a busy machine.
    timeout = 0.4 if fault is UpstreamTimeout else 5.0
    started = time.monotonic()
    with pytest.raises(fault):
        fetch(sandbox, COHORTS, timeout=timeout)
    assert time.monotonic() - started < 10
    sandbox.break_with(None)
    assert fetch(sandbox, COHORTS).record.parts, "the next call succeeds"


@pytest.mark.parametrize(
    ("status", "fault"), [(403, UpstreamRejected), (404, UpstreamInvalid), (503, UpstreamUnavailable)]
)
def test_fetch__other_error_status__its_error(sandbox: Sandbox, status: int, fault: type[UpstreamError]) -> None:
    sandbox.break_with(Fault("status", status=status))
    with pytest.raises(fault):
        fetch(sandbox, COHORTS)


def test_fetch__redirect__not_followed(sandbox: Sandbox) -> None:
    sandbox.break_with(Fault("redirect"))
    with pytest.raises(UpstreamInvalid):
        fetch(sandbox, COHORTS)
    assert sandbox.statuses == {301: 1}


@pytest.mark.parametrize("target", ["http://[::1", "/\u00ff", "/elsewhere"])
def test_fetch__redirect_with_any_location__invalid(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(sandbox, "url", target if target != "/elsewhere" else sandbox.url + target)
    client = AmplitudeClient(f"http://127.0.0.1:{sandbox.port}", sandbox.secret_key, timeout=1)
    sandbox.break_with(Fault("redirect"))
    with pytest.raises(UpstreamInvalid):
        client.fetch(Identity("ava", None), plan_calls([COHORTS])[0])


def test_fetch__two_of_three_addresses_are_silent__third_is_reached_in_time(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    connect = socket.socket.connect

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        hosts = [f"127.0.0.{number}" for number in (1, 2, 3)] if host == "localhost" else [host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, sandbox.port)) for address in hosts]

    def connect_to_last(sock: socket.socket, address: Any) -> None:
        attempts.append((address[0], sock.gettimeout()))
        if address[0] != "127.0.0.3":
            raise TimeoutError
        connect(sock, ("127.0.0.1", sandbox.port))

    client = AmplitudeClient(f"http://localhost:{sandbox.port}", sandbox.secret_key, timeout=0.9)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", connect_to_last)
    assert client.fetch(Identity("ava", None), plan_calls([COHORTS])[0]).record.parts
    assert [host for host, _ in attempts] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert attempts[0][1] == pytest.approx(0.3, abs=0.05)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_sandbox(authority: trustme.CA) -> Iterator[Sandbox]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Sandbox(tls=context) as running:
        yield running


def test_tls__certificate_of_a_private_authority__accepted_with_its_bundle(
    secure_sandbox: Sandbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    with authority.cert_pem.tempfile() as bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        assert value_of(fetch(secure_sandbox, COHORTS), COHORTS) == ["vip", "c31"]


def test_tls__untrusted_certificate__unavailable_and_the_secret_is_not_sent(secure_sandbox: Sandbox) -> None:
    with pytest.raises(UpstreamUnavailable):
        fetch(secure_sandbox, COHORTS)
    assert not secure_sandbox.calls, "the secret was not sent"


@pytest.mark.parametrize("kind", ["hang", "drip-headers", "drip-body"])
def test_tls__slow_response__times_out(
    secure_sandbox: Sandbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, kind: FaultKind
) -> None:
    secure_sandbox.break_with(Fault(kind, seconds=20))
    started = time.monotonic()
    with authority.cert_pem.tempfile() as bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        with pytest.raises(UpstreamTimeout):
            fetch(secure_sandbox, COHORTS, timeout=0.5)
    assert time.monotonic() - started < 10


def test_fetch__values_of_wrong_types__one_fault_for_each_part(sandbox: Sandbox) -> None:
    sandbox.break_with(Fault("wrong-types"))
    fetched = fetch(sandbox, HOMEPAGE, PROPERTIES, COHORTS)
    assert fetched.faults.keys() == {HOMEPAGE, PROPERTIES, COHORTS}
    assert not fetched.record.parts


def test_fetch__no_server_on_the_port__unavailable() -> None:
    client = AmplitudeClient(f"http://127.0.0.1:{free_port()}", "secret", timeout=1)
    with pytest.raises(UpstreamUnavailable):
        client.fetch(Identity("u", None), plan_calls([COHORTS])[0])


def test_fetch__five_calls__one_connection(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = []
    connect = urllib3.connection.HTTPConnection.connect

    def count_and_connect(connection: urllib3.connection.HTTPConnection) -> None:
        connections.append(connection)
        connect(connection)

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", count_and_connect)
    client = amplitude(sandbox)
    for _ in range(5):
        client.fetch(Identity("ava", None), plan_calls([COHORTS])[0])
    assert len(connections) == 1


def test_fetch__netrc_entry_and_proxy_variable__ignored_on_loopback(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login wrong password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert fetch(sandbox, COHORTS).record.parts


def subclasses(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


@pytest.mark.contract("1 error words")
@pytest.mark.parametrize("kind", sorted({requests.RequestException, *subclasses(requests.RequestException)}, key=str))
def test_translate_error__each_exception_of_requests__upstream_error(kind: type[requests.RequestException]) -> None:
    assert isinstance(translate_error(kind.__new__(kind)), UpstreamError)


def test_translate_error__read_or_connect_timeout__timeout_or_unavailable() -> None:
    assert isinstance(translate_error(requests.ReadTimeout()), UpstreamTimeout)
    assert isinstance(translate_error(requests.ConnectTimeout()), UpstreamUnavailable)


def test_fetch__call_fails__error_contains_no_id(sandbox: Sandbox) -> None:
    sandbox.break_with(Fault("reset"))
    with pytest.raises(UpstreamError) as fault:
        fetch(sandbox, COHORTS, user="person@example.com")
    assert "person" not in repr(fault.value)
    assert fault.value.__cause__ is None


@pytest.mark.contract("2 secrets")
def test_log__invalid_response_header__contains_no_id_and_no_credentials(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    configure_logging("DEBUG")
    sandbox.break_with(Fault("bad-header"))
    with caplog.at_level(logging.DEBUG):
        fetch(sandbox, COHORTS, user="ava")
    assert "ava" not in caplog.text
    assert "Api-Key" not in caplog.text


def test_repr__attributes_of_the_client__contain_no_secret() -> None:
    assert "the-secret" not in repr(vars(AmplitudeClient("http://127.0.0.1", "the-secret", timeout=1)))
