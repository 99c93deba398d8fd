"""The nginx block of the deployment guide, in front of the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from proxy.web.webhooks import MAX_BODY_BYTES
from tests.conftest import SECRET, Service, free_port
from tests.support.docs import fragment

HOST = "cc.example.com"


@pytest.fixture
def nginx(service: Service, tmp_path: Path) -> Iterator[str]:
    """Run nginx with the block of the guide in front of the service, and return its URL."""
    program = shutil.which(
        "nginx", path=f"{os.environ['PATH']}:/usr/sbin"
    )  # Debian's folder, which only root has in PATH
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    location = fragment("nginx").block("nginx").replace("http://127.0.0.1:8000", service.url)
    port = free_port()
    paths = " ".join(f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {tmp_path}/pid; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; {location} }} }}"
    )
    process = subprocess.Popen([program, "-p", str(tmp_path), "-e", f"{tmp_path}/error", "-c", str(configuration)])
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 10
    while not answers(url):
        assert process.poll() is None, (tmp_path / "error").read_text()
        assert time.monotonic() < deadline
    yield url
    process.terminate()
    process.wait(10)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_nginx__page_and_request__know_the_host_and_have_an_id(nginx: str) -> None:
    session = requests.Session()
    session.auth, session.headers["Host"] = ("braze", SECRET), HOST
    page = session.get(f"{nginx}/playground", timeout=5)
    assert f"https://{HOST}/v1/recommendations?user_id=" in page.text
    assert re.fullmatch(r"[0-9a-f]{32}", page.headers["X-Request-ID"])
    message = {"template": "{% connected_content https://h/v1/cohorts?user_id=ava :save c %}{{ c.ok }}"}
    for origin, status in ((f"https://{HOST}", 200), ("https://evil.example", 403)):
        answer = session.post(f"{nginx}/playground/render", json=message, headers={"Origin": origin}, timeout=5)
        assert answer.status_code == status
    assert session.get(f"{nginx}/v1/cohorts?user_id=ava", timeout=5).json()["member"] == {"vip": True, "c31": True}


def test_nginx__largest_webhook_batch__passes(nginx: str) -> None:
    users = [{"user_id": f"pushed-{number}"} for number in range(10_000)]
    now = f"{time.time():.0f}"
    batch = {"cohort_id": "large", "in_cohort": True, "computed_time": now, "users": users}
    body = json.dumps(batch).encode().ljust(MAX_BODY_BYTES)
    credentials = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    answer = requests.post(f"{nginx}/v1/webhooks/amplitude/cohorts", body, headers=credentials, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.json()["applied"] == len(users)
    lookup = requests.get(f"{nginx}/v1/cohorts?user_id=pushed-9999&cohort_id=large", headers=credentials, timeout=5)
    assert (lookup.headers["X-Amplitude-Calls"], lookup.json()["is_member"]) == ("0", True)
