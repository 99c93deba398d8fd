"""Logs, metrics, their recent history, and the findings drawn from them."""
