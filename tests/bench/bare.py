"""The service's own worker for the applications that it is compared with, which have no services to drain."""

from __future__ import annotations

from proxy.server import gc_tuning, worker


class Worker(worker.Worker):
    """Loads any application, collects garbage as the service does, and stops as if it had nothing to do."""

    def load_wsgi(self) -> None:
        """Load the application. The services beside it are never asked."""
        from proxy.app import create_app
        from proxy.web.services import installed

        super(worker.Worker, self).load_wsgi()
        self._services = installed(create_app())
        gc_tuning.tune()
