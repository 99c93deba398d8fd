"""Downloads the members of a cohort from Amplitude: requests the export, waits for it and fetches the file.

Source: amplitude.com/docs/apis/analytics/behavioral-cohorts. The link to the file is valid for a week and can be
requested again. It redirects to a storage whose link is valid for a minute and receives no credentials.
"""

from __future__ import annotations

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
from proxy.api.urls import is_confidential
from proxy.api.user_rows import NoColumn, Row, read
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.json import read_json

COLUMN = "user_id"
_RESPONSE_SECONDS = 30.0  # for a response other than the file
_FILE_SECONDS = 900.0
_MAX_BYTES = 1024 * 1024  # of a response other than the file
_MAX_REDIRECTS = 3
_TRIES = 5
_BUSY_TRIES = 12
"""After a 429. Amplitude allows 60 requests in ten minutes, so twelve pauses of a minute must suffice."""
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 30.0
_GROWTH = 1.5
_JOB_SECONDS = 3600.0
_PROGRESS_SECONDS = 5.0
_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, *TORN)


class NotDownloaded(Exception):
    """The cohort was not downloaded. The text has the reason and the fix."""


class _Busy(Exception):
    """Amplitude or the storage returned 429: retry after `seconds`."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"{host} allows no more such requests for now (429)")
        self.seconds = seconds


class CohortExport:
    """A client of the Behavioral Cohorts API. `tell` is called with each line of progress."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        secret_key: str,
        *,
        tell: Callable[[str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base = base_url
        self._session = Session(base_url, HTTPBasicAuth(api_key, secret_key))
        self._tell = tell
        self._clock = clock

    def download(self, cohort_id: str, take: Callable[[Iterator[Row]], None]) -> None:
        """Pass the rows of the cohort's file to `take`, again from the first row after an incomplete file.

        Raises NotDownloaded.
        """
        try:
            _address(self._base)
        except ValueError:
            raise NotDownloaded(f"AMPLITUDE_COHORTS_URL, {self._base}, is no address") from None
        request_id = self._request_export(cohort_id)
        self._wait_for_export(request_id)
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
                self._wait_after_429(error)
            except (BrokenOff, *_TRANSPORT_ERRORS) as error:
                failures += 1
                why = str(error) if isinstance(error, BrokenOff) else type(error).__name__
                if failures >= _TRIES:
                    raise NotDownloaded(f"the file of the cohort did not come whole ({why}): run it again") from None
                self._tell(f"the file did not come whole ({why}); once more")
                self._clock.sleep(_pause_after(failures))

    def _request_export(self, cohort_id: str) -> str:
        status, document = self._get_json(f"/api/5/cohorts/request/{quote(cohort_id, safe='')}")
        if status in (400, 404) or str(document.get("cohort_id", cohort_id)) != cohort_id:
            raise NotDownloaded(
                f"Amplitude has no cohort {cohort_id!r}: its id is the last part of its address in Amplitude"
            )
        request_id = document.get("request_id")
        if status not in (200, 202) or not isinstance(request_id, str | int):
            raise NotDownloaded(f"Amplitude says {status} to the request for the cohort")
        self._tell("cohort requested")
        return str(request_id)

    def _wait_for_export(self, request_id: str) -> None:
        """Wait until Amplitude has prepared the export."""
        path = f"/api/5/cohorts/request-status/{quote(request_id, safe='')}"
        started = self._clock.monotonic()
        polls = 0
        while True:
            status, document = self._get_json(path)
            if status == 200 and document.get("async_status", "JOB COMPLETED") == "JOB COMPLETED":
                return
            if status != 202:
                raise NotDownloaded(f"Amplitude does not prepare the cohort: {document.get('async_status', status)}")
            waited = self._clock.monotonic() - started
            if waited > _JOB_SECONDS:
                raise NotDownloaded(f"Amplitude has not prepared the cohort in {waited / 60:.0f} min: try again later")
            polls += 1
            self._tell(f"Amplitude prepares the cohort, {waited:.0f} s so far")
            self._clock.sleep(_pause_after(polls))

    def _rows(self, lines: Iterator[str]) -> Iterator[Row]:
        progress_at, number = self._clock.monotonic(), 0
        torn: Row | None = None
        for number, row in enumerate(read(lines, COLUMN), start=1):
            if torn is not None:
                yield torn  # other rows follow, so it is one bad row and not the end of the file
            torn = row if row.torn else None
            if torn is None:
                yield row
            if (now := self._clock.monotonic()) - progress_at >= _PROGRESS_SECONDS:
                progress_at = now
                self._tell(f"{number:,} members so far")
        if torn is not None:
            raise BrokenOff(f"line {torn.line} {torn.fault}")
        self._tell(f"members in the cohort: {number:,}")

    @contextmanager
    def _file(self, request_id: str) -> Iterator[Iterator[str]]:
        """Open the file, following the redirect to a storage, and yield its lines."""
        session, url = self._session, f"{self._base}/api/5/cohorts/request/{quote(request_id, safe='')}/file"
        for _ in range(_MAX_REDIRECTS + 1):
            with _get(session, url, _FILE_SECONDS, {"Accept-Encoding": "identity"}) as response:
                if response.status_code == 200:
                    yield lines_of(response)
                    return
                if response.status_code == 429:
                    raise _Busy(_host(url), retry_after(response.headers.get("Retry-After"), self._clock.now()))
                if not response.is_redirect:
                    if session is self._session:
                        self._refuse_credentials(response.status_code)
                    raise BrokenOff(f"{_host(url)} says {response.status_code}")
                url = redirect_target(url, response.headers["Location"])
            session = Session(url)  # without credentials: the link contains its own
        raise NotDownloaded(f"the link to the cohort's file leads from one address to the next, {_MAX_REDIRECTS} times")

    def _get_json(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a response. Retries after a temporary failure."""
        failures = busy = 0
        while True:
            try:
                with _get(self._session, self._base + path, _RESPONSE_SECONDS) as response:
                    status, document = response.status_code, _json(response)
                    wait = retry_after(response.headers.get("Retry-After"), self._clock.now())
            except _TRANSPORT_ERRORS as error:
                why = type(error).__name__
            else:
                self._refuse_credentials(status)
                if status == 429 and busy < _BUSY_TRIES:
                    busy += 1
                    self._wait_after_429(_Busy("Amplitude", wait))
                    continue
                if status < 500 and status != 429:
                    return status, document
                why = f"it says {status}"
            failures += 1
            if failures >= _TRIES or busy >= _BUSY_TRIES:
                raise NotDownloaded(f"{_host(self._base)} gives no answer ({why}): try again later")
            self._tell(f"{_host(self._base)} gives no answer ({why}); once more")
            self._clock.sleep(_pause_after(failures))

    def _wait_after_429(self, busy: _Busy) -> None:
        self._tell(f"{busy}: again in {busy.seconds:.0f} s")
        self._clock.sleep(busy.seconds)

    def _refuse_credentials(self, status: int) -> None:
        if status in (401, 403):
            raise NotDownloaded(
                f"Amplitude says {status}: compare AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY with the project's "
                "settings, and AMPLITUDE_COHORTS_URL with its region"
            )


def _get(session: Session, url: str, seconds: float, headers: Mapping[str, str] | None = None) -> requests.Response:
    timeout: Any = urllib3.Timeout(total=seconds)  # requests passes it on
    return session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)


def _json(response: requests.Response) -> dict[str, Any]:
    body = b""
    while len(body) <= _MAX_BYTES and (chunk := response.raw.read1(65536, decode_content=True)):
        body += chunk
    try:
        document = read_json(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def redirect_target(url: str, location: str) -> str:
    """Return the URL of a redirect. Raises NotDownloaded when others could read the members of the cohort there."""
    try:
        url = urljoin(url, location)
        parts = _address(url)
    except ValueError:
        raise NotDownloaded("the link to the cohort's file leads to what is no address") from None
    if not is_confidential(parts):
        raise NotDownloaded(f"the link to the cohort's file leads to {parts.scheme}://, which is not https")
    return url


def _address(url: str) -> SplitResult:
    """Return the parts of a URL. Raises ValueError when no request can be sent to it."""
    prepared = urlsplit(requests.Request("GET", url).prepare().url or "")
    if prepared.port == 0:
        raise ValueError("no port")
    # The system's resolver does the same, and raises for a label that is too long.
    (prepared.hostname or "").encode("idna")
    return urlsplit(url)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "it"


def _pause_after(attempts: int) -> float:
    return min(_FIRST_PAUSE_SECONDS * _GROWTH ** (attempts - 1), _LONGEST_PAUSE_SECONDS)
