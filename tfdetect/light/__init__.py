"""Prediction without TensorFlow: a run's ONNX export, NumPy, Pillow and ONNX Runtime."""
