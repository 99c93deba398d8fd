"""Clients of Amplitude's APIs, and what protects its quota: rate limiter and circuit breaker."""
