"""The commands `warm` and `plan`."""
