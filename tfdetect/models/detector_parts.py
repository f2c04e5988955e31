"""The parts of a detector: its backbones, their layers and features, and its front-end's output."""

from collections.abc import Sequence

import keras

from tfdetect.models.low_rank import adapted_layers


def backbone_of(detector: keras.Model) -> keras.Model:
    """Return the backbone inside a detector."""
    return next(layer for layer in detector.layers if isinstance(layer, keras.Model))


def features_of(detector: keras.Model) -> keras.KerasTensor:
    """Return the output of the backbone within a detector, as a symbolic tensor."""
    return backbone_of(detector)._inbound_nodes[-1].output_tensors[0]


def named_backbones(
    detector: keras.Model, members: Sequence[str]
) -> list[tuple[str, keras.Model, keras.KerasTensor]]:
    """Return the name, the model and the feature map [B, h, w, C] of each backbone of a detector.

    The backbones of an ensemble have the names of its members. Backbones whose features have no
    positions, such as class tokens, are left out.
    """
    found, called = [], {f"backbone_{number}": name for number, name in enumerate(members)}
    for layer in detector.layers:
        if isinstance(layer, keras.Model):
            features = layer._inbound_nodes[-1].output_tensors[0]
            if len(features.shape) == 4 and 1 not in features.shape[1:3]:
                found.append((called.get(layer.name, "backbone"), layer, features))
    return found


def front_end_output(detector: keras.Model) -> keras.KerasTensor | None:
    """Return the output of a detector's front-end as a symbolic tensor; None if it has none."""
    names = {layer.name for layer in detector.layers}
    if "pixels_and_filtered" in names:
        return detector.get_layer("pixels_and_filtered").input[1]
    if "preprocess" in names or not any(isinstance(v, keras.Model) for v in detector.layers):
        return None
    return backbone_of(detector)._inbound_nodes[-1].input_tensors[0]


def backbone_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a backbone in order; nested models are replaced by their layers."""
    leaves = []
    for layer in backbone.layers:
        leaves += backbone_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return leaves


def describe(detector: keras.Model, name: str) -> str:
    """Return one line on a detector: its number of parameters and its frozen layers.

    Args:
        detector: the detector.
        name: the name of its backbone, with which the line begins.
    """
    backbone = backbone_of(detector)
    leaves = backbone_layers(backbone)
    frozen = sum(not layer.trainable for layer in leaves)
    trainable = sum(int(keras.ops.size(v)) for v in detector.trainable_variables)
    what = f"{frozen} of {len(leaves)} backbone layers frozen"
    if adapted := adapted_layers(backbone):
        what = f"low-rank matrices in {len(adapted)} layers"
    return (
        f"{name}: {detector.count_params():,} parameters, {trainable:,} of them trainable; {what}"
    )
