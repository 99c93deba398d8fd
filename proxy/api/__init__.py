"""Parses requests into queries, and builds response bodies from records. No I/O, no web framework."""
