"""The HTML pages with their static files and the routes that only these pages use; no data routes."""
