"""Writes to Braze and Amplitude: changes, the state of sent values, and delivery with retries."""
