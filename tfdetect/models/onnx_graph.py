"""Rewrites parts of an ONNX graph into operations that ONNX has, or that run faster."""

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    import onnx

_ONE = "tfdetect/one"  # a constant in graphs


def bind_captures(
    model: "onnx.ModelProto", function: tf.types.experimental.ConcreteFunction
) -> None:
    """Store the tensors that a function uses beyond its arguments and variables.

    tf2onnx makes inputs of them, and nobody can feed these. Keras-Hub's Swin has such tensors.

    Args:
        model: of the function; it is changed.
        function: that was converted.
    """
    from onnx import numpy_helper

    captured = {
        inner.name: outer for outer, inner in function.graph.captures if outer.dtype != tf.resource
    }
    for each in [each for each in model.graph.input if each.name in captured]:
        value = captured[each.name].numpy()
        model.graph.initializer.append(numpy_helper.from_array(value, each.name))
        model.graph.input.remove(each)


def express_erfc(model: "onnx.ModelProto") -> None:
    """Replace TensorFlow's Erfc, which ONNX does not have, by 1 - Erf.

    GELU is made of it, in transformers for example.

    Args:
        model: it is changed.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        [result] = node.output
        nodes.append(helper.make_node("Erf", node.input, [f"{result}/erf"]))
        nodes.append(helper.make_node("Sub", [_ONE, f"{result}/erf"], [result]))
    if len(nodes) > len(graph.node):
        graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), _ONE))
        del graph.node[:]
        graph.node.extend(nodes)


def fuse_scale_and_offset(model: "onnx.ModelProto") -> int:
    """Replace products with and sums of one constant per channel by batch normalizations.

    TensorFlow's batch normalization becomes a Mul and an Add. Where these cannot be merged with a
    convolution before them, as in residual networks that normalize first, ONNX Runtime leaves its
    blocked memory layout for the Add and the activation behind it; for a BatchNormalization it does
    not.

    Args:
        model: with channels first; it is changed.

    Returns:
        The number of pairs that were replaced.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    kept = {each.name for each in graph.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def split(node: "onnx.NodeProto") -> tuple[str, np.ndarray] | None:
        """Return the other input, and the constant of each channel, of a Mul or an Add."""
        for name, other in (node.input, reversed(node.input)):
            value = constants.get(name, np.zeros(()))
            one_a_channel = value.ndim in (3, 4) and 1 < value.size == value.shape[-3]
            if one_a_channel and value.dtype == np.float32:
                return other, value.reshape(-1)
        return None

    pairs = []
    for product in graph.node:
        if product.op_type != "Mul" or (scaled := split(product)) is None:
            continue
        [result] = product.output
        if result in kept or [u.op_type for u in users.get(result, [])] != ["Add"]:
            continue
        [total] = users[result]
        added = split(total)
        if added is not None and added[0] == result and added[1].shape == scaled[1].shape:
            pairs.append((product, total, scaled, added[1]))
    for product, total, (source, scale), offset in pairs:
        [result] = total.output
        zeros, ones = np.zeros_like(scale), np.ones_like(scale)
        values = {"scale": scale, "offset": offset, "mean": zeros, "variance": ones}
        for name, value in values.items():
            graph.initializer.append(numpy_helper.from_array(value, f"{result}/{name}"))
        fused = helper.make_node(
            "BatchNormalization", [source, *(f"{result}/{name}" for name in values)], [result],
            name=f"{result}/fused", epsilon=0.0,
        )  # fmt: skip
        position = next(i for i, node in enumerate(graph.node) if node is product)
        graph.node.insert(position, fused)
        graph.node.remove(product)
        graph.node.remove(total)
    used = {name for node in graph.node for name in node.input}
    for each in [each for each in graph.initializer if each.name not in used | kept]:
        graph.initializer.remove(each)
    return len(pairs)
