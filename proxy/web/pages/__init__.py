"""HTML pages: landing page, documentation, playground and status."""
