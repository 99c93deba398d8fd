"""The cache of profiles: a memory store per process and, optionally, Redis. No HTTP and no calls to Amplitude."""
