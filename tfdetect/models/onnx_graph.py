"""Convert networks to ONNX, with operations that ONNX has and that run fast."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfdetect.models.coded_matrix import CODEBOOK_SUFFIX, CODES_SUFFIX

if TYPE_CHECKING:
    import onnx

_OPSET = 18  # of ONNX; ONNX Runtime reads it from version 1.14 on
_ONE = "tfdetect/one"  # a constant in graphs
_TO_THE_END = 1_000_000_000  # tf2onnx's end of a slice that has none


def to_onnx(function: Any) -> "onnx.ModelProto":
    """Convert a network to ONNX.

    Args:
        function: a tf.function with an input signature.
    """
    import tf2onnx

    with _optimized_in_place(), _copied_lengths_kept(), _single_numbers_added():
        model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=_OPSET)
    bind_captures(model, function.get_concrete_function())
    express_erfc(model)
    drop_whole_slices(model)
    leave_out_empty_scales(model)
    fuse_scale_and_offset(model)
    store_codes(model, function.get_concrete_function())
    return model


@contextmanager
def _optimized_in_place() -> Iterator[None]:
    """Keep tf2onnx from copying the network before each of its optimizations.

    The copies are for when one fails. They take most of the time, and memory fifty times that of
    the weights.
    """
    name = "TF2ONNX_CATCH_ERRORS"  # tf2onnx reads it at each conversion
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def _copied_lengths_kept() -> Iterator[None]:
    """Keep tf2onnx from changing what a 0 in the shape of a Reshape stands for.

    It is the length of the input there. tf2onnx (1.17) merges two successive reshapes by removing
    the first one, and a 0 in the second one then copies from another tensor. Attention with one
    head over an unknown number of positions has such shapes, as in SegFormer.
    """
    from tf2onnx.optimizer import back_to_back_optimizer

    steps, key = back_to_back_optimizer._func_map, ("Reshape",)
    merge = steps[key]

    def merge_without_zeros(graph: Any, first: Any, others: list[Any]) -> list[Any]:
        shapes = [node.inputs[1] for node in others]
        if any(shape.is_const() and 0 in shape.get_tensor_value() for shape in shapes):
            return []
        return merge(graph, first, others)

    steps[key] = merge_without_zeros
    try:
        yield
    finally:
        steps[key] = merge


@contextmanager
def _single_numbers_added() -> Iterator[None]:
    """Keep tf2onnx from taking one number that is added to a convolution for its bias.

    tf2onnx (1.17) looks for the longest side of that number. MobileNetV3 in its larger form adds 3.
    """
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    add = TransposeOptimizer._add_handler

    def add_number(self: Any, transpose: Any, node: Any) -> bool:
        added = node.inputs[1]
        if added.is_const() and added.get_tensor_value(as_list=False).ndim == 0:
            return self._handle_node_having_branches(transpose, node)
        return add(self, transpose, node)

    TransposeOptimizer._add_handler = add_number
    try:
        yield
    finally:
        TransposeOptimizer._add_handler = add


def bind_captures(
    model: "onnx.ModelProto", function: tf.types.experimental.ConcreteFunction
) -> None:
    """Store the tensors that a function uses beyond its arguments and variables.

    tf2onnx makes inputs of them, and nobody can feed these. Keras-Hub's Swin has such tensors.

    Args:
        model: the model of the function; it is changed.
        function: the function that was converted.
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


def drop_whole_slices(model: "onnx.ModelProto") -> None:
    """Slice only the axes of which something is left out.

    tf2onnx slices every axis of x[:, ::2], the batch from 0 to 1,000,000,000 or so. OpenVINO takes
    that for the largest batch, and refuses networks that join what is sliced with what is not.

    Args:
        model: it is changed; constants that nothing uses any more stay.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    for node in graph.node:
        settings = node.input[1:]  # starts, ends, axes and steps; the last two may be left out
        if node.op_type != "Slice" or len(settings) < 3 or not {*settings} <= {*constants}:
            continue
        table = np.stack([numpy_helper.to_array(constants[name]) for name in settings])
        starts, ends, _, *steps = table
        kept = table[:, (starts != 0) | (ends < _TO_THE_END) | np.any(np.array(steps) != 1, axis=0)]
        if not kept.size:
            node.op_type = "Identity"
            del node.input[1:]
        elif kept.shape != table.shape:
            for position, values in enumerate(kept, 1):
                name = f"{node.output[0]}/slice{position}"
                graph.initializer.append(numpy_helper.from_array(values, name))
                node.input[position] = name


def leave_out_empty_scales(model: "onnx.ModelProto") -> None:
    """Leave out inputs of a Resize that are empty tensors, which means the same.

    tf2onnx gives it one empty tensor as region and as scales. Converters to half precision keep the
    scales in single precision by a Cast, and with that ONNX Runtime takes them as given.

    Args:
        model: it is changed; constants that nothing uses any more stay.
    """
    empty = {each.name for each in model.graph.initializer if 0 in each.dims}
    for node in model.graph.node:
        if node.op_type == "Resize":
            inputs = ["" if name in empty else name for name in node.input]
            del node.input[:]
            node.input.extend(inputs)


def fuse_scale_and_offset(model: "onnx.ModelProto") -> int:
    """Replace products with and sums of one constant per channel by batch normalizations.

    TensorFlow's batch normalization becomes a Mul and an Add. Where these cannot be merged with a
    convolution before them, as in residual networks that normalize first, ONNX Runtime leaves its
    blocked memory layout for the Add and the activation behind it; for a BatchNormalization it does
    not.

    Args:
        model: the model with channels first; it is changed.

    Returns:
        The number of pairs that were replaced.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    pairs = list(_scaled_and_moved(graph))
    for product, total, source, scale, offset in pairs:
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
    used |= {each.name for each in graph.output}
    for each in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(each)
    return len(pairs)


def _scaled_and_moved(
    graph: "onnx.GraphProto",
) -> "Iterator[tuple[onnx.NodeProto, onnx.NodeProto, str, np.ndarray, np.ndarray]]":
    """Yield each Mul whose only user is an Add, both with a constant of each channel.

    Yields:
        Mul, Add, what is multiplied, and both constants.
    """
    from onnx import numpy_helper

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

    for product in graph.node:
        if product.op_type != "Mul" or (scaled := split(product)) is None:
            continue
        [result] = product.output
        if result in kept or [u.op_type for u in users.get(result, [])] != ["Add"]:
            continue
        [total] = users[result]
        added = split(total)
        if added is not None and added[0] == result and added[1].shape == scaled[1].shape:
            yield product, total, *scaled, added[1]


def store_codes(model: "onnx.ModelProto", function: tf.types.experimental.ConcreteFunction) -> None:
    """Store the codes of each `CodedMatrix` instead of the matrix that they stand for.

    TensorFlow computes the matrices of what is constant when it is converted. ONNX Runtime does
    when it loads the model, so that only the file is smaller.

    Args:
        model: the model of the function; it is changed.
        function: the function that was converted.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    found: dict[str, list[np.ndarray]] = {}
    for variable in function.variables:
        found.setdefault(variable.name.removesuffix(":0"), []).append(variable.numpy())
    nodes = []
    for name in [name for name in found if name.endswith(CODES_SUFFIX)]:
        books = found[name.removesuffix(CODES_SUFFIX) + CODEBOOK_SUFFIX]
        for codes, book in zip(found[name], books, strict=True):
            matrix = book[codes].reshape(len(codes), -1)
            for each in [each for each in graph.initializer if [*each.dims] == [*matrix.shape]]:
                if not np.array_equal(numpy_helper.to_array(each), matrix):
                    continue
                graph.initializer.remove(each)
                values = {"codes": codes, "codebook": book, "shape": np.array(matrix.shape)}
                for part, value in values.items():
                    graph.initializer.append(numpy_helper.from_array(value, f"{each.name}/{part}"))
                parts = [f"{each.name}/{part}" for part in ("codes", "indices", "codebook", "rows")]
                nodes += [
                    helper.make_node("Cast", parts[:1], parts[1:2], to=TensorProto.INT32),
                    helper.make_node("Gather", [parts[2], parts[1]], parts[3:], axis=0),
                    helper.make_node("Reshape", [parts[3], f"{each.name}/shape"], [each.name]),
                ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
