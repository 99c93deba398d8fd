"""Pages for people: landing page, documentation, playground and status."""
