"""The cache in the memory of each process and, optionally, in Redis; no HTTP and no calls to Amplitude."""
