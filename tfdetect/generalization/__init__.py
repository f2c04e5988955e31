"""Measures how detectors generalize to image generators that they were not trained on."""
