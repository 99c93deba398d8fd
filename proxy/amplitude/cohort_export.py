"""Downloads the members of a cohort from Amplitude, with their user properties if requested.

A download has three steps: request an export, wait until Amplitude has prepared it, and fetch the file.

Source: amplitude.com/docs/apis/analytics/behavioral-cohorts. The link to the file is valid for a week and can be
requested again. The link redirects to a storage URL, which is valid for a minute. Credentials are not sent to the
storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from proxy.amplitude.client import retry_after
from proxy.amplitude.cohort_file import CohortFile, MemberRow, UnusableFile, read_cohort_file
from proxy.amplitude.streamed_lines import GZIP_ERRORS, IncompleteBody, lines_of
from proxy.amplitude.transport import Session
from proxy.api.urls import is_confidential, parse_url
from proxy.api.user_rows import NoColumn, RowTooLong, UnreadableRow
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.json import read_json

T = TypeVar("T")

_RESPONSE_SECONDS = 30.0  # for a response other than the file
_FILE_SECONDS = 900.0
_MAX_BYTES = 1024 * 1024  # of a response other than the file
_MAX_REDIRECTS = 3
MAX_USERS = 2_000_000
"""Amplitude's limit for a cohort download."""
_TRIES = 5
_BUSY_TRIES = 12
"""Attempts after a 429. Amplitude allows 60 requests in ten minutes, so twelve pauses of one minute are enough."""
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 30.0
_GROWTH = 2.0
_JOB_SECONDS = 3600.0
_PROGRESS_SECONDS = 5.0
_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, *GZIP_ERRORS)


class NotDownloaded(Exception):
    """The download of the cohort failed. The text contains the reason and the fix."""


class _Busy(Exception):
    """Amplitude or the storage returned 429. Retry after `seconds`."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class CohortExport:
    """Calls the Behavioral Cohorts API. Passes each line of progress to `on_progress`."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        secret_key: str,
        *,
        on_progress: Callable[[str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base = base_url
        self._session = Session(base_url, HTTPBasicAuth(api_key, secret_key))
        self._on_progress = on_progress
        self._clock = clock

    def download(
        self, cohort_id: str, take: Callable[[CohortFile], None], properties: Sequence[str] | None = ()
    ) -> float:
        """Pass the cohort's file to `take`, and return the time of the request in Unix seconds. Raises NotDownloaded.

        After an incomplete file, `take` is called again with the complete file. `properties`: the names of the
        requested user properties; None for all. Amplitude may time out while it exports all properties.
        """
        requested_at = self._clock.now()
        request_id = self._request_export(cohort_id, properties)
        self._wait_for_export(request_id)
        try:
            self._retry(lambda: self._pass_file(request_id, properties, take), "the cohort file is incomplete")
        except UnusableFile as error:
            raise NotDownloaded(str(error)) from None
        except NoColumn as error:
            raise NotDownloaded(f"the cohort file is not an Amplitude export: {error}") from None
        except RowTooLong as error:
            raise NotDownloaded(
                f"the cohort file is not an Amplitude export: {error}, or export the user ids to a file, and pass the "
                "file as USERS"
            ) from None
        return requested_at

    def _retry(self, attempt: Callable[[], T], failure: str) -> T:
        """Repeat `attempt` after temporary failures, and return its result. Raises NotDownloaded.

        urllib3's Retry ignores failures within a body, counts 429 and 5xx together, and reads the body of an error
        without a limit. An incomplete file also needs a new link.
        """
        failures = busy = 0
        while True:
            try:
                return attempt()
            except _Busy as error:
                busy += 1
                if busy > _BUSY_TRIES:
                    raise NotDownloaded(f"{error}; try again later") from None
                pause, progress = error.seconds, f"{error}; retrying in {error.seconds:.0f} s"
            except (IncompleteBody, UnreadableRow, *_TRANSPORT_ERRORS) as error:
                failures += 1
                reason = str(error) if isinstance(error, IncompleteBody | UnreadableRow) else type(error).__name__
                if failures >= _TRIES:
                    raise NotDownloaded(f"{failure} ({reason}); try again later") from None
                pause, progress = _pause_after(failures), f"{failure} ({reason}); retrying"
            self._on_progress(progress)
            self._clock.sleep(pause)

    def _request_export(self, cohort_id: str, properties: Sequence[str] | None) -> str:
        query = (
            ""
            if properties == ()
            else "?" + urlencode([("props", 1), *(("propKeys", key) for key in properties or ())], errors="replace")
        )
        status, document = self._get_json(f"/api/5/cohorts/request/{_quoted(cohort_id)}{query}")
        if status in (400, 404) or str(document.get("cohort_id", cohort_id)) != cohort_id:
            raise NotDownloaded(
                f"cohort {cohort_id!r} does not exist in Amplitude; copy the id from the end of the cohort's URL in "
                "Amplitude"
            )
        request_id = document.get("request_id")
        if status not in (200, 202) or not isinstance(request_id, str | int):
            raise NotDownloaded(
                f"Amplitude returned status {status} for the request to export the cohort; try again later"
            )
        self._on_progress("export of the cohort requested")
        return str(request_id)

    def _wait_for_export(self, request_id: str) -> None:
        """Wait until the export is ready."""
        path = f"/api/5/cohorts/request-status/{_quoted(request_id)}"
        started = self._clock.monotonic()
        polls = 0
        while True:
            status, document = self._get_json(path)
            if status == 200 and document.get("async_status", "JOB COMPLETED") == "JOB COMPLETED":
                return
            if status != 202:
                raise NotDownloaded(
                    f"Amplitude cannot export the cohort ({document.get('async_status', status)!r}); try again later"
                )
            waited = self._clock.monotonic() - started
            if waited > _JOB_SECONDS:
                raise NotDownloaded(f"the export was not ready after {waited / 60:.0f} min; try again later")
            polls += 1
            self._on_progress(f"Amplitude is exporting the cohort ({waited:.0f} s)")
            self._clock.sleep(_pause_after(polls))

    def _file(self, lines: Iterator[str], properties: Sequence[str] | None) -> CohortFile:
        """Return the file, with a limit on the number of rows."""
        file = read_cohort_file(lines, properties)

        def rows() -> Iterator[MemberRow]:
            progress_at, number = self._clock.monotonic(), 0
            incomplete_row: MemberRow | None = None
            for number, member in enumerate(file.rows, start=1):
                if number > MAX_USERS:
                    raise NotDownloaded(
                        f"the cohort file has more than {MAX_USERS:,} users, Amplitude's limit; split the cohort"
                    )
                if incomplete_row is not None:  # other rows follow, so the file did not end within this row
                    yield incomplete_row
                incomplete_row = member if member.row.is_incomplete else None
                if incomplete_row is None:
                    yield member
                if (now := self._clock.monotonic()) - progress_at >= _PROGRESS_SECONDS:
                    progress_at = now
                    self._on_progress(f"members received: {number:,}")
            if incomplete_row is not None:
                raise IncompleteBody(f"line {incomplete_row.row.line}: {incomplete_row.row.fault}")
            self._on_progress(f"members in the cohort: {number:,}")

        return replace(file, rows=rows())

    def _pass_file(self, request_id: str, properties: Sequence[str] | None, take: Callable[[CohortFile], None]) -> None:
        """Open the file, follow the redirect to the storage, and pass the file to `take`."""
        session, url = self._session, f"{self._base}/api/5/cohorts/request/{_quoted(request_id)}/file"
        for _ in range(_MAX_REDIRECTS + 1):
            with self._get(session, url, _FILE_SECONDS, {"Accept-Encoding": "identity"}) as response:
                if response.status_code == 200:
                    take(self._file(lines_of(response), properties))
                    return
                if not response.is_redirect:
                    raise IncompleteBody(f"{urlsplit(url).hostname} returned status {response.status_code}")
                url = redirect_target(url, response.headers["Location"])
            session = Session(url)  # without credentials, because the link contains them
        raise NotDownloaded(f"the link to the cohort file redirects more than {_MAX_REDIRECTS} times; try again later")

    def _get_json(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a response with a status below 500."""

        def attempt() -> tuple[int, dict[str, Any]]:
            with self._get(self._session, self._base + path, _RESPONSE_SECONDS) as response:
                if response.status_code >= 500:
                    raise IncompleteBody(f"status {response.status_code}")
                return response.status_code, _json(response)

        return self._retry(attempt, f"{urlsplit(self._base).hostname} does not answer")

    @contextmanager
    def _get(
        self, session: Session, url: str, seconds: float, headers: Mapping[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Yield the response of a GET. Raises _Busy for a 429, and NotDownloaded if Amplitude rejects the keys."""
        timeout: Any = urllib3.Timeout(total=seconds)  # requests passes it on
        with session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout) as response:
            if response.status_code == 429:
                pause = retry_after(response.headers.get("Retry-After"), self._clock.now())
                raise _Busy(f"{urlsplit(url).hostname} limits the rate of requests (429)", pause)
            if response.status_code in (401, 403) and session is self._session:
                raise NotDownloaded(
                    f"Amplitude returned status {response.status_code}; compare AMPLITUDE_API_KEY and "
                    "AMPLITUDE_SECRET_KEY with the project's settings, and AMPLITUDE_COHORTS_URL with the project's "
                    "region"
                )
            yield response


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        document = read_json(response.raw.read(_MAX_BYTES, decode_content=True))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def redirect_target(url: str, location: str) -> str:
    """Return the URL of a redirect. Raises NotDownloaded if the URL is invalid or not confidential."""
    try:
        target = urljoin(url, location)
        parts = parse_url(target)
    except ValueError:
        parts = None
    if parts is None or "\\" in parts.netloc:  # urllib3 ends the host at a backslash
        raise NotDownloaded("the link to the cohort file redirects to an invalid URL; try again later")
    if not is_confidential(parts) or (parts.scheme == "http" and urlsplit(url).scheme == "https"):
        raise NotDownloaded(
            f"the link to the cohort file redirects to {parts.scheme}:// instead of https://; check "
            "AMPLITUDE_COHORTS_URL"
        )
    return target


def _quoted(id: str) -> str:
    """Return an id for a path. Half of a surrogate pair becomes "?", which occurs in no Amplitude id."""
    return quote(id, safe="", errors="replace")


def _pause_after(attempts: int) -> float:
    return min(_FIRST_PAUSE_SECONDS * _GROWTH ** (attempts - 1), _LONGEST_PAUSE_SECONDS)
