"""The command line, one module per command; no code that the service itself needs."""
