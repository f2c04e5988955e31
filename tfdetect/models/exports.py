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

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.disk import disk_error
from tfdetect.core.errors import UserError, first_line, unknown
from tfdetect.core.files import write_json
from tfdetect.core.parsing import read_json
from tfdetect.core.run import SHARED_ONNX, Run
from tfdetect.imaging.photographs import photograph
from tfdetect.models.export_writers import (
    ExportSource,
    write_keras,
    write_litert,
    write_onnx,
    write_openvino,
    write_saved_model,
)
from tfdetect.models.saving import load_detector

PHOTOGRAPHS = ("rocket", "flower", "grace_hopper")  # to compare exports on


@dataclass(frozen=True)
class Format:
    """A file format of exported detectors.

    Attributes:
        file: name of the file or folder, relative to `exports/`.
        tolerance: largest accepted difference of a probability from the Keras model's.
        write: writes the file, and returns the largest difference of a probability from the Keras
            model's.
        modules: the modules that it needs, beyond those that tfdetect requires.
    """

    file: str
    tolerance: float
    write: Callable[[ExportSource, Path], float]
    modules: tuple[str, ...] = ()


_ONNX_MODULES = ("tf2onnx", "onnx", "onnxruntime")
FORMATS = {
    "saved_model": Format("../saved_model", 1e-3, write_saved_model),
    "saved_model_webp": Format("saved_model_webp", 1e-3, partial(write_saved_model, webp=True)),
    "keras": Format("detector.keras", 1e-3, write_keras),
    "onnx": Format("detector.onnx", 1e-3, write_onnx, _ONNX_MODULES),
    "onnx_shared": Format(
        f"../{SHARED_ONNX}", 1e-3, partial(write_onnx, shared=True), _ONNX_MODULES
    ),
    "onnx_float16": Format(
        "detector_float16.onnx", 0.05, partial(write_onnx, half=True), _ONNX_MODULES
    ),
    "litert": Format("detector.tflite", 1e-3, write_litert, ("ai_edge_litert",)),
    "litert_float16": Format(
        "detector_float16.tflite", 0.05, partial(write_litert, kind="float16"), ("ai_edge_litert",)
    ),
    "litert_int8": Format(
        "detector_int8.tflite", 0.15, partial(write_litert, kind="int8"), ("ai_edge_litert",)
    ),
    "openvino": Format("openvino", 1e-3, write_openvino, ("openvino", "tf2onnx", "onnx")),
}


@dataclass(frozen=True)
class Export:
    """What is known about one exported file.

    Attributes:
        format: a key of `FORMATS`.
        path: relative to the run's folder.
        megabytes: size of the file, or of all files of the folder.
        max_difference: largest difference of a probability from the Keras model's.
        images: number of photographs that were compared.
    """

    format: str
    path: str
    megabytes: float
    max_difference: float
    images: int


def _listed(file: Path) -> list[Export]:
    """Return the entries of an exports.json; none if it is missing or damaged."""
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
    source = ExportSource(run, detector or load_detector(run), images)
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
    """Let GPUs multiply in single precision.

    By default they round factors to TensorFloat-32, and two graphs of one network differ by more
    than an export may.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _write(name: str, source: ExportSource) -> float:
    """Write one format and return the largest difference of a probability."""
    target, title = _target(source.run, name), f"{source.run.name} as {name}"
    try:
        difference = FORMATS[name].write(source, target)
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
    """Check that a format is known and that the packages that it needs are installed.

    Raises:
        UserError: it is unknown, or packages are missing; the message names them.
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
