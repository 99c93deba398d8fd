"""Connected Content proxy: what Amplitude knows of a user, as JSON that cannot break a Braze template."""

__version__ = "0.1.0"
