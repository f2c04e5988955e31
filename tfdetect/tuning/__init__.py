"""Searches for better experiments with hyperopt: search spaces, durable trials, pruning."""
