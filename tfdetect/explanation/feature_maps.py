"""Feature maps of a detector: the outputs of its front-end and of stages of its backbone."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.errors import UserError
from tfdetect.models.detector_parts import backbone_of, front_end_output, named_backbones
from tfdetect.models.pyramid import with_maps

FRONT_END = "front-end"  # name of its output among the feature maps


def feature_maps(
    detector: keras.Model, stages: Sequence[str] = (), members: Sequence[str] = ()
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from images [B, H, W, 3] to feature maps by name, float32 [B, h, w, C].

    The feature maps are the output of the front-end, if there is one, and the last map of the
    backbone.

    Args:
        detector: the detector from `load_detector`.
        stages: names of stages to return instead of the last map, or "all"; see `stage_maps`.
        members: names of an ensemble's members.

    Raises:
        UserError: the backbone has no such stage.
    """
    front_end = front_end_output(detector)
    has_positions = front_end is not None and len(front_end.shape) == 4
    outputs = {FRONT_END: front_end} if has_positions else {}
    if stages:
        outputs |= _chosen_stages(detector, stages)
    else:
        outputs |= {name: features for name, _, features in named_backbones(detector, members)}
    if not outputs:
        return lambda images: {}
    model = keras.Model(detector.inputs[0], list(outputs.values()))

    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        values = model(tf.constant(images, tf.float32), training=False)
        values = values if isinstance(values, list | tuple) else [values]
        return {name: v.numpy().astype(np.float32) for name, v in zip(outputs, values)}

    return compute


def _chosen_stages(detector: keras.Model, stages: Sequence[str]) -> dict[str, keras.KerasTensor]:
    """Return the maps of named stages; "all" stands for every stage."""
    known = stage_maps(detector)
    names = list(known) if "all" in stages else list(stages)
    if wrong := [name for name in names if name not in known]:
        sizes = ", ".join(f"{name} ({' x '.join(map(str, x.shape[1:]))})"
                          for name, x in known.items())  # fmt: skip
        raise UserError(
            f"Unknown stage {wrong[0]!r}. This network's stages are {sizes or 'none'}; all "
            "stands for every one."
        )
    return {name: known[name] for name in names}


def stage_maps(detector: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return the backbone's last map [B, h, w, C] at each resolution, from fine to coarse.

    Args:
        detector: a detector with one backbone.

    Returns:
        Symbolic tensors by name: "stage1", "stage2" and so on.
    """
    backbone = backbone_of(detector)
    _, *maps = with_maps(backbone)(backbone._inbound_nodes[-1].input_tensors[0])
    return {f"stage{number}": x for number, x in enumerate(maps, 1)}
