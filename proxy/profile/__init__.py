"""User data and its rules: parts, records, freshness, updates and names; no I/O and no HTTP."""
