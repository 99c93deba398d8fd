"""The service's interface: requests to queries, records to response bodies. No I/O, no web framework."""
