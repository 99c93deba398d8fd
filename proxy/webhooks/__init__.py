"""Parsing and storing of Amplitude's pushes; no HTTP (see `web`) and no rules for merging (see `profile`)."""
