"""Webhooks: parse a batch that Amplitude pushes, and store it. HTTP is in `web`, what an update means in `profile`."""
