"""Downloads of cohorts over real HTTP, with faults of Amplitude, of the storage and of the network."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
import requests

from proxy.amplitude import cohort_export
from proxy.amplitude.cohort_export import CohortExport, NotDownloaded, redirect_target
from proxy.amplitude.cohort_file import CohortFile
from proxy.monitoring.clock import Clock
from proxy.sandbox import cohort_api
from proxy.sandbox.cohort_api import Exports
from proxy.sandbox.faults import Fault, FaultKind
from proxy.sandbox.http import Reply
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.conftest import free_port
from tests.support.fakes import FakeClock


class Download:
    """A client whose pauses end at once. Records the progress and the rows of its last download."""

    def __init__(self, sandbox: Sandbox, url: str | None = None, secret: str | None = None) -> None:
        self.sandbox = sandbox
        self.clock = FakeClock()
        self.slept: list[float] = []
        self.progress: list[str] = []
        self.users: list[str] = []
        self.blank = 0
        self.unreadable: list[int] = []
        self.fix_after: int | None = None
        self.client = CohortExport(
            url or sandbox.url,
            sandbox.api_key,
            secret or sandbox.secret_key,
            on_progress=self.progress.append,
            clock=Clock(monotonic=self.clock, sleep=self._sleep),
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)
        if len(self.slept) == self.fix_after:
            self.sandbox.break_with(None)

    def __call__(self, cohort_id: str) -> list[str]:
        self.client.download(cohort_id, self._take)
        return self.users

    def _take(self, file: CohortFile) -> None:
        self.users, self.blank, self.unreadable = [], 0, []
        for row, _ in file.rows:
            if row.no_user:
                self.blank += 1
            elif row.fault:
                self.unreadable.append(row.line)
            else:
                self.users.append(row.user_id)


def replace_file(monkeypatch: pytest.MonkeyPatch, reply: Reply) -> None:
    """Make the sandbox answer every request for a file with `reply`."""
    answer = Exports.answer
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: b"")  # generating a large cohort takes a second
    monkeypatch.setattr(
        Exports,
        "answer",
        lambda exports, path, *rest: reply if path.endswith("/file") else answer(exports, path, *rest),
    )


@pytest.fixture
def download(sandbox: Sandbox) -> Download:
    return Download(sandbox)


@pytest.mark.contract("5 warm cohort")
def test_download__file_in_the_storage__members_and_no_credentials_sent_there(
    sandbox: Sandbox, download: Download
) -> None:
    assert download("c31") == ["ava", "dário & söhne", *download.users[2:]]
    assert set(download.users[2:]) <= {f"user-{number}" for number in range(1, 4001)}
    assert len(download.users) > 50
    assert sandbox.report()["cohorts"] == {"requests": 1, "polls": 2, "files": 1, "stored": 1}
    assert sandbox.report()["calls"] == 0, "downloads use no calls of the User Profile API"
    assert download.slept == [2.0]
    assert [line for line in download.progress if "members in the cohort" in line]


def test_sandbox_storage__request_with_credentials__400_and_counted(sandbox: Sandbox) -> None:
    auth = (sandbox.api_key, sandbox.secret_key)
    request_id = requests.get(f"{sandbox.url}/api/5/cohorts/request/vip", auth=auth, timeout=5).json()["request_id"]
    link = f"{sandbox.url}/api/5/cohorts/request/{request_id}/file"
    location = requests.get(link, auth=auth, timeout=5, allow_redirects=False).headers["Location"]
    assert requests.get(location, auth=auth, timeout=5).status_code == 400
    assert sandbox.report()["cohorts"]["credentials"] == 1
    assert requests.get(location, timeout=5).text == '"amplitude_id","user_id"\n"356000000001","ava"\n'


def test_download__small_cohort__no_pause_and_anonymous_members_are_blank() -> None:
    with Sandbox(documented=Documented(cohort_file="inline", cohort_polls=0)) as sandbox:
        download = Download(sandbox)
        assert download("crowd-3") == ["user-1", "user-2", "user-3"]
        assert download.blank == 1
        assert download.slept == []
        assert sandbox.report()["cohorts"] == {"requests": 1, "polls": 1, "files": 1}


@pytest.mark.contract("5 warm cohort")
def test_download__long_export__pauses_grow_and_polls_stay_within_amplitudes_limit() -> None:
    with Sandbox(documented=Documented(cohort_polls=40)) as sandbox:
        download = Download(sandbox)
        assert download("crowd-1") == ["user-1"]
    assert len(download.slept) == 40
    assert download.slept[0] == 2.0
    assert max(download.slept) == 30.0
    assert sorted(download.slept) == download.slept
    busiest = max(
        sum(start <= later < start + 600 for later in _request_times(download.slept))
        for start in _request_times(download.slept)
    )
    assert busiest + 2 <= 60


def _request_times(pauses: list[float]) -> list[float]:
    return [sum(pauses[:number]) for number in range(len(pauses) + 1)]


@pytest.mark.contract("5 warm cohort")
@pytest.mark.parametrize("kind", ["cohort-429", "cohort-500", "cohort-stuck"])
def test_download__temporary_fault__retried_until_it_ends(
    sandbox: Sandbox, download: Download, kind: FaultKind
) -> None:
    sandbox.break_with(Fault(kind, seconds=7))
    download.fix_after = 3
    assert download("crowd-2") == ["user-1", "user-2"]
    if kind == "cohort-429":
        assert download.slept[:3] == [7.0, 7.0, 7.0]
        assert any("429" in line for line in download.progress)


@pytest.mark.contract("5 warm cohort")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cohort-429", "limits the rate of requests (429)"),
        ("cohort-500", "(status 500)"),
        ("cohort-stuck", "the export was not ready after 6"),
        ("cohort-cut-off", "the cohort file is incomplete (ProtocolError)"),
        ("cohort-gzip-cut", "the cohort file is incomplete (EOFError)"),
        ("cohort-unbounded-cut", "the cohort file is incomplete (the body ends in the middle of a line)"),
        ("cohort-expired", "the cohort file is incomplete (127.0.0.1 returned status 403)"),
        ("cohort-loop", "redirects more than 3 times"),
        ("cohort-nowhere", "redirects to an invalid URL"),
        ("cohort-elsewhere", "ftp:// instead of https://"),
    ],
)
def test_download__lasting_fault__fails_with_the_reason(
    sandbox: Sandbox, download: Download, kind: FaultKind, reason: str
) -> None:
    sandbox.break_with(Fault(kind))
    with pytest.raises(NotDownloaded) as failure:
        download("crowd-500")
    assert reason in str(failure.value)
    assert sandbox.secret_key not in str(failure.value)
    assert sandbox.report()["cohorts"].get("credentials", 0) == 0
    assert sandbox.report()["cohorts"].get("stored", 0) <= 5


@pytest.mark.parametrize("kind", ["cohort-file-429", "cohort-storage-429"])
def test_download__429_for_the_file__retried_for_at_most_ten_minutes(
    sandbox: Sandbox, download: Download, kind: FaultKind
) -> None:
    sandbox.break_with(Fault(kind, seconds=50))
    download.fix_after = 8
    assert download("crowd-2") == ["user-1", "user-2"]
    assert download.slept[1:] == [50.0] * 7
    assert any("429" in line for line in download.progress)
    sandbox.break_with(Fault(kind, seconds=50))
    with pytest.raises(NotDownloaded, match="429"):
        download("crowd-2")
    assert download.slept[8:] == [2.0, *[50.0] * 12], "retries end after the ten minutes of Amplitude's limit"


@pytest.mark.contract("5 warm cohort")
def test_download__file_is_cut_off__fetched_again_by_a_new_link_and_complete(
    sandbox: Sandbox, download: Download
) -> None:
    # The first pause is between the two polls. Then the file is cut off twice before the fault ends.
    sandbox.break_with(Fault("cohort-cut-off"))
    download.fix_after = 3
    assert download("crowd-500") == [f"user-{number}" for number in range(1, 501)]
    assert sandbox.report()["cohorts"]["files"] == 3
    assert any("retrying" in line for line in download.progress)


@pytest.mark.parametrize("kind", ["cohort-gzip", "cohort-unbounded"])
def test_download__compressed_or_without_length__complete(
    sandbox: Sandbox, download: Download, kind: FaultKind
) -> None:
    sandbox.break_with(Fault(kind))
    assert download("crowd-500") == [f"user-{number}" for number in range(1, 501)]
    assert sandbox.report()["cohorts"]["stored"] == 1


def test_download__encoding_that_was_not_requested__fails_with_its_name(
    download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = Reply(200, b"\x0b\x02\x80", {"Content-Encoding": "br"})
    replace_file(monkeypatch, reply)
    with pytest.raises(NotDownloaded, match="Content-Encoding 'br'"):
        download("vip")


def test_download__invalid_rows__other_rows_are_kept_unless_the_last_row_is_invalid(
    download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = b'amplitude_id,user_id\n1,ava\n2,"be"n"\n3\n"4"5,x\n6,c\x01\n7,dora\n'
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: table)
    assert download("any") == ["ava", "dora"]
    assert download.unreadable == [3, 4, 5, 6]
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: table + b'8,"ev"e"\n')
    with pytest.raises(NotDownloaded, match="line 8: the row is not CSV"):
        download("any")


@pytest.mark.parametrize("head", [b'"amplitude_id","us', b'"amplitude"_id","user_id"\n"1","ava"\n'])
def test_download__invalid_first_line__fails_with_the_reason(
    download: Download, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: head)
    with pytest.raises(NotDownloaded, match="the first line is not CSV"):
        download("any")


def test_download__last_id_is_cut_off__fetched_again_and_complete(
    sandbox: Sandbox, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: b"user_id\nava\nbartholomew-montgomery-the-third\n")
    sandbox.break_with(Fault("cohort-unbounded-cut"))
    download.fix_after = 2
    assert download("any") == ["ava", "bartholomew-montgomery-the-third"]
    assert any("the body ends in the middle of a line" in line for line in download.progress)


def test_download__file_ends_within_a_row_or_is_html__fails_with_the_reason(
    sandbox: Sandbox, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: b'"amplitude_id","user_id"\n"1","user-1"\n"2","us')
    with pytest.raises(NotDownloaded, match="line 3: a quote is not closed"):
        download("any")
    monkeypatch.setattr(cohort_api, "table", lambda *_, **__: b"<html>maintenance</html>")
    with pytest.raises(NotDownloaded, match="column 'user_id' is missing; the first line has '<html>"):
        download("any")


def test_download__unknown_cohort__fails_with_its_id(download: Download) -> None:
    with pytest.raises(NotDownloaded, match="cohort 'a b/c' does not exist"):
        download("a b/c")


def test_download__id_or_name_is_not_unicode__fails_with_the_reason(
    sandbox: Sandbox, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotDownloaded, match="cohort 'c\\\\udce9' does not exist in Amplitude"):
        download("c\udce9")
    with pytest.raises(NotDownloaded, match="none of the requested properties"):
        download.client.download("vip", lambda _: None, ["caf\udce9"])
    monkeypatch.setattr(Exports, "answer", lambda *_: Reply(202, {"request_id": "\ud800"}))
    with pytest.raises(NotDownloaded, match="the export was not ready"):
        download("vip")


def test_download__wrong_credentials__fails_without_a_retry(sandbox: Sandbox) -> None:
    download = Download(sandbox, secret="another-secret")
    with pytest.raises(NotDownloaded, match="Amplitude returned status 401; compare AMPLITUDE_API_KEY"):
        download("vip")
    assert download.slept == []


def test_download__amplitude_is_unreachable__fails_after_four_retries(sandbox: Sandbox) -> None:
    download = Download(sandbox, url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(NotDownloaded, match=r"127\.0\.0\.1 does not answer \(ConnectionError\)"):
        download("vip")
    assert len(download.slept) == 4


@pytest.mark.parametrize(
    "location", ["http://storage.example.com/f", "file:///etc/passwd", "http://[", "ftp://h/f", "http://localhost/f"]
)
def test_redirect_target__not_https__refused(location: str) -> None:
    assert redirect_target("https://amplitude.com/a/b", "/c?d=e") == "https://amplitude.com/c?d=e"
    assert (
        redirect_target("https://amplitude.com/a", "https://storage.example.com/f?s=1")
        == "https://storage.example.com/f?s=1"
    )
    for url in ("https://amplitude.com/a", "HTTPS://amplitude.com/a"):
        with pytest.raises(NotDownloaded, match="the link to the cohort file redirects to"):
            redirect_target(url, location)


@pytest.mark.parametrize(
    "location",
    [
        "https://a.example\\@127.0.0.1/",
        f"https://{'a' * 64}.x/",
        "https://a..b/",
        "https://a:99999/",
        "https://a b/",
        "https:///f",
        "https://[::1",
    ],
)
def test_download__link_with_an_invalid_host__fails_without_a_retry(
    sandbox: Sandbox, download: Download, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    reply = Reply(302, "", {"Location": location})
    replace_file(monkeypatch, reply)
    with pytest.raises(NotDownloaded, match="redirects to an invalid URL"):
        download("vip")
    assert download.slept == [2.0], "only the pause between two polls"


ENDLESS = 16 * 1024 * 1024
"""Sixteen times the longest row."""


def endless(start: bytes, unit: bytes) -> bytes:
    """Return a gzip file of `start` and of `unit`, repeated."""
    packer = zlib.compressobj(wbits=31)
    block = unit * (1024 * 1024 // len(unit))
    packed = [packer.compress(start), *(packer.compress(block) for _ in range(ENDLESS // len(block)))]
    return b"".join([*packed, packer.flush()])


@pytest.mark.parametrize(
    ("start", "unit"),
    [(b"", b"x"), (b"user_id\n", b"x"), (b"user_id\nava\n", b'"x\n",'), (b"user_id\n", b",")],
    ids=["header", "line", "row of many lines", "cells"],
)
def test_download__endless_row_in_a_small_gzip_file__fails_with_the_limit_and_little_memory(
    download: Download, monkeypatch: pytest.MonkeyPatch, start: bytes, unit: bytes
) -> None:
    replace_file(monkeypatch, Reply(200, endless(start, unit), {"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        with pytest.raises(NotDownloaded) as caught:
            download("vip")
        assert tracemalloc.get_traced_memory()[1] < ENDLESS
    finally:
        tracemalloc.stop()
    assert "1,048,576 characters" in str(caught.value)


@pytest.mark.parametrize("unbounded", [False, True], ids=["with a length", "until the connection ends"])
def test_download__endless_plain_line__fails_with_the_limit_without_a_retry(
    download: Download, monkeypatch: pytest.MonkeyPatch, unbounded: bool
) -> None:
    replace_file(monkeypatch, Reply(200, b"user_id\n" + b"x" * (4 * 1024 * 1024), unbounded=unbounded))
    with pytest.raises(NotDownloaded, match="line 2: the line has more than 1,048,576 characters"):
        download("vip")
    assert not any("retrying" in line for line in download.progress)


def test_download__more_users_than_amplitude_exports__fails_with_the_limit(
    download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_export, "MAX_USERS", 3)
    replace_file(monkeypatch, Reply(200, b"user_id\n" + b"ava\n" * 4))
    with pytest.raises(NotDownloaded, match="more than 3 users"):
        download("vip")
