"""tfdetect: train, compare and ship detectors of AI-generated and inpainted images."""

__version__ = "0.1.0"
