"""An emulated Amplitude, written from its documentation. Shares no code with the tested client."""
