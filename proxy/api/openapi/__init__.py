"""Builds the OpenAPI 3.1 document of all routes, from the parameters and the types of the bodies."""
