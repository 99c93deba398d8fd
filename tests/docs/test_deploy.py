"""The nginx blocks and the systemd unit of the deployment guide."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
import requests

from proxy.web.webhooks import MAX_BODY_BYTES
from tests.conftest import SECRET, Service, free_port
from tests.support.docs import fragment
from tests.support.service import GRACEFUL_SECONDS
from tests.support.wait import until

HOST = "cc.example.com"


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Return a function that runs nginx with the blocks of the guide in front of a URL, and returns nginx's URL.

    Its error log is the file `error`, and its log of failed requests is the file `failed`, in `tmp_path`.
    """
    program = shutil.which(
        "nginx", path=f"{os.environ['PATH']}:/usr/sbin"
    )  # Debian's folder, which only root has in PATH
    if program is None:
        pytest.skip("nginx is not installed; run apt-get install nginx-light")
    processes: list[subprocess.Popen[bytes]] = []

    def start(upstream: str) -> str:
        location = fragment("nginx").block("nginx").replace("http://127.0.0.1:8000", upstream)
        assert location.count(f"proxy_pass {upstream};") == 2
        assert "/var/log/nginx/connected-content.log" in location
        location = location.replace("/var/log/nginx/connected-content.log", f"{tmp_path}/failed")
        port = free_port()
        folders = " ".join(
            f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {tmp_path}/pid; events {{}}\n"
            f"http {{ access_log off; {folders}\n{fragment('nginx http').block('nginx')}\n"
            f"server {{ listen 127.0.0.1:{port}; {location} }} }}"
        )
        command = [program, "-p", str(tmp_path), "-e", f"{tmp_path}/error", "-c", str(configuration)]
        processes.append(subprocess.Popen(command))
        url = f"http://127.0.0.1:{port}"
        until(lambda: processes[-1].poll() is not None or accepts(port), "nginx did not start")
        assert processes[-1].poll() is None, (tmp_path / "error").read_text()
        return url

    yield start
    for process in processes:
        process.terminate()
        process.wait(10)


@pytest.fixture
def nginx(service: Service, start_nginx: Callable[[str], str]) -> str:
    return start_nginx(service.url)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.contract("6 snapshot upload")
def test_nginx__large_or_refused_snapshot__passes(nginx: str) -> None:
    lines = b"".join(b'"member-%d"\n' % number for number in range(700_000))
    assert len(lines) > MAX_BODY_BYTES
    session = requests.Session()
    session.headers.update({"Authorization": f"Bearer {SECRET}", "Content-Type": "application/x-ndjson"})
    url = f"{nginx}/v1/snapshots/nginx-cohort"
    answer = session.put(url, lines, timeout=60)
    assert (answer.status_code, answer.json()["members"]) == (200, 700_000)
    lookup = session.get(f"{nginx}/v1/cohorts?user_id=member-699999&cohort_id=nginx-cohort", timeout=5)
    assert lookup.json()["is_member"]
    # The service answers before it has read the body.
    assert session.put(f"{url}?as_of=yesterday", lines, timeout=60).status_code == 400
    assert session.delete(url, timeout=5).status_code == 200


class Broken(socketserver.StreamRequestHandler):
    """Reads the head of a request, and closes the connection without an answer, as a killed service does."""

    def handle(self) -> None:
        self.rfile.readline()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["down", "killed"])
def test_nginx__service_restarts__logs_the_failure_without_user_ids(
    start_nginx: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Broken) as server:
        upstream = f"127.0.0.1:{server.server_address[1]}"
        if kind == "killed":
            Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.server_close()
        url = start_nginx(f"http://{upstream}")
        statuses = [
            requests.get(f"{url}/v1/cohorts?user_id=secret-ava", timeout=10).status_code,
            requests.delete(f"{url}/v1/profile?user_id=secret-ava", timeout=10).status_code,
            requests.post(f"{url}/v1/cohorts", {"user_id": "secret-ava" * 10_000}, timeout=10).status_code,
            requests.post(f"{url}/v1/cohorts?device_id=secret-ava", "secret-ava", timeout=10).status_code,
            requests.post(f"{url}/v1/cohorts?user_id=secret-ava", b" " * (MAX_BODY_BYTES + 1), timeout=10).status_code,
        ]
        if kind == "killed":
            server.shutdown()
    assert statuses == [502] * 4 + [413]
    failed = (tmp_path / "failed").read_text()
    assert len(re.findall(rf"^\S+ the service did not answer: status 502, upstream {upstream}, ", failed, re.M)) == 4
    logs = failed + (tmp_path / "error").read_text()
    assert "secret-ava" not in logs
    assert "/v1/" not in logs


@pytest.mark.slow
def test_nginx__answered_requests__are_not_logged(nginx: str, tmp_path: Path) -> None:
    assert requests.get(f"{nginx}/v1/cohorts?user_id=ava", timeout=5).status_code == 401
    assert (tmp_path / "failed").read_text() == ""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the path of the systemd unit of the guide, with a program that exists on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; run apt-get install systemd")
    text = fragment("systemd").block("ini")
    program = "/srv/connected-content/.venv/bin/gunicorn"
    assert f"ExecStart={program} " in text
    path = tmp_path / "connected-content.service"
    path.write_text(text.replace(program, str(Path(sys.executable).with_name("gunicorn"))))
    return path


def test_systemd_unit__verified__has_no_unknown_or_wrong_line(unit: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert [line for line in result.stderr.splitlines() if unit.name in line] == []


@pytest.mark.parametrize("wrong", ["ProtectSystem=stric", "ProtectSystems=strict"])
def test_systemd_unit__wrong_line__is_found(unit: Path, wrong: str) -> None:
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", wrong))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert [line for line in result.stderr.splitlines() if unit.name in line] != []


def test_systemd_unit__security__exposure_is_low(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_systemd_unit__time_to_stop__is_longer_than_the_time_that_gunicorn_takes() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", fragment("systemd").block("ini"), re.M)
    assert int(seconds) > GRACEFUL_SECONDS
