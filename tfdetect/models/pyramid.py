"""Feature maps of a backbone, from fine to coarse, for mask heads."""

import math
from typing import Any

import keras
from keras import layers

from tfdetect.models.tensors import Tensor

MAX_STRIDE = 32


@keras.saving.register_keras_serializable("tfdetect")
class Pyramid(keras.Model):
    """A backbone, with the same layers and weights, that also returns intermediate feature maps.

    It is saved as the backbone that it was made from: layers of keras-hub can be rebuilt only by
    their models.

    Args:
        backbone: image [B, H, W, 3] -> features [B, h, w, c].
        features: name of the layer whose output is the features; by default the last.
        maps: names of the layers whose outputs follow. None finds the last map [B, h, w, c] at
            each existing stride of 1, 2, 4 ... 32, from fine to coarse, with tokens reshaped to
            their grid; an empty list returns the features only.
    """

    def __init__(
        self, backbone: keras.Model, features: str = "", maps: list | None = None, **kwargs: Any
    ) -> None:
        image, outputs = _outputs(backbone, features, maps)
        if maps == []:
            (outputs,) = outputs
        super().__init__(inputs=image, outputs=outputs, **{"name": backbone.name, **kwargs})
        # Not as attributes: Keras would track the layers twice.
        self._made_of = lambda: (backbone, features, maps)

    def with_maps(self, maps: list[str] | None) -> "Pyramid":
        """Return the same backbone with other maps."""
        backbone, features, _ = self._made_of()
        return Pyramid(backbone, features, maps)

    def get_config(self) -> dict:
        backbone, features, maps = self._made_of()
        return {
            "backbone": keras.saving.serialize_keras_object(backbone), "features": features,
            "maps": maps, "name": self.name,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> "Pyramid":
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def with_maps(model: keras.Model, maps: list[str] | None = None) -> Pyramid:
    """Return the `Pyramid` of a backbone's model, which may be one already."""
    return model.with_maps(maps) if isinstance(model, Pyramid) else Pyramid(model, maps=maps)


def _outputs(model: keras.Model, features: str, maps: list[str] | None) -> tuple:
    """Return the input of a model, and its features and maps."""

    def named(name: str) -> Tensor:
        return model.get_layer(name).output if name else model.output

    if maps is not None:
        return model.inputs[0], [named(features), *map(named, maps)]
    inner = next((layer for layer in model.layers if _is_network(layer)), None)
    if inner is None:
        return model.inputs[0], [named(features), *_feature_maps(model)]
    # A model of keras-hub, and layers after it that put its tokens in order.
    image = keras.Input(model.input_shape[1:])
    inner_image, outputs = _outputs(inner, "", None)
    x, *found = keras.Model(inner_image, outputs, name=inner.name)(image)
    for layer in model.layers[model.layers.index(inner) + 1 :]:
        x = layer(x)
    return image, [x, *found]


def _is_network(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential)


def _feature_maps(model: keras.Model) -> list:
    height, width, _ = model.input_shape[1:]
    found: dict[int, tuple[Any, tuple[int, int, int] | None]] = {}
    for x in _tensors(model):
        if len(x.shape) == 3 and (grid := _grid(x.shape[1], height, width)):
            found[height // grid[0]] = x, grid
        elif len(x.shape) == 4 and x.shape[-1] > 3 and (x.shape[1] or 0) > 1:
            stride = 2 ** round(math.log2(height / x.shape[1]))
            # Unpadded convolutions leave slightly less than the exact fraction.
            if stride <= MAX_STRIDE and 0.9 * height <= x.shape[1] * stride <= 1.05 * height:
                found[stride] = x, None
    maps = []
    for stride in sorted(found):
        x, at = found[stride]
        if at is not None:
            rows, columns, leading = at
            if leading:
                x = layers.Cropping1D((leading, 0), name=f"patches_{stride}")(x)
            x = layers.Reshape((rows, columns, x.shape[-1]), name=f"map_{stride}")(x)
        maps.append(x)
    return maps


def _tensors(model: keras.Model) -> list:
    """Return the inputs of all layers in order, and the output, without zero-padded tensors."""
    own = [
        layer for layer in model.layers if not isinstance(layer, (layers.InputLayer, keras.Model))
    ]
    # Padding shifts positions.
    padded = {id(layer.output) for layer in own if isinstance(layer, layers.ZeroPadding2D)}
    tensors = [x for layer in own for x in keras.tree.flatten(layer.input)] + [model.output]
    return [x for x in tensors if id(x) not in padded]


def _grid(tokens: int, height: int, width: int) -> tuple[int, int, int] | None:
    """Return rows, columns and the number of leading extra tokens, at most two."""
    for stride in (4, 8, 16, 32):
        rows, columns = height // stride, width // stride
        if rows > 1 and 0 <= tokens - rows * columns <= 2:
            return rows, columns, tokens - rows * columns
    return None
