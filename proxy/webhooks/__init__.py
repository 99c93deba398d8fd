"""Parses and stores the batches that Amplitude pushes. `web` handles HTTP, and `profile` has the rules for updates."""
