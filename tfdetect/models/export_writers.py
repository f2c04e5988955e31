"""Write the detector of a run in the formats of other runtimes, one function for each converter.

`exports.FORMATS` says which format is written by which function; `exports` describes the inputs and
outputs of the files.
"""

import copy
import json
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core import feature_distance
from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_bytes
from tfdetect.core.quiet import import_onnxruntime, silent_libraries
from tfdetect.core.run import Run
from tfdetect.imaging.geometry import view_parts
from tfdetect.models.inference import calibrated, predict_images, predict_views, predicts_masks
from tfdetect.models.onnx_graph import to_onnx
from tfdetect.models.plain_operations import plain_operations
from tfdetect.models.saved_model import export_saved_model, run_signature
from tfdetect.models.saving import write_model
from tfdetect.models.shared_weights import share_weights
from tfdetect.models.verdict_model import (
    Verdicts,
    verdict_model,
    verdict_outputs,
    verdicts_of,
    view_signature,
    with_verdict_features,
)

if TYPE_CHECKING:
    import onnx

MIN_SHARED = 0.5  # fraction of the weights that onnx_shared must find in other files


class ExportSource:
    """The detector of a run as the converters take it, and what it computes of some photographs.

    Attributes:
        run: the run, which determines views, calibration and thresholds.
        detector: the Keras model.
        images: photographs to compare exports on.
        network: the tf.function that is converted; `exports` describes its outputs.
        onnx: the network in ONNX, in single precision; three formats are made of it.
        feeds: the inputs of the network for all photographs, by name.
        expected: probabilities_raw of the Keras model for these inputs.
    """

    def __init__(self, run: Run, detector: keras.Model, images: Sequence[np.ndarray]):
        self.run, self.detector, self.images = run, detector, images

    @cached_property
    def network(self) -> Any:
        self.check_views()

        @tf.function(input_signature=view_signature(self.run.views), autograph=False)
        def network(*views: tf.Tensor) -> dict[str, tf.Tensor]:
            with plain_operations():
                return self._outputs(views)

        return network

    def _outputs(self, views: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        verdicts, detector = self._applied
        return verdict_outputs(detector, verdicts, views)

    @cached_property
    def _applied(self) -> tuple[Verdicts, keras.Model]:
        verdicts = verdicts_of(self.run)
        return verdicts, with_verdict_features(self.detector, verdicts.settings)

    def check_views(self) -> None:
        """Check that the detector does not join masks of several views on the whole image.

        Raises:
            UserError: it does.
        """
        if predicts_masks(self.detector) and len(self.run.views) > 1:
            raise UserError(
                f"{self.run.name} predicts masks from several views of an image. Only the format "
                "saved_model can express that."
            )

    @cached_property
    def onnx(self) -> "onnx.ModelProto":
        model = to_onnx(self.network)
        entry = model.metadata_props.add()
        entry.key, entry.value = "tfdetect", public_info(self.run)
        return model

    @cached_property
    def feeds(self) -> dict[str, np.ndarray]:
        parts = {}
        for view, spec in zip(self.run.views, view_signature(self.run.views), strict=True):
            cut = [view_parts(tf.constant(i), [view])[0].numpy() for i in self.images]
            parts[spec.name] = np.concatenate(cut) if view.crops == 1 else np.stack(cut)
        return parts

    @cached_property
    def expected(self) -> np.ndarray:
        views = [tf.constant(feed) for feed in self.feeds.values()]
        return self._outputs(views)["probabilities_raw"].numpy()

    def difference(self, rows: np.ndarray) -> float:
        """Return the largest difference of probabilities_raw from the Keras model's."""
        return float(np.abs(rows - self.expected).max())


def public_info(run: Run) -> str:
    """Return the run's name and `RunInfo` as JSON, without directories, commands and devices."""
    return json.dumps({"name": run.name, "info": run.public_info().model_dump(mode="json")})


def write_saved_model(source: ExportSource, target: Path, webp: bool = False) -> float:
    """Write a SavedModel, and return the largest difference of a calibrated probability."""
    run = source.run
    export_saved_model(run, target, webp, source.detector)
    signature = [tf.TensorSpec([1, None, None, 3], tf.uint8)]

    @tf.function(input_signature=signature, autograph=False)  # one by one, tiles take seconds
    def expected(batch: tf.Tensor) -> tf.Tensor:
        if predicts_masks(source.detector):
            raw, _ = predict_images(source.detector, batch, run.views)
        else:
            views = view_parts(batch, run.views)
            raw = predict_views(source.detector, views, run.info.flips)
        return calibrated(raw, run.calibration)

    batches = [image[None] for image in source.images]
    floats = [batch.astype(np.float32) for batch in batches]
    found = run_signature(target, "serving_default", floats)
    return max(
        float(np.abs(answer["probabilities"] - expected(batch)).max())
        for answer, batch in zip(found, batches, strict=True)
    )


def write_keras(source: ExportSource, target: Path) -> float:
    """Write a .keras file, and return the largest difference of a probability."""
    source.check_views()
    write_model(verdict_model(source.run, source.detector), target)
    loaded = keras.saving.load_model(target, compile=False)
    rows = loaded(list(source.feeds.values()) if len(source.feeds) > 1 else source.feeds["images"])
    return source.difference(rows["probabilities_raw"].numpy())


def write_onnx(
    source: ExportSource, target: Path, half: bool = False, shared: bool = False
) -> float:
    """Write an ONNX file, and return the largest difference of a probability.

    Args:
        source: the detector.
        target: the file.
        half: whether the weights are float16.
        shared: whether weights are read from the files of the run, which have the same bytes.
    """
    import onnx

    ort = import_onnxruntime()
    model = source.onnx
    if half:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, keep_io_types=True)  # a copy
    if shared:
        model = copy.deepcopy(model)
        files = [source.run.model_path, source.run.path / feature_distance.FILE]
        fraction = share_weights(model, [file for file in files if file.is_file()])
        if fraction < MIN_SHARED:
            raise UserError(
                f"Cannot export {source.run.name} as onnx_shared: model.keras has "
                f"{fraction:.0%} of the weights as ONNX needs them, and at least "
                f"{MIN_SHARED:.0%} is worth a second file (kernels of convolutions are in another "
                "order there). Choose the format onnx, which is one file."
            )
    with replacing(target) as temporary:
        onnx.save(model, temporary)
    session = ort.InferenceSession(target, providers=["CPUExecutionProvider"])
    return source.difference(session.run(["probabilities_raw"], source.feeds)[0])


def write_litert(source: ExportSource, target: Path, kind: str = "float32") -> float:
    """Write a LiteRT file, and return the largest difference of a probability.

    Args:
        source: the detector.
        target: the file.
        kind: the type of the weights: float32, float16 or int8.
    """
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        archive = keras.export.ExportArchive()
        archive.track(source.detector)
        archive.add_endpoint("serving_default", source.network)
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        data = converter.convert()
    write_bytes(target, data)
    with silent_libraries():  # LiteRT says which delegate it has made
        runner = Interpreter(str(target)).get_signature_runner()
        rows = [  # one image at a time, as phones do
            runner(**{name: feed[i : i + 1] for name, feed in source.feeds.items()})
            for i in range(len(source.images))
        ]
    return source.difference(np.concatenate([row["probabilities_raw"] for row in rows]))


def write_openvino(source: ExportSource, target: Path) -> float:
    """Write a folder of OpenVINO, and return the largest difference of a probability."""
    import openvino as ov

    onnx_file = target.with_name(".openvino.onnx")
    try:
        write_onnx(source, onnx_file)
        model = ov.convert_model(onnx_file)
    finally:
        onnx_file.unlink(missing_ok=True)
    model.set_rt_info(public_info(source.run), "tfdetect")
    target.mkdir(exist_ok=True)
    ov.save_model(model, target / "detector.xml", compress_to_fp16=False)
    compiled = ov.compile_model(target / "detector.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = compiled(source.feeds)["probabilities_raw"]
    return source.difference(rows)
