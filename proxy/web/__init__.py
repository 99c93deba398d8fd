"""The Flask routes, with authentication, errors and request logs; no rules about data (see `api` and `profile`)."""
