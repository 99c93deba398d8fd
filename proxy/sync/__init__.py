"""What is written to Braze and Amplitude; no HTTP (see `web`, `amplitude`)."""
