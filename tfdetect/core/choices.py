"""Names that documents and functions accept and `--help` lists; no slow package is imported."""

from typing import Literal, get_args

# Suggests the points of a search; see tuning.suggest.
Algorithm = Literal["tpe", "random", "atpe", "optuna"]
Rule = Literal["median", "halving", "none"]  # stops trials early; see tuning.pruning
# How scores become probabilities; see evaluation.calibration_settings.
CalibrationMethod = Literal["auto", "temperature", "platt", "isotonic", "shift", "none"]
TilePooling = Literal["max", "top_pixels"]  # see light.numpy_tiles.pool_tiles
Background = Literal["gray", "keep"]  # what takes its place; see synthesis.foreground
ExportFormat = Literal[
    "saved_model", "saved_model_webp", "keras", "onnx", "onnx_shared", "onnx_float16", "litert",
    "litert_float16", "litert_int8", "openvino",
]  # fmt: skip
EXPORT_FORMATS: tuple[str, ...] = get_args(ExportFormat)
FUSIONS = {  # of an ensemble, with what each is; see fusion.fusions
    "stacked": "logistic regression on the members' calibrated logits",
    "mean": "mean of the members' logits",
    "weighted": "weighted mean of the logits",
    "logistic": "stacked, with regularization",
    "greedy": "greedy selection, from many runs",
    "gated": "weights that depend on the image, for members trained on different data",
    "fisher": "Fisher's method on how unusual each member's score is, for members that look for "
    "different traces",
    "dense": "one dense unit on the members' P(fake), trained with Adam for 10 epochs",
}
