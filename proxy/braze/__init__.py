"""The client of Braze's REST API. Writes to Braze; decides nothing about what to write."""
