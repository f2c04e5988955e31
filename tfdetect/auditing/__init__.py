"""Audits a dataset for shortcuts, duplicates and leaks; needs neither a model nor TensorFlow."""
