"""Webhooks of Amplitude: parse a batch and store it."""
