"""Image functions in TensorFlow ops: the one place where images are decoded or resampled."""
