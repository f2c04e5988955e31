"""`LoadedRun`: a run with its models, each of which is loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from tfdetect.core.run import Run

if TYPE_CHECKING:
    import keras

    from tfdetect.core.columns import Table
    from tfdetect.evaluation.predictions import CompiledDetector
    from tfdetect.light.onnx_detector import LightDetector


class LoadedRun:
    """A run with its models.

    Attributes:
        run: the run.
    """

    def __init__(self, run: Run):
        self.run = run

    def with_run(self, run: Run) -> LoadedRun:
        """Return another view of the same run, such as one with another threshold.

        The two share the Keras model if it is loaded already.
        """
        other = LoadedRun(run)
        if "keras_model" in self.__dict__:
            other.__dict__["keras_model"] = self.keras_model
        return other

    @cached_property
    def keras_model(self) -> keras.Model:
        """The Keras model, images float32 [B, H, W, 3] in 0..255 -> a dict of logits."""
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.models.saving import load_detector

        return load_detector(self.run)

    @cached_property
    def compiled(self) -> CompiledDetector:
        """The Keras model with its compiled functions."""
        model = self.keras_model  # imports TensorFlow without its messages
        from tfdetect.evaluation.predictions import CompiledDetector

        return CompiledDetector(self.run, model)

    @cached_property
    def _light_detector(self) -> LightDetector | None:
        from tfdetect.light.onnx_detector import light_detector

        return light_detector(self.run)

    def file_predictor(self, allow_onnx: bool) -> Callable[..., Table]:
        """Return the function `predict_files` of the ONNX export or of the Keras model.

        Args:
            allow_onnx: whether to take the ONNX export, if the run has one that works here.
        """
        if allow_onnx and self._light_detector is not None:
            from tfdetect.light.onnx_predictions import predict_files as predict_light

            return partial(predict_light, self._light_detector)
        compiled = self.compiled
        from tfdetect.evaluation.predictions import predict_files

        return partial(predict_files, self.run, compiled)
