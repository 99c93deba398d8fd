"""The paragraphs of the interface's contract, and the check that tests name them.

A test states which paragraph it holds to by `@pytest.mark.contract("1 envelope")`. The number is the section: 1 data
routes, 2 authentication, 3 other routes, 4 settings, 5 command line.
"""

from __future__ import annotations

from collections.abc import Iterable

PARAGRAPHS = {
    "1 routes": "Every data route by GET and POST; a trailing slash or `//` is never redirected.",
    "1 head": "HEAD is GET without the body.",
    "1 recommendations": "One `rec_id` or several; each `rec_type` is a type of its own.",
    "1 profile": "The union of the sections named; no other section is fetched.",
    "1 parameters": "At least one id is present; values are trimmed and limited.",
    "1 repeated parameters": "A known parameter comes once; an unknown one is ignored.",
    "1 lists": "Comma separated lists keep their order, without blanks and repeats, up to 20 entries.",
    "1 json bodies": "A JSON body is one plain object of texts, numbers and lists.",
    "1 ignored bodies": "GET ignores the body; an empty POST needs no type.",
    "1 request cache-control": "`no-cache` and `max-age` ask for an answer no older than that.",
    "1 identity": "A record is kept under the pair of ids as asked.",
    "1 envelope": "Every key is there, always, with its type.",
    "1 as_of": "The body of one copy stays the same bytes.",
    "1 control group": "The control group gets no items.",
    "1 liquid-safe names": "Keys are safe for Liquid, and settled among all properties.",
    "1 cohorts": "Membership of the cohorts asked, or of all.",
    "1 computations": "A set of computations is one part; canonical decimals are numbers.",
    "1 aliases": "A name stands for an id of Amplitude.",
    "1 propensities": "Predictions in the order asked.",
    "1 error words": "Each fault has its word.",
    "1 unknown users": "An unknown user is recognised by the body, for every section.",
    "1 recovery": "Answers are whole again soon after a fault or a 429 ends.",
    "1 exposures": "A recommendation is fetched later only for `on_error=retry`.",
    "1 status blank id": "A blank id is a 200 without a call.",
    "1 status 401": "No or wrong credentials are a 401, always.",
    "1 status 4xx": "403, 404, 405, 413 and 415.",
    "1 status 500": "`on_error=retry` gets a 500 with `Retry-After`.",
    "1 headers": "Age, Cache-Control, ETag, X-Request-ID, X-Amplitude-Calls.",
    "1 cache-status": "Every row of the table.",
    "1 size": "Bodies are under 1 MB.",
    "1 drop-in": "`/v1/userprofile` answers as Amplitude does.",
    "2 authentication": "Four schemes, rotation, hashes.",
    "2 request ids": "A background call logs under the request that caused it.",
    "2 secrets": "No log line holds a secret or an id.",
    "3 probes": "`/healthz` and `/readyz`.",
    "4 workers": "Without `REDIS_URL` one worker process runs.",
    "3 openapi": "The document has every route, and is true.",
    "3 docs": "The page is interactive and loads nothing from elsewhere.",
    "3 landing page": "The landing page says what this is and links to the docs.",
    "4 settings": "Settings are read from the environment; every fault is reported at once.",
    "4 trusted proxies": "`TRUSTED_PROXY_HOPS`.",
    "3 playground access": "Credentials, networks, own pages and own routes only.",
    "3 playground": "It renders as Braze's engine does, within limits.",
    "5 preview": "The command `preview`.",
    "3 forget": "`DELETE /v1/profile` reaches every process, Redis, calls in flight and the backlog.",
    "5 forget": "The command `forget`.",
    "5 warm": "Every user, at the chosen share; live requests first.",
    "5 warm resumed": "Stopped and resumed, unreadable rows, exposures, exit codes.",
    "5 warm cohort": "The download of a cohort, whatever goes wrong.",
    "5 warm faults": "A missing column, Redis that is gone, Ctrl-C.",
    "4 warm freshness": "Warmed users are fresh for `CACHE_WARM_SECONDS`.",
    "3 webhooks": "Pushed values answer, with their own age.",
    "3 webhook order": "Any order, repeats, portions, whichever process.",
    "3 webhook faults": "Malformed users and bodies, 8 MiB, credentials, networks.",
    "3 webhook limits": "What one body, or one user, may cost.",
    "3 webhook processes": "Every process hears of a push, by one round trip.",
    "3 webhook forget": "Pushed values are forgotten with the user.",
    "3 webhook templates": "The documented templates and the default payloads.",
    "5 plan": "The command `plan`.",
    "5 commands": "The other commands.",
    "1 deadline": "Every data answer leaves within the deadline.",
    "4 quota": "Amplitude never sees more calls than the quota.",
    "1 backlog": "Missed users are fetched later with unused quota.",
    "1 outages": "Calls stop while Amplitude fails.",
    "4 redis": "One quota, one record, one call for all processes.",
    "4 redis faults": "Redis gone, slow, full, read-only, back.",
    "4 stale": "Stale-while-revalidate and stale-if-error.",
    "3 metrics": "Guarded, Prometheus text, all workers together, no id or secret.",
    "3 status": "Findings and what to do, the last hour, bounded.",
    "1 mixed-up answers": "No user gets another user's answer, whatever arrives on a connection.",
    "1 another user": "An answer about another user is invalid and not kept; `ACCEPT_MAPPED_USERS`.",
    "3 playground process": "Rendering delays no other answer and leaves no process behind.",
    "3 grafana": "The dashboard draws metrics that exist.",
}


def unknown(marked: Iterable[str]) -> set[str]:
    """Return the names in `marked` that are no paragraph."""
    return set(marked) - PARAGRAPHS.keys()


def untested(marked: Iterable[str]) -> set[str]:
    """Return the paragraphs that no test in `marked` names."""
    return PARAGRAPHS.keys() - set(marked)
