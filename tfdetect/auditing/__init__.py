"""Audits a dataset before anybody believes a detector trained on it: no model, no TensorFlow."""
