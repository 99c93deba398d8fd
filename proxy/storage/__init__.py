"""Caches profiles: in the memory of each process and, optionally, in Redis. Without HTTP and calls to Amplitude."""
