"""An emulated Amplitude and Braze, written from their documentation, without code of the service."""
