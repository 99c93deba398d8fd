"""The gunicorn worker and its garbage collection. Nothing else knows gunicorn or gevent."""
