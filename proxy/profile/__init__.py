"""User profile data and its rules. Without I/O and HTTP."""
