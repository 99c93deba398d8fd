"""Logs, metrics, the history of the last hour, and the diagnosis of current problems."""
