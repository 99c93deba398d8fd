"""gunicorn's configuration. gunicorn reads it from the current folder."""

import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

# The master imports this, and gevent's patches come in the worker: nothing that takes a lock may be imported here.
from proxy.settings import Settings, SettingsError, renamed_variables

try:
    settings = Settings.from_env(os.environ)
except SettingsError as error:
    # Fail before gunicorn binds the port, and before its master restarts workers.
    print(error, file=sys.stderr)
    sys.exit(1)

shared = settings.redis_url is not None

# A platform that sets PORT connects from outside. Without it only this machine can connect.
everywhere = "0.0.0.0"  # noqa: S104
bind = f"{everywhere if os.environ.get('PORT', '').strip() else '127.0.0.1'}:{settings.port}"
# Without Redis each process has its own cache and quota: two processes would spend the quota twice.
workers = settings.web_concurrency if shared else 1
# gevent with fair turns, because slow clients and waiting requests use up threads. p99 of cached answers at
# 1,000 a second over 2,000 connections, while 90 callers a second wait for calls of 1.5 s: 21 ms, with 208 threads
# 1,320; beside 1,000 clients that send headers slowly: 4 ms, with threads three of four got no answer. 64 busy
# connections: 2,840 answers a second at 32 ms; with threads 2,350 at 87; with gunicorn's own gevent 2,970 at 720 ms.
# The sync and tornado workers run one request at a time. Repeat with `python -m tests.bench.workers`.
worker_class = "proxy.server.worker.Worker"
# Per worker: 2,000 kept-alive connections, 1,000 slow ones, and short ones.
worker_connections = 4000
# A send opens all of Braze's connections at once. The system limits this (net.core.somaxconn, usually 4096).
backlog = 4096
# Longer than the 90 s for which Heroku's router keeps an idle connection: the router must close first.
keepalive = 100
graceful_timeout = 25
control_socket_disable = True
# Enough for an id of 512 percent-encoded characters of any script; longer requests use the body of a POST.
limit_request_line = 8190
# The C parser, if installed, bypasses the limit on all headers together (proxy/server/connection.py).
http_parser = "python"
# The application logs each request: gunicorn's line would contain the query string, and so user ids.
accesslog = None

# Besides clients, a worker has up to 256 connections to Amplitude and a few files.
_OTHER_FILES = 400


def on_starting(server):
    """Make room for the connections, and say what differs from what was asked for."""
    if not shared and settings.web_concurrency > 1:
        server.log.info("WEB_CONCURRENCY is ignored without REDIS_URL: one worker process keeps the quota exact")
    for warning in renamed_variables(os.environ):
        server.log.warning(warning)
    # The metrics of several workers are added up from files, a new folder of them at each start. One needs none.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    if server.cfg.workers > 1:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="connected-content-proxy-metrics-")
    required = server.cfg.worker_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= required:
        return
    allowed = required if hard == resource.RLIM_INFINITY else min(required, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < required:
        places = max(allowed - _OTHER_FILES, allowed // 2)
        server.cfg.set("worker_connections", places)
        server.log.warning(
            "a process may open %d files: a worker takes %d connections, not %d; allow %d (ulimit -Hn, LimitNOFILE=)",
            allowed, places, required - _OTHER_FILES, required,
        )  # fmt: skip


def child_exit(server, worker):
    """Remove the gauges of an ended worker; its counters stay."""
    # Like prometheus_client.mark_process_dead, which takes locks when imported.
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for file in Path(folder).glob(f"gauge_live*_{worker.pid}.db"):
            file.unlink(missing_ok=True)


def on_exit(server):
    """Delete the files of the metrics."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shutil.rmtree(folder, ignore_errors=True)
