"""Rules that find problems in a message without rendering; findings of a rendering are in `liquid`."""
