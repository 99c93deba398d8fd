"""The Connected Content proxy: the service, its commands and its sandbox; no tests and no server configuration."""

import sys

# Old Pythons must be able to parse this file: README.md imports it first, because pip prints pages about an old Python.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "Python 3.11 or newer is required, and {} is Python {}.{}; run the command with a newer Python".format(
            sys.executable, *sys.version_info[:2]
        )
    )

__version__ = "0.1.0"
