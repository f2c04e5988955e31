"""Published PyTorch weights brought into our detectors, number by number."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tfdetect.errors import UserError
from tfdetect.models.detector import backbone_layers, backbone_of

# Of each detector: the name of its last layer there, which of two logits is fake's, and whether
# it was trained on BGR.
_PUBLISHED = {
    "cnnspot": ("fc", 1, False),
    "spec": ("fc", 0, True),
    "npr": ("fc1", 1, False),
    "safe": ("fc1", 1, False),
    "probe": ("", 1, False),
}


def convertible() -> list[str]:
    """Names of the detectors whose published weights can be brought in."""
    return sorted(_PUBLISHED)


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .pth, .pt, .bin or .safetensors file, by name.

    Raises:
        UserError: no such file, not readable, or a package is missing.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            state = load_file(path)
        else:
            import torch

            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(
            f'{error.name} is needed to read {path.name}: pip install "tfdetect[convert]"'
        ) from error
    except Exception as error:  # pickle and zip raise many kinds for a bad file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as PyTorch weights: {reason}") from error
    for key in ("model", "state_dict", "net"):  # what training scripts wrap them in
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(hasattr(v, "shape") for v in state.values()):
        raise UserError(f"{path} holds no dictionary of tensors.")
    return {name.removeprefix("module."): np.asarray(value) for name, value in state.items()}


def convert(detector: keras.Model, name: str, state: dict[str, np.ndarray]) -> None:
    """Sets the detector's weights to published ones.

    Args:
        detector: the one that `build_detector` makes of the experiment `name`.
        state: tensors by the published names.

    Raises:
        UserError: the weights are another network's; names what is missing, of another shape or
            left over.
    """
    head, fake, bgr = _PUBLISHED[name]
    names = {} if name == "probe" else _resnet(backbone_of(detector))
    left = {key for key in state if not key.endswith("num_batches_tracked")}
    wrong = []

    def take(variable: keras.Variable, key: str, change: Callable) -> None:
        if key not in state:
            wrong.append(f"{key} is missing")
            return
        left.discard(key)
        value = change(state[key])
        if value.shape != tuple(variable.shape):
            wrong.append(f"{key} has the shape {state[key].shape}")
        else:
            variable.assign(value)

    for layer, key in names.items():
        if isinstance(layer, layers.BatchNormalization):
            for variable, part in ((layer.gamma, "weight"), (layer.beta, "bias"),
                                   (layer.moving_mean, "running_mean"),
                                   (layer.moving_variance, "running_var")):  # fmt: skip
                take(variable, f"{key}.{part}", np.asarray)
        else:
            order = slice(None, None, -1 if bgr and key == "conv1" else 1)
            take(layer.kernel, f"{key}.weight",
                 lambda w, order=order: w[:, order].transpose(2, 3, 1, 0))  # fmt: skip
    dense = detector.get_layer("label")

    def logit(w: np.ndarray) -> np.ndarray:
        """Of two logits the difference, which is the same probability."""
        return w[fake : fake + 1] - w[1 - fake : 2 - fake] if len(w) == 2 else w

    prefix = f"{head}." if head else ""
    take(dense.kernel, f"{prefix}weight", lambda w: logit(w).T)
    take(dense.bias, f"{prefix}bias", logit)
    wrong += [f"{key} belongs nowhere" for key in sorted(left)]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"These are not the weights of {name}: {'; '.join(wrong[:5])}{more}.")


def _resnet(backbone: keras.Model) -> dict[layers.Layer, str]:
    """keras-hub's layers and torchvision's names of the same."""
    names = {}
    for layer in backbone_layers(backbone):
        if isinstance(layer, (layers.Conv2D, layers.BatchNormalization)):
            *place, number, kind = layer.name.split("_")
            if place:
                stack, block = (int("".join(filter(str.isdigit, part))) for part in place)
                inner = f"{'conv' if kind == 'conv' else 'bn'}{number}"
                if number == "0":
                    inner = f"downsample.{0 if kind == 'conv' else 1}"
                names[layer] = f"layer{stack + 1}.{block}.{inner}"
            else:  # conv1_conv and conv1_bn
                names[layer] = "conv1" if kind == "conv" else "bn1"
    return names
