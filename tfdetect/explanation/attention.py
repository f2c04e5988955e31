"""The attention of a transformer's layers, mapped onto the image."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

# The dropout layers that receive the attention inside keras-hub's own attention layers.
_DROPOUTS = {"WindowAttention": "attention_dropout_layer", "SegFormerMultiheadAttention": "dropout"}


def attention(
    run: Callable[[], object], model: keras.Model, size: tuple[int, int]
) -> np.ndarray | None:
    """Return the attention of a transformer for one image.

    For a plain transformer this is attention rollout (Abnar & Zuidema, ACL 2020) from the class
    tokens, or from the mean of all tokens if there are none. For a transformer with windows or
    stages (Swin, MiT) it is the attention that each position of the last stage receives.

    Args:
        run: calls the model eagerly on one image.
        model: the model.
        size: (height, width) of the image.

    Returns:
        float32 [*size], mean 1; None if the model has no attention.
    """
    found: list[tf.Tensor] = []
    with _recording(model, found) as layers:
        if layers:
            run()
    blocks = [a.numpy().astype(np.float64).mean(1) for a in found]  # over heads: [windows, q, k]
    if not blocks:
        return None
    plain = all(b.shape == blocks[0].shape and b.shape[1] == b.shape[2] for b in blocks)
    if plain and blocks[0].shape[0] == 1:
        attended = _rollout([b[0] for b in blocks], size)
    else:
        attended = _received(blocks, size)
    if attended is None:
        return None
    attended = tf.image.resize(attended[..., None].astype(np.float32), size).numpy()[..., 0]
    return attended / max(attended.mean(), 1e-12)


def _rollout(blocks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray | None:
    """Return attention rollout from the class tokens, which come first, to the grid of patches."""
    count = len(blocks[0])
    joined = np.eye(count)
    for block in blocks:
        mixed = (block + np.eye(count)) / 2
        joined = mixed / mixed.sum(1, keepdims=True) @ joined
    grid = _grid(count, size)
    if grid is None:
        return None
    rows, columns = grid
    leading = count - rows * columns
    received = (joined[:leading] if leading else joined).mean(0)[leading:]
    return received.reshape(rows, columns)


def _received(blocks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray | None:
    """Return the attention received in the first block of the last stage (no shifted windows)."""
    last = blocks[-1].shape
    block = next(b for b in blocks if b.shape == last)
    received = block.mean(1)  # [windows, keys]
    windows = _grid(received.shape[0], size, exact=True)
    keys = _grid(received.shape[1], size, exact=True)
    if windows is None or keys is None:
        return None
    tiles = received.reshape(*windows, *keys)
    return tiles.transpose(0, 2, 1, 3).reshape(windows[0] * keys[0], windows[1] * keys[1])


def _grid(count: int, size: tuple[int, int], exact: bool = False) -> tuple[int, int] | None:
    """Return rows and columns of a grid of patches, with the aspect ratio of the image.

    Of the `count` tokens, as few as possible are left for class tokens; none if `exact`. None if no
    grid fits.
    """
    aspect = size[0] / size[1]
    for left in range(1 if exact else min(8, count)):
        rows = round(np.sqrt((count - left) * aspect))
        if rows and (count - left) % rows == 0:
            columns = (count - left) // rows
            if abs(rows / columns - aspect) < 0.15 * aspect:
                return rows, columns
    return None


@contextmanager
def _recording(model: keras.Model, found: list[tf.Tensor]) -> Iterator[int]:
    """Append the attention of every layer to `found` while the context is open.

    Args:
        model: the model.
        found: gets a tensor [windows, heads, queries, keys] from each call of a layer.

    Yields:
        The number of layers with attention.
    """
    changed = []
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.MultiHeadAttention):
            changed.append((layer, "_compute_attention", _record_scores(layer, found)))
        elif type(layer).__name__ in _DROPOUTS:
            dropout = getattr(layer, _DROPOUTS[type(layer).__name__])
            changed.append((dropout, "call", _record_input(dropout, found)))
    for layer, name, function in changed:
        object.__setattr__(layer, name, function)
    try:
        yield len(changed)
    finally:
        for layer, name, _ in changed:
            object.__delattr__(layer, name)


def _record_scores(layer: keras.layers.MultiHeadAttention, found: list[tf.Tensor]) -> Callable:
    """Return the layer's attention function, which also records the attention."""
    original = layer._compute_attention
    signature = inspect.signature(original)

    def compute(*arguments, **options):
        given = signature.bind(*arguments, **options)
        given.arguments["return_attention_scores"] = True
        output, scores = original(*given.args, **given.kwargs)
        found.append(scores)
        return output, scores

    return compute


def _record_input(layer: keras.layers.Layer, found: list[tf.Tensor]) -> Callable:
    """Return the layer's call function, which also records its input."""
    original = layer.call

    def call(inputs, *arguments, **options):
        found.append(inputs)
        return original(inputs, *arguments, **options)

    return call
