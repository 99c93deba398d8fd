"""The command line of a benchmark: the help tells each default, and SIGTERM ends what the benchmark has started."""

from __future__ import annotations

import argparse
import signal
import sys


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description as it is, and tells the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a benchmark's options. From here on SIGTERM leaves every block, as Ctrl-C does."""
    leave_on_sigterm()
    return argparse.ArgumentParser(description=description, formatter_class=_Help)


def leave_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit: what was started is in sessions of its own, and would go on alone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
