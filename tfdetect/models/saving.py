"""Writes and reads the Keras file of a detector."""

import importlib
import os
from pathlib import Path

import keras

from tfdetect.core import registry
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.models.backbones import ignore_mask_warnings


def load_detector(run: Run) -> keras.Model:
    """Loads a run's best model, to predict in float32.

    Raises:
        UserError: the file is damaged.
    """
    functions = {*registry.FRONT_ENDS.values(), *registry.BACKBONES.values(),
                 *registry.HEADS.values(), *registry.MASK_HEADS.values()}  # fmt: skip
    for module in {function.split(":")[0] for function in functions}:
        importlib.import_module(module)  # registers its layers with Keras
    ignore_mask_warnings()
    keras.config.set_dtype_policy("float32")  # models inside a model take the policy in force
    try:
        return keras.saving.load_model(run.model_path, compile=False)
    except Exception as error:  # Keras raises many kinds for a bad file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"Run {run.path} is corrupt: model.keras cannot be read: {reason}"
        ) from error


def save_detector(detector: keras.Model, path: Path) -> None:
    """Writes the detector without its optimizer and in float32, atomically.

    Half precision is for training: in float32 a score does not depend on the batch
    it is computed in, nor on the machine.
    """
    kept = {name: x for name, x in detector.output.items() if name in ("label", "mask")}
    bare = keras.Model(detector.inputs[0], kept, name=detector.name)
    for layer in bare._flatten_layers():
        layer.dtype_policy = "float32"
    write_model(bare, path)


def write_model(model: keras.Model, path: Path) -> None:
    """Writes a model's .keras file, whole or not at all."""
    temporary = path.with_name(f".{path.stem}.tmp.keras")
    model.save(temporary)
    os.replace(temporary, path)
