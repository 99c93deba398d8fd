"""Types of the JSON bodies. The OpenAPI document describes them.

The docstring of a class, and each `about`, is a description in the document.
"""
