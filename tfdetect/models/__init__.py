"""Detectors: preprocessing, backbone and head as one Keras model."""
