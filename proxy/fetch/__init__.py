"""Request coalescing: decides what to fetch and when, and keeps the backlog; no HTTP (see `amplitude` and `web`)."""
