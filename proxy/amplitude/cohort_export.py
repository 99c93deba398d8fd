"""Downloads the members of a cohort from Amplitude: requested, waited for, fetched from wherever the file lies.

Facts: amplitude.com/docs/apis/analytics/behavioral-cohorts. The link to the file holds for a week and may be asked
for again; where it leads, to a storage, holds for a minute, and is told no credentials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from proxy.amplitude.client import retry_after
from proxy.amplitude.response_lines import TORN, BrokenOff, lines_of
from proxy.amplitude.transport import Session
from proxy.api.urls import is_loopback
from proxy.api.user_rows import NoColumn, Row, read
from proxy.profile.json import read_json

COLUMN = "user_id"
_SECONDS = 30.0  # for an answer that is no file
_FILE_SECONDS = 900.0
_MAX_BYTES = 1024 * 1024  # of an answer that is no file
_HOPS = 3
_TRIES = 5
_BUSY_TRIES = 12
"""After a 429: 60 requests are allowed in ten minutes, so that after a minute each it must have ended."""
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 30.0
_GROWTH = 1.5
_JOB_SECONDS = 3600.0
_TELL_SECONDS = 5.0
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, *TORN)


class NotDownloaded(Exception):
    """Says why, and what to mend."""


class _Busy(Exception):
    """The file is to be asked for again after so many seconds."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"{host} allows no more such requests for now (429)")
        self.seconds = seconds


class CohortExport:
    """A client of the Behavioral Cohorts API. `tell` hears how far it is."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        secret_key: str,
        *,
        tell: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._base = base_url
        self._session = Session(base_url, HTTPBasicAuth(api_key, secret_key))
        self._tell = tell
        self._sleep = sleep
        self._monotonic = monotonic
        self._now = now

    def download(self, cohort_id: str, take: Callable[[Iterator[Row]], None]) -> None:
        """Hand the rows of the cohort's file to `take`, again from the first one when the file broke off.

        Raises NotDownloaded.
        """
        try:
            _address(self._base)
        except ValueError:
            raise NotDownloaded(f"AMPLITUDE_COHORTS_URL, {self._base}, is no address") from None
        request_id = self._requested(cohort_id)
        self._await(request_id)
        failures = busy = 0
        while True:
            try:
                with self._file(request_id) as lines:
                    take(self._rows(lines))
                    return
            except NoColumn as error:
                raise NotDownloaded(f"the file of the cohort is none of Amplitude's: {error}") from None
            except _Busy as error:
                busy += 1
                if busy > _BUSY_TRIES:
                    raise NotDownloaded(f"{error}: try again later") from None
                self._stand_back(error)
            except (BrokenOff, *_BROKEN) as error:
                failures += 1
                why = str(error) if isinstance(error, BrokenOff) else type(error).__name__
                if failures >= _TRIES:
                    raise NotDownloaded(f"the file of the cohort did not come whole ({why}): run it again") from None
                self._tell(f"the file did not come whole ({why}); once more")
                self._sleep(_paused(failures))

    def _requested(self, cohort_id: str) -> str:
        status, said = self._asked(f"/api/5/cohorts/request/{quote(cohort_id, safe='')}")
        if status in (400, 404) or str(said.get("cohort_id", cohort_id)) != cohort_id:
            raise NotDownloaded(
                f"Amplitude has no cohort {cohort_id!r}: its id is the last part of its address in Amplitude"
            )
        request_id = said.get("request_id")
        if status not in (200, 202) or not isinstance(request_id, str | int):
            raise NotDownloaded(f"Amplitude says {status} to the request for the cohort")
        self._tell("cohort requested")
        return str(request_id)

    def _await(self, request_id: str) -> None:
        """Return when the job has completed."""
        path = f"/api/5/cohorts/request-status/{quote(request_id, safe='')}"
        began = self._monotonic()
        looks = 0
        while True:
            status, said = self._asked(path)
            if status == 200 and said.get("async_status", "JOB COMPLETED") == "JOB COMPLETED":
                return
            if status != 202:
                raise NotDownloaded(f"Amplitude does not prepare the cohort: {said.get('async_status', status)}")
            waited = self._monotonic() - began
            if waited > _JOB_SECONDS:
                raise NotDownloaded(f"Amplitude has not prepared the cohort in {waited / 60:.0f} min: try again later")
            looks += 1
            self._tell(f"Amplitude prepares the cohort, {waited:.0f} s so far")
            self._sleep(_paused(looks))

    def _rows(self, lines: Iterator[str]) -> Iterator[Row]:
        told, number = self._monotonic(), 0
        torn: Row | None = None
        for number, row in enumerate(read(lines, COLUMN), start=1):
            if torn is not None:
                yield torn  # with others after it: one bad row, and no end
            torn = row if row.torn else None
            if torn is None:
                yield row
            if (now := self._monotonic()) - told >= _TELL_SECONDS:
                told = now
                self._tell(f"{number:,} members so far")
        if torn is not None:
            raise BrokenOff(f"line {torn.line} {torn.fault}")
        self._tell(f"members in the cohort: {number:,}")

    @contextmanager
    def _file(self, request_id: str) -> Iterator[Iterator[str]]:
        """Open the file, in the storage where Amplitude keeps it there, and yield its lines."""
        session, url = self._session, f"{self._base}/api/5/cohorts/request/{quote(request_id, safe='')}/file"
        for _ in range(_HOPS + 1):
            with _get(session, url, _FILE_SECONDS, {"Accept-Encoding": "identity"}) as answer:
                if answer.status_code == 200:
                    yield lines_of(answer)
                    return
                if answer.status_code == 429:
                    raise _Busy(_host(url), retry_after(answer.headers.get("Retry-After"), self._now()))
                if not answer.is_redirect:
                    if session is self._session:
                        self._refuse_credentials(answer.status_code)
                    raise BrokenOff(f"{_host(url)} says {answer.status_code}")
                url = _led(url, answer.headers["Location"])
            session = Session(url)  # without credentials: the link has its own
        raise NotDownloaded(f"the link to the cohort's file leads from one address to the next, {_HOPS} times")

    def _asked(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of an answer, tried again after a fault that may pass."""
        failures = busy = 0
        while True:
            try:
                with _get(self._session, self._base + path, _SECONDS) as answer:
                    status, said = answer.status_code, _json(answer)
                    wait = retry_after(answer.headers.get("Retry-After"), self._now())
            except _BROKEN as error:
                why = type(error).__name__
            else:
                self._refuse_credentials(status)
                if status == 429 and busy < _BUSY_TRIES:
                    busy += 1
                    self._stand_back(_Busy("Amplitude", wait))
                    continue
                if status < 500 and status != 429:
                    return status, said
                why = f"it says {status}"
            failures += 1
            if failures >= _TRIES or busy >= _BUSY_TRIES:
                raise NotDownloaded(f"{_host(self._base)} gives no answer ({why}): try again later")
            self._tell(f"{_host(self._base)} gives no answer ({why}); once more")
            self._sleep(_paused(failures))

    def _stand_back(self, busy: _Busy) -> None:
        self._tell(f"{busy}: again in {busy.seconds:.0f} s")
        self._sleep(busy.seconds)

    def _refuse_credentials(self, status: int) -> None:
        if status in (401, 403):
            raise NotDownloaded(
                f"Amplitude says {status}: compare AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY with the project's "
                "settings, and AMPLITUDE_COHORTS_URL with its region"
            )


def _get(session: Session, url: str, seconds: float, headers: Mapping[str, str] | None = None) -> requests.Response:
    timeout: Any = urllib3.Timeout(total=seconds)  # requests passes it on
    return session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)


def _json(answer: requests.Response) -> dict[str, Any]:
    body = b""
    while len(body) <= _MAX_BYTES and (chunk := answer.raw.read1(65536, decode_content=True)):
        body += chunk
    try:
        document = read_json(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _led(url: str, location: str) -> str:
    """Return where a redirect leads, unless others could read along there who is in the cohort."""
    try:
        url = urljoin(url, location)
        parts = _address(url)
    except ValueError:
        raise NotDownloaded("the link to the cohort's file leads to what is no address") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise NotDownloaded(f"the link to the cohort's file leads to {parts.scheme}://, which is not https")
    return url


def _address(url: str) -> SplitResult:
    """Return the parts of a URL. ValueError when it is none that can be asked at all."""
    prepared = urlsplit(requests.Request("GET", url).prepare().url or "")
    if prepared.port == 0:
        raise ValueError("no port")
    # As the system's resolver does, which raises for a label that is too long.
    (prepared.hostname or "").encode("idna")
    return urlsplit(url)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "it"


def _paused(times: int) -> float:
    return min(_FIRST_PAUSE_SECONDS * _GROWTH ** (times - 1), _LONGEST_PAUSE_SECONDS)
