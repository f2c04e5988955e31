"""Write and read the Keras file of a detector."""

import zipfile
from pathlib import Path

import keras

from tfdetect.core import plugins
from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.run import Run
from tfdetect.models.backbones import ignore_mask_warnings
from tfdetect.models.grouped_convolutions import run_groups_as_depthwise
from tfdetect.models.inference import predicts_masks


def load_detector(run: Run) -> keras.Model:
    """Load a run's best model, in float32.

    Raises:
        UserError: the file is missing, is damaged or is not the model that run.json describes, or a
            plug-in of the run is not loaded.
    """
    if not run.model_path.exists():
        raise UserError(
            f"Run {run.path} has no Keras model, only exports of it, which predict alone can use, "
            "without --explain. Get the whole run, with its model.keras."
        )
    if not zipfile.is_zipfile(run.model_path):
        raise UserError(
            f"Run {run.path} is corrupt: model.keras is cut off or damaged. Copy the run again."
        )
    if (run.path / "experiment.yaml").is_file():
        run.experiment()  # loads installed plug-ins; others must be loaded already
    plugins.load_listed()
    import tfdetect.models.register_layers  # noqa: F401

    ignore_mask_warnings()
    keras.config.set_dtype_policy("float32")  # models inside a model take the policy in force
    try:
        model = keras.saving.load_model(run.model_path, compile=False)
    except Exception as error:  # Keras raises many kinds for a bad file
        if (told := _told(error)) is not None:
            raise told from None
        reason = first_line(error)[:200]
        raise UserError(
            f"Run {run.path} is corrupt: model.keras cannot be read. It is damaged, or was written "
            f"by a newer version. What Keras says: {reason}"
        ) from error
    _check_model(model, run)
    run_groups_as_depthwise(model)
    return model


def _told(error: BaseException | None) -> UserError | None:
    """Return the `UserError` of a layer, such as a missing package, that Keras has wrapped."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _check_model(model: keras.Model, run: Run) -> None:
    """Check that a model has the inputs and outputs that run.json describes.

    Raises:
        UserError: it has others.
    """
    outputs = model.output if isinstance(model.output, dict) else {}
    classes = len(run.class_names)
    logits = 1 if classes == 2 else classes
    found = outputs["label"].shape[-1] if "label" in outputs else None
    problem = ""
    if found != logits:
        problem = f"{classes} classes, which need {logits} logits, but model.keras has {found}"
    elif run.predicts_masks != predicts_masks(model):
        problem = f"predicts_masks = {run.predicts_masks}, which model.keras contradicts"
    elif len(model.inputs) != len(run.views):
        problem = f"{len(run.views)} views, but model.keras has {len(model.inputs)} inputs"
    else:
        for tensor, view in zip(model.inputs, run.views):
            if any(
                side not in (None, wanted) for side, wanted in zip(tensor.shape[-3:-1], view.size)
            ):
                problem = f"images of {view.size}, but model.keras takes {tensor.shape[-3:-1]}"
    if problem:
        raise UserError(f"Run {run.path} is corrupt: run.json says {problem}.")


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
    with replacing(path) as temporary:
        model.save(temporary)
