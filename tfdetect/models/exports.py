"""Exports a run's detector to other runtimes, and compares each export with the Keras model.

Every format but SavedModel has one entry point, which takes parts of images as the run's views
have them: uint8 [N, H, W, 3], or of an ensemble with several views one tensor per view,
[N, crops, H, W, 3] where a view has several crops. The outputs have the same names everywhere:

    probabilities_raw   float32 [N, C], before calibration; class 0 is the authentic one
    probabilities       float32 [N, C], calibrated as the run is
    p_fake              float32 [N], 1 - P(class 0)
    label               int32 [N], number of the class, by the run's threshold
    inconclusive        bool [N], whether p_fake is in the run's abstention band
    mask                float32 [N, H, W, 1], P(altered) of each pixel; only of detectors that
                        predict masks and have one view
    features            float32 [N, F], and
    feature_distance    float32 [N], their distance from those of the training images, and
    in_domain           bool [N], whether that is at most the run's `domain.limit`; only of runs
                        that know it. Parts have no size and no format: these are for the caller
                        to compare, with `dataset.training_images` in run.json

The files and `exports.json`, which says how far each is from the Keras model, are in the run's
folder `exports/`; those of saved_model and onnx_shared, which reads its weights from model.keras,
in the run's folder itself.
"""

import copy
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core import console, feature_distance
from tfdetect.core.disk import disk_error, replacing
from tfdetect.core.documents import read_json
from tfdetect.core.errors import UserError, first_line, unknown
from tfdetect.core.files import write_bytes, write_json
from tfdetect.core.quiet import import_onnxruntime, silent_libraries
from tfdetect.core.run import SHARED_ONNX, Run
from tfdetect.imaging.geometry import view_parts
from tfdetect.imaging.photographs import photograph
from tfdetect.models.inference import (
    calibrated,
    predict_images,
    predict_views,
    predicts_masks,
)
from tfdetect.models.onnx_graph import to_onnx
from tfdetect.models.plain_operations import plain_operations
from tfdetect.models.saved_model import export_saved_model
from tfdetect.models.saving import load_detector, write_model
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

PHOTOGRAPHS = ("rocket", "flower", "grace_hopper")  # to compare exports on
MIN_SHARED = 0.5  # fraction of the weights that onnx_shared must find in other files


@dataclass(frozen=True)
class Format:
    """A file format of exported detectors.

    Attributes:
        file: name of the file or folder, relative to `exports/`.
        tolerance: largest accepted difference of a probability from the Keras model's.
        modules: that write it, beyond tfdetect's own requirements.
    """

    file: str
    tolerance: float
    modules: tuple[str, ...] = ()


FORMATS = {
    "saved_model": Format("../saved_model", 1e-3),
    "saved_model_webp": Format("saved_model_webp", 1e-3),
    "keras": Format("detector.keras", 1e-3),
    "onnx": Format("detector.onnx", 1e-3, ("tf2onnx", "onnx", "onnxruntime")),
    "onnx_shared": Format(f"../{SHARED_ONNX}", 1e-3, ("tf2onnx", "onnx", "onnxruntime")),
    "onnx_float16": Format("detector_float16.onnx", 0.05, ("tf2onnx", "onnx", "onnxruntime")),
    "litert": Format("detector.tflite", 1e-3, ("ai_edge_litert",)),
    "litert_float16": Format("detector_float16.tflite", 0.05, ("ai_edge_litert",)),
    "litert_int8": Format("detector_int8.tflite", 0.15, ("ai_edge_litert",)),
    "openvino": Format("openvino", 1e-3, ("openvino", "tf2onnx", "onnx")),
}


@dataclass(frozen=True)
class Export:
    """What is known about one exported file.

    Attributes:
        format: a key of `FORMATS`.
        path: relative to the run's folder.
        megabytes: its size.
        max_difference: largest difference of a probability from the Keras model's.
        images: number of photographs that were compared.
    """

    format: str
    path: str
    megabytes: float
    max_difference: float
    images: int


def _listed(file: Path) -> list[Export]:
    """Return the entries of an exports.json; none where it lists none."""
    try:
        return [Export(**entry) for entry in read_json(file)] if file.is_file() else []
    except (TypeError, UserError):  # it is only a list of what can be exported again
        return []


def exported_formats(run: Run) -> list[str]:
    """Return the formats that the run has now."""
    return [name for name in FORMATS if _target(run, name).exists()]


def export_finished_run(
    run: Run, formats: Sequence[str], detector: keras.Model | None = None
) -> None:
    """Write the exports of a run whose training or calibration has just ended.

    A format that cannot express the detector is left out with a warning, because a finished
    training is worth more than one of its exports.
    """
    if formats:
        write_exports(run, formats, on_error=lambda error: console.warn(str(error)),
                      detector=detector)  # fmt: skip


def write_exports(
    run: Run,
    formats: Sequence[str],
    on_error: Callable[[UserError], None] | None = None,
    detector: keras.Model | None = None,
) -> list[Export]:
    """Write a run's detector in several formats, and compare each with the Keras model.

    Args:
        run: its folder gets the files.
        formats: keys of `FORMATS`.
        on_error: called with the error of a format other than saved_model, which is left out; by
            default the error is raised.
        detector: the run's model; by default it is loaded.

    Returns:
        One entry per written format, as exports.json has them.

    Raises:
        UserError: a format is unknown, its packages are missing, it cannot express the detector,
            or its probabilities differ by more than the format's tolerance.
    """
    for name in formats:
        check_format(name)
    images = [np.asarray(photograph(name)) for name in PHOTOGRAPHS]
    source = _Source(run, detector or load_detector(run), images)
    folder = run.path / "exports"
    folder.mkdir(exist_ok=True)
    listed = folder / "exports.json"
    entries = {e.format: asdict(e) for e in _listed(listed) if (run.path / e.path).exists()}
    for name in formats:
        try:
            with _single_precision():
                difference = _write(name, source)
        except UserError as error:
            if on_error is None or name == "saved_model":
                raise
            on_error(error)
            continue
        path = _target(run, name).resolve()
        entries[name] = asdict(
            Export(name, os.path.relpath(path, run.path.resolve()), round(_bytes(path) / 1e6, 2),
                   float(f"{difference:.2g}"), len(images))
        )  # fmt: skip
    write_json(listed, list(entries.values()))
    return [Export(**entries[name]) for name in formats if name in entries]


@contextmanager
def _single_precision() -> Iterator[None]:
    """Let GPUs multiply in single precision; by default they round factors to TensorFloat-32.

    Two graphs of one network then differ by more than an export may.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _write(name: str, source: "_Source") -> float:
    """Write one format and return the largest difference of a probability."""
    target, title = _target(source.run, name), f"{source.run.name} as {name}"
    try:
        difference = _WRITERS[name](source, target)
    except Exception as error:  # each converter raises its own kinds
        if isinstance(error, UserError) or disk_error(error):
            raise
        reason = first_line(error)[:300]
        raise UserError(f"Cannot export {title}: {reason}") from error
    if not difference <= FORMATS[name].tolerance:
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        raise UserError(
            f"Cannot export {title}: a probability differs by {difference:.3g} from that of the "
            f"Keras model, and {FORMATS[name].tolerance:g} is allowed. The file was removed."
        )
    return difference


def check_format(name: str) -> None:
    """Fail early where a format is unknown or cannot be written here.

    Raises:
        UserError: it is, with the packages to install.
    """
    if name not in FORMATS:
        raise unknown("export format", name, FORMATS)
    missing = [m for m in FORMATS[name].modules if importlib.util.find_spec(m) is None]
    if missing:
        extra = name.partition("_")[0]  # the others' packages come with tfdetect
        package = f"tfdetect[{extra}]" if extra in ("litert", "openvino") else "tfdetect"
        raise UserError(
            f"The format {name} needs {' and '.join(missing)}, which is not installed: "
            f'pip install "{package}"'
        )


def _target(run: Run, name: str) -> Path:
    return run.path / os.path.normpath(f"exports/{FORMATS[name].file}")


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class _Source:
    """What the converters start from.

    Attributes:
        run: says how images are viewed, calibrated and classified.
        detector: the Keras model.
        images: photographs to compare exports on.
        network: the tf.function that is converted, with the outputs of the module's docstring.
        onnx: the network in ONNX, in single precision; three formats are made of it.
        feeds: what the network is given of all images, by name.
        expected: probabilities_raw of these, by the Keras model.
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
        """Refuse detectors whose masks of several views are joined on the whole image."""
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


def _write_saved_model(source: _Source, target: Path, webp: bool = False) -> float:
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
    found = answers(target, "serving_default", [batch.astype(np.float32) for batch in batches])
    return max(
        float(np.abs(answer["probabilities"] - expected(batch)).max())
        for answer, batch in zip(found, batches, strict=True)
    )


def answers(
    folder: Path, signature: str, batches: Sequence[np.ndarray | list[bytes]]
) -> list[dict[str, np.ndarray]]:
    """Return what a SavedModel answers to each of some batches.

    It is loaded as TensorFlow Serving loads it, on the CPU. `tf.saved_model.load` would build each
    of its functions in Python, which takes several times as long as to write them.

    Args:
        folder: of the SavedModel.
        signature: name of one of its signatures, which has one input.
        batches: values of that input; bytes keep the zeros at their end.

    Returns:
        The signature's outputs by name.
    """
    # NumPy's own type of bytes would drop zeros at their end.
    arrays = [
        np.array(batch, object if isinstance(batch, list) and bytes in map(type, batch) else None)
        for batch in batches
    ]
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # it runs a few times only
    with tf.compat.v1.Session(graph=tf.Graph(), config=config) as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
        chosen = loaded.signature_def[signature]
        [inputs] = chosen.inputs.values()
        outputs = {name: tensor.name for name, tensor in chosen.outputs.items()}
        return [session.run(outputs, {inputs.name: array}) for array in arrays]


def _write_keras(source: _Source, target: Path) -> float:
    source.check_views()
    write_model(verdict_model(source.run, source.detector), target)
    loaded = keras.saving.load_model(target, compile=False)
    rows = loaded(list(source.feeds.values()) if len(source.feeds) > 1 else source.feeds["images"])
    return source.difference(rows["probabilities_raw"].numpy())


def _write_onnx(source: _Source, target: Path, half: bool = False, shared: bool = False) -> float:
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


def _write_litert(source: _Source, target: Path, kind: str = "float32") -> float:
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


def _write_openvino(source: _Source, target: Path) -> float:
    import openvino as ov

    onnx_file = target.with_name(".openvino.onnx")
    try:
        _write_onnx(source, onnx_file)
        model = ov.convert_model(onnx_file)
    finally:
        onnx_file.unlink(missing_ok=True)
    model.set_rt_info(public_info(source.run), "tfdetect")
    target.mkdir(exist_ok=True)
    ov.save_model(model, target / "detector.xml", compress_to_fp16=False)
    compiled = ov.compile_model(target / "detector.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = compiled(source.feeds)["probabilities_raw"]
    return source.difference(rows)


_WRITERS: dict[str, Callable[[_Source, Path], float]] = {
    "saved_model": _write_saved_model,
    "saved_model_webp": partial(_write_saved_model, webp=True),
    "keras": _write_keras,
    "onnx": _write_onnx,
    "onnx_shared": partial(_write_onnx, shared=True),
    "onnx_float16": partial(_write_onnx, half=True),
    "litert": _write_litert,
    "litert_float16": partial(_write_litert, kind="float16"),
    "litert_int8": partial(_write_litert, kind="int8"),
    "openvino": _write_openvino,
}
