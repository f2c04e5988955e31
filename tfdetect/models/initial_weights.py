"""Load the weights of a backbone from a run or a .keras file."""

import os
from pathlib import Path

import keras
import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.core.shipped_runs import SHIPPED


def is_weights_path(weights: str) -> bool:
    """Return whether `model.weights` is the path of a run or a .keras file, not a preset's name."""
    if weights.startswith(("kaggle://", "hf://")) or weights in ("none", "imagenet"):
        return False
    is_file_or_run = weights.endswith(".keras") or os.sep in weights or weights in SHIPPED
    return is_file_or_run or Path(weights).is_dir()


def load_backbone(backbone: keras.Model, path: Path, name: str) -> None:
    """Copy the weights of a backbone from a run or a .keras file.

    Args:
        backbone: the backbone whose weights are set.
        path: the folder of the run, or the .keras file.
        name: name of the backbone, for messages.

    Raises:
        UserError: there is no such file, or it contains no backbone of the same layers.
    """
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"model.weights: there is no run and no .keras file at {path}. Train one first, or "
            "set another path."
        )
    import tfdetect.models.register_layers  # noqa: F401

    try:
        source = keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises many kinds for a bad file
        raise UserError(f"model.weights: {file} cannot be read: {error}") from error
    nested = [layer for layer in source.layers if isinstance(layer, keras.Model)]
    for candidate in [*nested, source]:
        values = _fitting(candidate.get_weights(), backbone)
        if values is not None:
            backbone.set_weights(values)
            return
    raise UserError(
        f"model.weights: {file} contains no backbone of the same layers as {name}. Set "
        "model.backbone and model.options to those of that run."
    )


def _fitting(values: list[np.ndarray], backbone: keras.Model) -> list[np.ndarray] | None:
    """Return the weights of a network in the shapes of a backbone; None if they do not fit.

    If the backbone reads the channels of a front-end after the others, the first kernel gets zeros
    for them, so that both networks compute the same at first.
    """
    shapes = [tuple(v.shape) for v in backbone.weights]
    if [v.shape for v in values] == shapes:
        return values
    if len(values) != len(shapes) or [v.shape for v in values[1:]] != shapes[1:]:
        return None
    first, wanted = values[0], shapes[0]
    more = wanted[-2] - first.shape[-2] if len(wanted) == first.ndim == 4 else 0
    if more < 1 or (*first.shape[:2], wanted[-2], first.shape[-1]) != wanted:
        return None
    return [np.pad(first, [(0, 0), (0, 0), (0, more), (0, 0)]), *values[1:]]
