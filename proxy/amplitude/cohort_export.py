"""Downloads the members of a cohort from Amplitude: requests the export, waits for it and fetches the file.

Source: amplitude.com/docs/apis/analytics/behavioral-cohorts. The link to the file is valid for a week and can be
requested again. It redirects to a storage whose link is valid for a minute and receives no credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from proxy.amplitude.client import retry_after
from proxy.amplitude.streamed_lines import TORN, BrokenOff, lines_of
from proxy.amplitude.transport import Session
from proxy.api.urls import is_confidential, parse_url
from proxy.api.user_rows import NoColumn, Row, read
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.json import read_json

T = TypeVar("T")

_COLUMN = "user_id"
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

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
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
        request_id = self._request_export(cohort_id)
        self._wait_for_export(request_id)
        try:
            self._retry(lambda: self._pass_rows(request_id, take), "the file of the cohort did not come whole")
        except NoColumn as error:
            raise NotDownloaded(f"the file of the cohort is none of Amplitude's: {error}") from None

    def _retry(self, attempt: Callable[[], T], failure: str) -> T:
        """Return the result of `attempt`, which is repeated after a temporary failure. Raises NotDownloaded.

        urllib3's Retry cannot do this: it does not see a failure within a body, and an incomplete file needs a new
        link; it counts 429 and 5xx together, whose limits differ here; it reads the body of an error without a limit.
        """
        failures = busy = 0
        while True:
            try:
                return attempt()
            except _Busy as error:
                busy += 1
                if busy > _BUSY_TRIES:
                    raise NotDownloaded(f"{error}: try again later") from None
                pause, progress = error.seconds, f"{error}: again in {error.seconds:.0f} s"
            except (BrokenOff, *_TRANSPORT_ERRORS) as error:
                failures += 1
                reason = str(error) if isinstance(error, BrokenOff) else type(error).__name__
                if failures >= _TRIES:
                    raise NotDownloaded(f"{failure} ({reason}): try again later") from None
                pause, progress = _pause_after(failures), f"{failure} ({reason}); once more"
            self._tell(progress)
            self._clock.sleep(pause)

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
        for number, row in enumerate(read(lines, _COLUMN), start=1):
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

    def _pass_rows(self, request_id: str, take: Callable[[Iterator[Row]], None]) -> None:
        """Open the file, following the redirect to a storage, and pass its rows to `take`."""
        session, url = self._session, f"{self._base}/api/5/cohorts/request/{quote(request_id, safe='')}/file"
        for _ in range(_MAX_REDIRECTS + 1):
            with self._get(session, url, _FILE_SECONDS, {"Accept-Encoding": "identity"}) as response:
                if response.status_code == 200:
                    take(self._rows(lines_of(response)))
                    return
                if not response.is_redirect:
                    raise BrokenOff(f"{urlsplit(url).hostname} says {response.status_code}")
                url = redirect_target(url, response.headers["Location"])
            session = Session(url)  # without credentials: the link contains its own
        raise NotDownloaded(f"the link to the cohort's file leads from one address to the next, {_MAX_REDIRECTS} times")

    def _get_json(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a response below 500."""

        def attempt() -> tuple[int, dict[str, Any]]:
            with self._get(self._session, self._base + path, _RESPONSE_SECONDS) as response:
                if response.status_code >= 500:
                    raise BrokenOff(f"it says {response.status_code}")
                return response.status_code, _json(response)

        return self._retry(attempt, f"{urlsplit(self._base).hostname} gives no answer")

    @contextmanager
    def _get(
        self, session: Session, url: str, seconds: float, headers: Mapping[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Yield the response of a GET. Raises _Busy for a 429, and NotDownloaded when Amplitude refuses the keys."""
        timeout: Any = urllib3.Timeout(total=seconds)  # requests passes it on
        with session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout) as response:
            if response.status_code == 429:
                pause = retry_after(response.headers.get("Retry-After"), self._clock.now())
                raise _Busy(f"{urlsplit(url).hostname} allows no more such requests for now (429)", pause)
            if response.status_code in (401, 403) and session is self._session:
                raise NotDownloaded(
                    f"Amplitude says {response.status_code}: compare AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY with "
                    "the project's settings, and AMPLITUDE_COHORTS_URL with its region"
                )
            yield response


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        document = read_json(response.raw.read(_MAX_BYTES, decode_content=True))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def redirect_target(url: str, location: str) -> str:
    """Return the URL of a redirect. Raises NotDownloaded when others could read the members of the cohort there."""
    try:
        target = urljoin(url, location)
        parts = parse_url(target)
    except ValueError:
        raise NotDownloaded("the link to the cohort's file leads to what is no address") from None
    if not is_confidential(parts) or (parts.scheme == "http" and url.startswith("https:")):
        raise NotDownloaded(f"the link to the cohort's file leads to {parts.scheme}://, which is not https")
    return target


def _pause_after(attempts: int) -> float:
    return min(_FIRST_PAUSE_SECONDS * _GROWTH ** (attempts - 1), _LONGEST_PAUSE_SECONDS)
