"""An emulated Amplitude, written from its documentation; no code of the service, so that no error is in both."""
