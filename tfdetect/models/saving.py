"""Writes and reads the Keras file of a detector."""

import importlib
import os
from pathlib import Path

import keras

from tfdetect.core import plugins, registry
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.models.backbones import ignore_mask_warnings


def load_detector(run: Run) -> keras.Model:
    """Load a run's best model, in float32.

    Raises:
        UserError: the file is damaged, or a plug-in of the run is not loaded.
    """
    if (run.path / "experiment.yaml").is_file():
        run.experiment()  # loads installed plug-ins; others must be loaded already
    plugins.load_listed()
    for known in (registry.FRONT_ENDS, registry.BACKBONES, registry.HEADS, registry.MASK_HEADS):
        for name in known.built_in:
            importlib.import_module(known[name].module)  # registers its layers with Keras
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
    """Write the detector without its optimizer and in float32, atomically.

    Half precision is for training: in float32 a score depends neither on the batch in which it is
    computed nor on the machine.
    """
    kept = {name: x for name, x in detector.output.items() if name in ("label", "mask")}
    bare = keras.Model(detector.inputs[0], kept, name=detector.name)
    for layer in bare._flatten_layers():
        layer.dtype_policy = "float32"
    write_model(bare, path)


def write_model(model: keras.Model, path: Path) -> None:
    """Write a model's .keras file atomically."""
    temporary = path.with_name(f".{path.stem}.tmp.keras")
    model.save(temporary)
    os.replace(temporary, path)
