"""The OpenAPI 3.1 document of every route: built from the table of parameters, and true by test."""
