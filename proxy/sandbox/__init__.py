"""An emulated Amplitude, written from its documentation alone: it shares no code with the client it tests."""
