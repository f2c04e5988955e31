"""Limits on input from outside."""

MAX_PIXELS = 100_000_000  # of an image, by default
