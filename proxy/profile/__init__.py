"""User profile data and the rules about it. No I/O, and nothing about HTTP."""
