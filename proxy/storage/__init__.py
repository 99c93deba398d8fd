"""Where profiles are cached: in memory, and in Redis for all processes."""
