"""Parsing of request parameters into queries, and response bodies built from records; no I/O and no web framework."""
