"""Evaluation of detectors: predictions, calibration, metrics with intervals, figures, reports."""
