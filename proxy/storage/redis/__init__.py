"""What processes and machines share through one Redis: records, leases, quota. Only `server` knows the library."""


class RedisUnavailable(Exception):
    """Redis does not answer, or not as it should. What was asked of it may have been done all the same."""
