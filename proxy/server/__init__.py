"""The gunicorn worker and its connections. Only this package imports gunicorn and gevent."""
