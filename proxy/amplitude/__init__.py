"""Clients of Amplitude's APIs, the rate limiter and the circuit breaker; no caching, and no decision what to fetch."""
