"""Calls Amplitude's APIs. A rate limiter and a circuit breaker protect the quota."""
