"""Writes to Braze and Amplitude: changes, the state of what was sent, and delivery with retries."""
