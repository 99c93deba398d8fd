"""Builds the OpenAPI document of the JSON routes. Each module in `_MODULES` describes the routes of one subject."""

from __future__ import annotations

from proxy import __version__
from proxy.api.openapi import currents, data, monitoring, playground, snapshots, webhooks
from proxy.api.openapi.parameters import REQUEST_HEADERS, SECURITY_SCHEMES
from proxy.api.openapi.responses import HEADERS, SHARED
from proxy.api.openapi.schemas import Schema, components, for_generators, word_schemas

_MODULES = (data, webhooks, currents, snapshots, monitoring, playground)


def document() -> Schema:
    """Return the OpenAPI document."""
    paths = {path: item for module in _MODULES for path, item in module.paths().items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Connected Content proxy",
            "version": __version__,
            "summary": "Amplitude's user data as cached JSON for Braze Connected Content.",
            "description": _ABOUT,
        },
        "servers": [{"url": "/", "description": "The host of this document."}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": for_generators(_with_scopes(paths)),
        "components": {
            "schemas": for_generators(components() | data.schemas()) | word_schemas(),
            "responses": SHARED,
            "headers": HEADERS,
            "parameters": REQUEST_HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


_ABOUT = """\
Every data route accepts `GET`, `POST` and `HEAD`. `HEAD` returns the headers of `GET`. A trailing slash is accepted,
and the service never redirects. This document has one simple form of each value, for generated clients.

At least one of `user_id` and `device_id` must be present. Values are trimmed. Unknown parameters are ignored.

A list in the URL or in a form is comma-separated (`rec_id=a,b`), or repeated (`rec_id=a&rec_id=b`), or both. In JSON,
a list is an array. Any other known parameter that occurs twice causes a 400, and so does a parameter in both the URL
and the body.

Every error has the type `application/problem+json`. `code` names the kind of problem, and `parameter` the parameter.

If data is missing, the answer has status 200, `ok: false`, the reason in `error`, and every key with its empty value.
With `on_error=retry`, the status is 500, so that Braze's `:retry` tries again. For `error: not_available`, which occurs
only in services without the User Profile API, the status stays 200, because a retry cannot bring the data.

A user is anonymous if all ids are blank. The answer then has status 200 and `error: blank_id`, without a call
to Amplitude.

A key has one scope, which the `security` of each operation names:

- `read`: the data routes, the playground, the status and the metrics.
- `push`: the webhooks and the snapshots.
- `admin`: every route, `DELETE` included.

A key with another scope gets a 403 with `code: scope`.

An unknown path causes a 404. A method that the route does not accept causes a 405. A snapshot that is older than the
installed one causes a 409.

On every route, a URL over 8 KiB causes a 414: send the parameters in the body of a POST. More than 100 headers, a
header over 8 KiB, or more than 32 KiB of headers in total causes a 431. Answers with status 414 or 431 have no
`X-Request-ID`.

Each recommendation that is fetched logs an exposure in Amplitude. A cached answer logs none. Requests from this page
log exposures too.\
"""

_TAGS = {
    "Data": "The data of a user in Amplitude, for templates.",
    "Drop-in": "Amplitude's own parameters and JSON, from the same cache and within the same quota.",
    "Webhooks": "Data that Amplitude pushes. The service answers requests for this data without a call to Amplitude. "
    "Events that Braze pushes. The service sends them to Amplitude.",
    "Snapshots": "The members of cohorts, from a download. The service answers requests for these cohorts without a "
    "call to Amplitude.",
    "Operation": "Routes for platforms and monitors. These requests make no call to Amplitude.",
    "Playground": "The preview of a message.",
}


def _with_scopes(paths: dict[str, Schema]) -> dict[str, Schema]:
    """Add the scope of the key to the description of each operation that needs one."""
    for operation in (operation for operations in paths.values() for operation in operations.values()):
        for scope in {scope for scheme in operation["security"] for scopes in scheme.values() for scope in scopes}:
            sentence = f"Needs a key with the scope `{scope}`" + (" or `admin`." if scope != "admin" else ".")
            operation["description"] = f"{operation.get('description', '')} {sentence}".strip()
    return paths
