"""Forgeries with masks: what makes them, and the data set that they become."""
