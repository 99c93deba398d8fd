"""The application for a WSGI server: `gunicorn wsgi:app`."""

import logging
import os
import sys

from proxy import __version__
from proxy.app import create_app
from proxy.monitoring.logs import configure_logging
from proxy.settings import Settings, SettingsError, changed_settings

try:
    settings = Settings.from_env(os.environ)
except SettingsError as error:
    print(error, file=sys.stderr)
    # gunicorn's master restarts a worker that exits with any other code.
    sys.exit(4)
# Not in create_app, because logging belongs to the whole process. Not in gunicorn.conf.py, because every WSGI server
# must write the same log lines, and because log handlers take locks, which must not exist before gevent patches them.
configure_logging(settings.log_level, settings.log_format)
# Each worker process writes this line, so the log also shows a worker that was restarted.
logging.getLogger("proxy").info(
    "started", extra={"version": __version__, "pid": os.getpid(), "settings": changed_settings(settings, os.environ)}
)
app = create_app(settings)
