"""How gunicorn runs the service. Found beside wsgi.py without being named."""

import os
import sys

from proxy.profiles import MAX_WAITING
from proxy.settings import Settings, SettingsError

try:
    settings = Settings.from_env(os.environ)
except SettingsError as error:
    # Before anything binds, and before a worker could be started again and again.
    print(error, file=sys.stderr)
    sys.exit(1)

# A platform that sets PORT reaches us from outside; somebody who tries us out at home does not.
everywhere = "0.0.0.0"  # noqa: S104
bind = f"{everywhere if os.environ.get('PORT', '').strip() else '127.0.0.1'}:{settings.port}"
# One process: cache, quota and single-flight are its own, and two of them would spend the quota twice.
workers = 1
# A caller that waits for Amplitude holds a thread, so cached answers get some of their own beside those: 16 serve as
# many as more would. They start when needed. At 600 busy connections 512 threads let p99 rise from 0.5 to 0.9 s, while
# 48 and 160 made no difference at 256; so no more than it takes for a burst of a few hundred askers to wait together.
worker_class = "proxy.worker.Worker"
threads = MAX_WAITING + 16
worker_connections = 4000
backlog = 2048
# Longer than the 90 s for which Heroku's router keeps an idle connection: who closes first must not be we.
keepalive = 100
graceful_timeout = 25
control_socket_disable = True
# Room for an id of 512 characters of any script, percent-encoded; more goes into the body of a POST.
limit_request_line = 8190
# The application logs each request itself: gunicorn's line would hold the query string, and with it user ids.
accesslog = None


def on_starting(server):
    """Say what differs from what was asked for."""
    if os.environ.get("WEB_CONCURRENCY", "1") != "1":
        server.log.info("WEB_CONCURRENCY is ignored: one worker process keeps the quota exact")
    if os.environ.get("REDIS_URL"):
        server.log.warning("REDIS_URL is not used yet: cache and quota are this process's own")
