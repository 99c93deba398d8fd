"""Builds the services from the settings; the Flask application around them is built in `proxy/app.py`."""
