"""Connected Content proxy: Amplitude's user data as JSON for Braze templates."""

import sys

# Old Pythons must be able to parse this file: README.md imports it first, because pip prints pages about an old Python.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "Python 3.11 or newer is required, and {} is Python {}.{}; run the command with a newer Python".format(
            sys.executable, *sys.version_info[:2]
        )
    )

__version__ = "0.1.0"
