"""Explanations of verdicts: maps of one image and of a set, and the page of one image."""
