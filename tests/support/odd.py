"""Unusual values for headers, paths and query strings, and the routes that receive them."""

from __future__ import annotations

import base64
from typing import NamedTuple

LONG = 8000
"""Slightly shorter than the maximum length of a header or URL in gunicorn."""


class Route(NamedTuple):
    """A route with a request that returns 200."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    content_type: str = "application/json"


ROUTES = (
    Route("GET", "/"),
    Route("GET", "/docs"),
    Route("GET", "/openapi.json"),
    Route("GET", "/healthz"),
    Route("GET", "/readyz"),
    Route("GET", "/static/site.css"),
    Route("GET", "/metrics"),
    Route("GET", "/status"),
    Route("GET", "/status.json"),
    Route("GET", "/playground"),
    Route("GET", "/playground/frame"),
    Route(
        "POST",
        "/playground/render",
        body=b'{"template": "{% connected_content https://h/v1/cohorts?user_id=u :save c %}{{ c.ok }}"}',
    ),
    Route("GET", "/v1/recommendations", "user_id=u&rec_id=r"),
    Route("GET", "/v1/properties", "user_id=u"),
    Route("GET", "/v1/cohorts", "user_id=u"),
    Route("HEAD", "/v1/cohorts", "user_id=u"),
    Route("POST", "/v1/cohorts", body=b'{"user_id": "u"}'),
    Route("GET", "/v1/computations", "user_id=u"),
    Route("GET", "/v1/propensities", "user_id=u&prediction_id=p"),
    Route("GET", "/v1/profile", "user_id=u&include=cohorts"),
    Route("DELETE", "/v1/profile", "user_id=stranger"),
    Route("GET", "/v1/userprofile", "user_id=ava&get_cohort_ids=true"),
    Route(
        "POST",
        "/v1/webhooks/amplitude/cohorts",
        body=b'{"cohort_id": "c", "in_cohort": true, "computed_time": "1700000000", "users": []}',
    ),
    Route("POST", "/v1/webhooks/amplitude/users", body=b'{"user_id": "u", "user_properties": {"a": 1}}'),
    Route("POST", "/v1/webhooks/braze/currents", body=b'{"events": []}'),
    Route("GET", "/v1/snapshots"),
    Route("PUT", "/v1/snapshots/c31", body=b'"u"', content_type="application/x-ndjson"),
)

_ANY = (
    b"",
    b"\xa0",
    b"caf\xe9",
    "☃".encode(),
    b"\xff\xfe\x80",
    b"\x01\x1f\x7f",
    b"\x00",
    b"a\tb",
    b"x" * LONG,
    b"9" * LONG,
    b"-1",
    b"1_0",
    b"\xb2",
    b"NaN",
    b"*",
    b'"',
    b'a="',
    b"a=\\",
    b"a*=utf-8''%ff%",
    b"a*0*=x''%; a*99999999999999999999=b",
    b"[" * LONG,
    b"{(<",
    b"," * LONG,
    b";=" * (LONG // 2),
)
_DATES = (
    b"Thu, 01 Jan 2020 00:00:00 +9999999999999999999",
    b"Thu, 99 Foo 99999 99:99:99 GMT",
    b"Thu, 01 Jan 0000 00:00:00 GMT",
    b"Fri, 31 Dec 9999 23:59:59 -2400",
)
_OF_HEADER: dict[str, tuple[bytes, ...]] = {
    "Authorization": tuple(
        scheme + b" " + value
        for scheme in (b"Basic", b"Bearer", b"Api-Key", b"Digest", b"\xff", b"Basic\xa0")
        for value in (
            b"",
            b"\xa0",
            b"caf\xe9",
            "☃".encode(),
            b"\x01",
            b"=",
            b"a",
            b'a="',
            b"a*=utf-8''%ff",
            b"a=b," * (LONG // 4 - 10),
            base64.b64encode(b"\xff\xfe:\x00"),
            base64.b64encode("ü:☃".encode()),
            base64.b64encode(b":"),
        )
    ),
    "X-API-Key": (),
    "Origin": (
        b"null",
        b"http://[",
        b"http://]",
        b"http://[::1",
        b"http://[v1.x]",
        b"http://a]b",
        b"http://x:99999999",
        b"http://\xff",
        b"://",
    ),
    "Sec-Fetch-Site": (b"same-origin", b"cross-site"),
    "Content-Type": (
        b"application/json; charset=\xff",
        b"application/json; charset*=utf-8''%ff",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=\xff",
    ),
    "Content-Length": (b"0", b"+1", b"0x10", b"9" * 5000),
    "Transfer-Encoding": (b"chunked", b"gzip, chunked", b"identity", b"\xff, chunked"),
    "Cache-Control": (
        b"no-cache",
        b"max-age",
        b"max-age=",
        b"max-age=99999999999999999999999",
        b"max-age=" + b"9" * 5000,
        b"max-age=-1",
        b"max-age=\xb2",
        b"max-age*=utf-8''%ff",
        b'no-cache="',
    ),
    "If-None-Match": (b"W/", b'W/"\xff"', b'"a", "'),
    "If-Match": (b"W/", b'W/"\xff"', b'"a", "'),
    "If-Modified-Since": _DATES,
    "If-Unmodified-Since": _DATES,
    "If-Range": _DATES,
    "Range": (b"bytes=0-", b"bytes=-", b"bytes=\xb2-", b"bytes=" + b"9" * 5000 + b"-", b"bytes=1-0"),
    "Accept-Encoding": (b"gzip;q=nan", b"gzip;q=9e999", b"gzip;q=\xb2", b"gzip;q=-1", b"*;q=" + b"9" * 5000),
    "Accept": (b"text/html;q=",),
    "Host": (b"[", b"[::1", b"x:99999999", b"x:y:z", b"..", b"a@b", b"\xe2\x84\x80"),
    "X-Forwarded-For": (b"1.2.3.4, \xff", b"[", b"[::1]:x", b"1.2.3.4.5", b"::1%\xff", b"01.02.03.04"),
    "X-Forwarded-Proto": (b"https", b"gopher"),
    "Forwarded": (b'for="[',),
    "X-Request-ID": (),
    "Priority": (b"u=7", b"u=\xff"),
    "Cookie": (b'a=b; \xff=\xff; c="',),
    "User-Agent": (),
    "Expect": (b"100-continue",),
    "Upgrade": (b"h2c", b"websocket"),
    "SCRIPT_NAME": (b"/v1", b"/x"),
}
HEADERS: dict[str, tuple[bytes, ...]] = {name: _ANY + values for name, values in _OF_HEADER.items()}

QUERIES = (
    b"%",
    b"%f",
    b"%ff",
    b"%00",
    b"user_id=%ff",
    b"user_id=%00",
    b"user_id=%ed%a0%80",
    b"user_id=\xff",
    b"user_id=\xc3\xa9",
    b"user_id=a%0d%0ab",
    b"user_id=%u0041",
    b"user_id=[",
    b"user_id[]=1",
    b"user_id=u;rec_id=r",
    b"user_id=u&" * 700,
    b"user_id=" + b"%41" * 2500,
    b"user_id=" + b"9" * 5000,
    b"v=%ff",
    b"v=\xff",
    b"&" * LONG,
    b"=" * LONG,
    b"??",
    b"#",
)
TARGETS = (
    b"/%",
    b"/%ff",
    b"/%00",
    b"/\xff",
    b"/a\x00b",
    b"/a\tb",
    b"/%0d%0aX:%20y",
    b"/%ed%a0%80",
    b"/%c0%af",
    b"/" * LONG,
    b"//",
    b"//[",
    b"/[",
    b"/#",
    b"/?",
    b"?",
    b"*",
    b"://",
    b"x://",
    b"http://[",
    b"http://[/healthz",
    b"http://x:y/healthz",
    b"http://x/%ff",
    b"/v1/cohorts/%ff",
    b"/v1/cohorts%00?user_id=u",
    b"/v1//cohorts?user_id=u",
    b"/v1/webhooks/amplitude/%ff",
    b"/static/%ff",
    b"/static/%00",
    b"/static/%ed%a0%80.css",
    b"/static/..%2f..%2fpages.py",
    b"/static/" + b"a" * 4000,
    b"/playground/%00",
    b"/docs/%5b",
)
