"""Logs, metrics, their history, the clock and the diagnosis of current problems; no routes or pages (see `web`)."""
