"""The application for a WSGI server: `gunicorn wsgi:app`."""

import os
import sys

from proxy.app import create_app
from proxy.monitoring.logs import configure_logging
from proxy.settings import Settings, SettingsError

try:
    settings = Settings.from_env(os.environ)
except SettingsError as error:
    print(error, file=sys.stderr)
    # gunicorn's master restarts a worker that exits with any other code.
    sys.exit(4)
# Here and not in create_app: it changes the whole process. Here and not in gunicorn.conf.py: any server gets the same
# log lines, and handlers take locks, which may not exist before gevent has patched the worker.
configure_logging(settings.log_level)
app = create_app(settings)
