"""The HTTP routes of this service, with authentication, request logs and pages."""
