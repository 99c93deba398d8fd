"""The OpenAPI document of all routes, built from the parameters and body types of `api`; no parsing of requests."""
