"""Low-rank adaptation (LoRA): a frozen backbone learns products of small matrices.

Hu et al., ICLR 2022. Keras's dense layers do it themselves; this says which, from which start, and
makes plain layers of them when the training is done. Effort (Yan et al., ICML 2025) trains the
smallest singular components of the weights and freezes the others; "residual" starts from these.
"""

import fnmatch

import keras
import numpy as np
from keras import layers

from tfdetect.core.errors import UserError
from tfdetect.core.model_settings import LowRank

_KINDS = (layers.Dense, layers.EinsumDense)
_QUERIES_AND_VALUES = ("query*", "value*", "[qv]_proj")  # as Keras and keras-hub name them


def adapt(backbone: keras.Model, rule: LowRank) -> None:
    """Add trainable low-rank matrices to the dense layers of a backbone that the rule names.

    The backbone computes the same as before.

    Args:
        backbone: the backbone with its initial weights; it is changed.
        rule: names of layers, rank, scale and start.

    Raises:
        UserError: a pattern matches no dense layer, or the rank is larger than a layer's.
    """
    found = [layer for layer in backbone._flatten_layers() if isinstance(layer, _KINDS)]
    names = [layer.name for layer in found]
    patterns = rule.targets or [p for p in _QUERIES_AND_VALUES if fnmatch.filter(names, p)]
    for pattern in patterns or ("query",):
        if not fnmatch.filter(names, pattern):
            listed = ", ".join(dict.fromkeys(names)) or "none"
            raise UserError(
                f"model.lora.targets: no dense layer of the backbone matches {pattern!r}. Its "
                f"dense layers are {listed}."
            )
    for layer in found:
        if not any(fnmatch.fnmatch(layer.name, pattern) for pattern in patterns):
            continue
        largest = min(layer.kernel.shape[-1], int(np.prod(layer.kernel.shape[:-1])))
        if rule.rank > largest:
            raise UserError(
                f"model.lora.rank: {rule.rank}, but the weights of {layer.name} have rank "
                f"{largest}."
            )
        layer.enable_lora(rule.rank, rule.alpha or rule.rank)
        if rule.start == "residual":
            _start_from_residual(layer)


def adapted_layers(model: keras.Model) -> list[layers.Layer]:
    """Return the layers of a model that have low-rank matrices."""
    return [x for x in model._flatten_layers() if isinstance(x, _KINDS) and x.lora_enabled]


def freeze_all_but_low_rank(backbone: keras.Model) -> None:
    """Freeze every variable of a backbone but its low-rank matrices."""
    for layer in backbone._flatten_layers(include_self=False):
        layer.trainable = False
    for layer in adapted_layers(backbone):
        layer.lora_kernel_a.trainable = layer.lora_kernel_b.trainable = True


def merge(model: keras.Model) -> None:
    """Add the low-rank matrices to the weights that they adapt, and remove them."""
    for layer in adapted_layers(model):
        layer._kernel.assign(layer.kernel)  # the latter includes the product
        layer._tracker.unlock()
        layer._untrack_variable(layer.lora_kernel_a)
        layer._untrack_variable(layer.lora_kernel_b)
        layer._tracker.lock()
        layer.lora_enabled, layer.lora_rank = False, None


def _start_from_residual(layer: layers.Layer) -> None:
    """Split the weights into a frozen part and the product of the smallest singular components."""
    kernel = keras.ops.convert_to_numpy(layer._kernel).astype(np.float64)
    rank = layer.lora_rank
    left, values, right = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
    roots = np.sqrt(values[-rank:] * rank / layer.lora_alpha)
    a, b = left[:, -rank:] * roots, roots[:, None] * right[-rank:]
    layer.lora_kernel_a.assign(a.reshape(layer.lora_kernel_a.shape))
    layer.lora_kernel_b.assign(b.reshape(layer.lora_kernel_b.shape))
    layer._kernel.assign(kernel - (a @ b).reshape(kernel.shape) * layer.lora_alpha / rank)
