"""The gunicorn worker, its connections, and answers to requests that are not valid HTTP; no routes (see `web`)."""
