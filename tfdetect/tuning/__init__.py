"""Searches for better experiments: spaces, trials that survive, suggestions by hyperopt."""
