"""The commands `warm` and `plan` with their queue, pace and progress; no other commands."""
