"""gunicorn's configuration. gunicorn reads it from the current folder."""

import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from gunicorn.glogging import Logger
from gunicorn.sock import close_sockets, create_sockets

# The master imports this file, but gevent patches locks only in the worker. So import no module that takes a lock.
from proxy.monitoring.log_format import SafeFormatter
from proxy.settings import Settings, SettingsError, renamed_variables

try:
    settings = Settings.from_env(os.environ)
except SettingsError as error:
    # Fail before gunicorn binds the port, and before its master restarts workers.
    print(error, file=sys.stderr)
    sys.exit(1)

shared = settings.redis_url is not None

# A platform that sets PORT connects from outside. Without PORT, only this machine can connect.
all_interfaces = "0.0.0.0"  # noqa: S104
bind = f"{all_interfaces if os.environ.get('PORT', '').strip() else '127.0.0.1'}:{settings.port}"
# Without Redis, each process has its own cache and quota, so two processes would spend the quota twice.
workers = settings.web_concurrency if shared else 1
# Slow clients and waiting requests would use up threads, so the worker uses gevent, with fair scheduling.
# - p99 of cached answers at 1,000 a second over 2,000 connections, while 90 requests a second wait for calls of 1.5 s:
#   21 ms; with 208 threads 1,320 ms.
# - p99 of cached answers while 1,000 clients send headers slowly: 4 ms; with threads, three of four got no answer.
# - 64 busy connections: 2,840 answers a second with a p99 of 32 ms; with threads 2,350 a second and 87 ms; with
#   gunicorn's own gevent worker 2,970 a second and 720 ms.
# The sync and tornado workers run one request at a time. Repeat the measurements with `python -m tests.bench.workers`.
worker_class = "proxy.server.worker.Worker"
# Per worker: 2,000 kept-alive connections, 1,000 slow connections, and short connections.
worker_connections = 4000
# A send opens all of Braze's connections at once. The system limits this (net.core.somaxconn, usually 4096).
backlog = 4096
# Longer than the 90 s for which Heroku's router keeps an idle connection: the router must close first.
keepalive = 100
graceful_timeout = 25
control_socket_disable = True
# By default, a peer on loopback could change the path or scheme of a request by headers such as SCRIPT_NAME.
forwarder_headers = ""
secure_scheme_headers = {}
# These two lists are empty, so which peer is trusted has no effect. Any other value makes gunicorn parse the address of
# the peer for each request, which costs 3 % of an answer's processor time.
forwarded_allow_ips = "*"
# Enough for an id of 512 percent-encoded characters of any script; longer requests use the body of a POST.
limit_request_line = 8190
# By default, gunicorn uses the C parser gunicorn_h1c if it is installed. That parser accepts several spaces in a
# request line, and bypasses the limit on all headers together (proxy/server/connection.py).
http_parser = "python"
# A file would be sent before the head of its answer, which waits for the body (proxy/server/connection.py).
sendfile = False
# The application logs each request: gunicorn's line would contain the query string, and so user ids.
accesslog = None


class ServiceLogger(Logger):
    """Writes gunicorn's own lines in the format of the service."""

    def setup(self, cfg):
        """Configure the handlers, also after a reload."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(SafeFormatter(settings.log_format))


logger_class = ServiceLogger

# Besides clients, a worker has up to 256 connections to Amplitude and a few files.
_OTHER_FILES = 400


def on_starting(server):
    """Open the listeners, raise the limit on open files, and log each setting that is ignored or reduced."""
    if not shared and settings.web_concurrency > 1:
        server.log.info("WEB_CONCURRENCY is ignored without REDIS_URL; set REDIS_URL to run several worker processes")
    for warning in renamed_variables(os.environ):
        server.log.warning(warning)
    # Several workers write their metrics into files, in a new folder at each start. A single worker needs no files.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    if server.cfg.workers > 1:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="connected-content-proxy-metrics-")
    open_listeners(server)
    required = server.cfg.worker_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= required:
        return
    allowed = required if hard == resource.RLIM_INFINITY else min(required, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < required:
        connections = max(allowed - _OTHER_FILES, allowed // 2)
        server.cfg.set("worker_connections", connections)
        server.log.warning(
            "the limit of %d open files allows a worker %d connections instead of %d; raise the limit to %d "
            "(ulimit -Hn, LimitNOFILE=)",
            allowed, connections, required - _OTHER_FILES, required,
        )  # fmt: skip


def open_listeners(server):
    """Open a listener for each worker, among which Linux distributes the connections.

    With one listener for all workers, an idle worker takes nearly all connections if it accepts many at once, and new
    connections wait for seconds if it accepts one at a time. gunicorn's own reuse_port opens the listeners in the
    workers: the connections that a killed worker has not accepted yet would be lost.
    """
    inherited = server.master_pid or "LISTEN_FDS" in os.environ
    is_tcp = all(isinstance(address, tuple) for address in server.cfg.address)
    if server.cfg.workers == 1 or inherited or not is_tcp or sys.platform != "linux":
        return
    # With SO_REUSEPORT, a second service on the same port would not fail, but take connections of the first.
    close_sockets(create_sockets(server.cfg, server.log))
    server.cfg.set("reuse_port", True)
    server.LISTENERS = [sock for _ in range(server.cfg.workers) for sock in create_sockets(server.cfg, server.log)]
    server.cfg.set("reuse_port", False)


def pre_fork(server, worker):
    """Assign to the worker the listeners that the fewest workers have."""
    number, per_worker = len(server.LISTENERS), len(server.cfg.address)
    if server.systemd or number % per_worker:
        per_worker = number  # all workers share the listeners
    choices = [range(first, first + per_worker) for first in range(0, number, per_worker)]
    assigned = Counter(other.own_listeners for other in server.WORKERS.values())
    worker.own_listeners = min(choices, key=lambda choice: assigned[choice])


def child_exit(server, worker):
    """Delete the gauges of a worker that has ended, and keep its counters."""
    # Replaces prometheus_client.mark_process_dead, whose import takes locks.
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for file in Path(folder).glob(f"gauge_live*_{worker.pid}.db"):
            file.unlink(missing_ok=True)


def on_exit(server):
    """Delete the files of the metrics."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shutil.rmtree(folder, ignore_errors=True)
