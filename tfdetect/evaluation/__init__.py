"""Predictions to metrics with intervals, figures and a report."""
