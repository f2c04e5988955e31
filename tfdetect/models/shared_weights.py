"""ONNX files that read their weights from other files of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core.files import checksum
from tfdetect.core.run import SHARED_DIGESTS

if TYPE_CHECKING:
    import onnx

MIN_BYTES = 256  # of a tensor; the reference to a smaller one saves nothing


def share_weights(model: "onnx.ModelProto", files: Sequence[Path]) -> float:
    """Replace weights by references to files that have the same bytes.

    ONNX calls this external data: the name of a file in the same folder, an offset and a length.
    HDF5 files in Keras's archives, which are not compressed, and NumPy's files have arrays as they
    are in memory. Matrices that are transposed there are transposed by the network, which ONNX
    Runtime does once, when it loads it.

    Args:
        model: a model without external data; it is changed, and its metadata get the
            SHA-256 of the files.
        files: files that will be in the folder of the model.

    Returns:
        Fraction of the bytes of the weights that are in these files.
    """
    from onnx import helper, numpy_helper
    from onnx.external_data_helper import set_external_data

    graph = model.graph
    contents = {file: file.read_bytes() for file in files}
    shared, total, used, nodes = 0, 0, set(), []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        total += values.nbytes
        found = _find(values, contents) if values.nbytes >= MIN_BYTES else None
        if found is None:
            continue
        file, offset, transposed = found
        name = tensor.name
        if transposed:
            values, name = values.T, f"{name}/transposed"
            nodes.append(helper.make_node("Transpose", [name], [tensor.name]))
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        set_external_data(tensor, file.name, offset, values.nbytes)
        tensor.ClearField("raw_data")
        shared += values.nbytes
        used.add(file)
    for node in nodes:
        graph.node.insert(0, node)
    entry = model.metadata_props.add()
    entry.key = SHARED_DIGESTS
    entry.value = json.dumps({file.name: checksum(file) for file in files if file in used})
    return shared / total if total else 0.0


def _find(values: np.ndarray, contents: dict[Path, bytes]) -> tuple[Path, int, bool] | None:
    """Return where an array is: the file, its offset, and whether it is transposed there."""
    for file, content in contents.items():
        for transposed in (False, True) if values.ndim == 2 else (False,):
            offset = content.find((values.T if transposed else values).tobytes())
            if offset >= 0:
                return file, offset, transposed
    return None
