"""ALLOWED_NETWORKS: the addresses that may call, also behind trusted proxies."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.settings import Settings
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeSource

PATH = "/v1/cohorts?user_id=u"


def client(source: FakeSource, networks: str, hops: int = 0) -> FlaskClient:
    settings = Settings.from_env(
        {
            "AMPLITUDE_SECRET_KEY": "k",
            "PROXY_API_KEYS": KEYS,
            "ALLOWED_NETWORKS": networks,
            "TRUSTED_PROXY_HOPS": str(hops),
        }
    )
    return create_app(settings, fetch=source.fetch).test_client()


def status(source: FakeSource, networks: str, peer: str, forwarded: str | None = None, hops: int = 0) -> int:
    headers = {"X-API-Key": SECRET} | ({"X-Forwarded-For": forwarded} if forwarded is not None else {})
    answer = client(source, networks, hops).get(PATH, headers=headers, environ_base={"REMOTE_ADDR": peer})
    return answer.status_code


@pytest.mark.contract("1 status 4xx")
@pytest.mark.parametrize(
    ("networks", "peer", "expected"),
    [
        ("192.0.2.0/24", "192.0.2.9", 200),
        ("192.0.2.9/24", "192.0.2.1", 200),
        ("192.0.2.9", "192.0.2.9", 200),
        ("192.0.2.0/24", "192.0.3.9", 403),
        ("192.0.2.0/24, 2001:db8::/32", "2001:db8::1", 200),
        ("2001:db8::/32", "2001:db9::1", 403),
        ("192.0.2.0/24", "::ffff:192.0.2.9", 200),
        ("0.0.0.0/0", "2001:db8::1", 403),
        ("::/0", "192.0.2.9", 403),
        ("192.0.2.0/24", "", 403),
    ],
)
def test_allowed_networks__address_inside_or_outside__200_or_403(
    source: FakeSource, networks: str, peer: str, expected: int
) -> None:
    assert status(source, networks, peer) == expected
    assert len(source.calls) == (expected == 200)


def test_allowed_networks__address_outside__detail_names_the_fix_but_not_the_address(source: FakeSource) -> None:
    answer = client(source, "192.0.2.0/24").get(PATH, environ_base={"REMOTE_ADDR": "198.51.100.1"})
    detail = answer.get_json()["detail"]
    assert "ask the operator" in detail
    assert "from the log to ALLOWED_NETWORKS" in detail
    assert "198.51.100.1" not in detail


@pytest.mark.contract("4 trusted proxies")
@pytest.mark.parametrize(
    ("hops", "peer", "forwarded", "expected"),
    [
        (0, "198.51.100.1", "192.0.2.9", 403),
        (0, "192.0.2.9", "198.51.100.1", 200),
        (1, "10.0.0.1", "192.0.2.9", 200),
        (1, "10.0.0.1", "192.0.2.9, 198.51.100.1", 403),
        (1, "10.0.0.1", "198.51.100.1, 192.0.2.9", 200),
        (1, "10.0.0.1", "nonsense", 403),
        (1, "192.0.2.9", '", 203.0.113.9', 403),
        (1, "10.0.0.1", None, 403),
        (1, "192.0.2.9", "", 403),
        (1, "192.0.2.9", None, 403),
        (2, "192.0.2.9", "198.51.100.1", 403),
        (2, "10.0.0.1", "192.0.2.9, 10.0.0.2", 200),
        (2, "10.0.0.1", "192.0.2.9, 198.51.100.1, 10.0.0.2", 403),
        (2, "10.0.0.1", "192.0.2.9", 403),
        (1, "10.0.0.1", "192.0.2.9:4711", 200),
        (1, "10.0.0.1", "[::ffff:192.0.2.9]:4711", 200),
    ],
)
def test_x_forwarded_for__number_of_trusted_hops__selects_the_client_address(
    source: FakeSource, hops: int, peer: str, forwarded: str | None, expected: int
) -> None:
    assert status(source, "192.0.2.0/24", peer, forwarded, hops) == expected


def test_allowed_networks__address_outside__403_before_401_and_probes_are_open(source: FakeSource) -> None:
    outside = {"REMOTE_ADDR": "198.51.100.1"}
    caller_client = client(source, "192.0.2.0/24")
    refused = caller_client.get(PATH, environ_base=outside)
    assert refused.status_code == 403
    assert refused.content_type == "application/problem+json"
    assert "WWW-Authenticate" not in refused.headers
    assert caller_client.get("/healthz", environ_base=outside).status_code == 200
    assert caller_client.get("/readyz", environ_base=outside).status_code == 200
    assert caller_client.get(PATH, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 401
