"""Names that documents accept and `--help` lists; for them no slow package is imported."""

from typing import Literal, get_args

# Suggests the points of a search; see tuning.suggest.
Algorithm = Literal["tpe", "random", "atpe", "optuna"]
Rule = Literal["median", "halving", "none"]  # stops trials early; see tuning.pruning
ExportFormat = Literal[
    "saved_model", "saved_model_webp", "keras", "onnx", "onnx_shared", "onnx_float16", "litert",
    "litert_float16", "litert_int8", "openvino",
]  # fmt: skip
EXPORT_FORMATS: tuple[str, ...] = get_args(ExportFormat)
