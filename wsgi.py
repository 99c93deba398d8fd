"""The application for a WSGI server: `gunicorn wsgi:app`."""

import sys

from proxy.app import create_app
from proxy.settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    print(error, file=sys.stderr)
    # With any other code gunicorn's master would start the worker again, for ever.
    sys.exit(4)
