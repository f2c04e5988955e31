"""Train, evaluate and deploy detectors of AI-generated and altered images.

The Python API is documented in `tfdetect.api`. It is loaded when one of its names is first used,
so that `import tfdetect` is fast and imports no TensorFlow.
"""
# ruff: noqa: F403, F405

import importlib.util
import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfdetect.core.after_import import after_import

__version__ = "0.2.0"

__all__ = [
    "BenchmarkResults",
    "Detector",
    "EvaluationResults",
    "MatrixResults",
    "Metric",
    "Predictions",
    "Results",
    "Run",
    "SearchResults",
    "SparkCluster",
    "StudyResults",
    "UserError",
    "audit",
    "benchmark",
    "calibrate",
    "cluster_generators",
    "compare",
    "compare_variants",
    "convert",
    "create_detector",
    "ensemble",
    "evaluate",
    "evidence",
    "explain",
    "export",
    "export_web",
    "fix",
    "learning_curve",
    "list_backbones",
    "list_benchmarks",
    "list_datasets",
    "list_detectors",
    "list_experiments",
    "load",
    "load_plugin",
    "matrix",
    "measure_robustness",
    "prepare",
    "push",
    "register_augmentation",
    "register_backbone",
    "register_front_end",
    "register_head",
    "register_loss",
    "register_mask_head",
    "remeasure",
    "search",
    "show_front_ends",
    "synthesize",
    "train",
]

if TYPE_CHECKING:
    from tfdetect.api import *


class _ApiName:
    """A name of the API, as an attribute of the package.

    `tfdetect.train` is a function of the API and `tfdetect/train.py` a command. The import system
    sets a package's attribute to each module that it imports; a data descriptor ignores that.
    """

    def __init__(self, name: str):
        self._name = name

    def __get__(self, package: ModuleType | None, owner: type) -> Any:
        if package is None:
            return self
        return getattr(importlib.import_module("tfdetect.api"), self._name)

    def __set__(self, package: ModuleType, value: Any) -> None:
        if not isinstance(value, ModuleType):
            raise AttributeError(f"tfdetect.{self._name} cannot be replaced.")


class _Package(ModuleType):
    """The package, with the names of the API."""

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


for _name in __all__:
    setattr(_Package, _name, _ApiName(_name))
sys.modules[__name__].__class__ = _Package

_missing = [name for name in ("filelock", "numpy", "PIL", "psutil", "pydantic", "rich", "yaml")
            if importlib.util.find_spec(name) is None]  # fmt: skip
if _missing:
    raise ModuleNotFoundError(
        f"tfdetect needs {', '.join(_missing)}, which {sys.executable} does not have. Activate the "
        "environment that tfdetect was installed into (source .venv/bin/activate), or install it: "
        "pip install -e . (in a clone) or pip install tfdetect"
    )


def _register_layers() -> None:
    """Let Keras find this package's layers in .keras files; it takes 0.1 s."""
    with suppress(ImportError):  # tfdetect-light lacks what some layers need
        importlib.import_module("tfdetect.models.register_layers")


after_import("keras", _register_layers)
