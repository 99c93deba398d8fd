"""Everything that knows HTTP on our side."""
