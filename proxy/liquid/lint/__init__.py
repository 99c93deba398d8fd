"""Findings about a template that need no rendering."""
