"""Findings about a message that need no rendering."""
