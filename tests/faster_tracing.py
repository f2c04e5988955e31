"""Make TensorFlow trace the networks of the tests in less time; what they compute is the same.

Tracing takes most of the time of a test that trains, and most of it is Python code of TensorFlow.
"""

import functools

import tensorflow as tf
from keras.src.saving import saving_lib
from tensorflow.core.config import flags
from tensorflow.python.eager import context
from tensorflow.python.framework import auto_control_deps_utils, func_graph, op_def_library, ops
from tensorflow.python.util.object_identity import ObjectIdentitySet


def trace_faster() -> None:
    """Replace the slow parts of tracing."""
    # Keras finds out again for each layer which attributes of its kind contain no weights.
    if hasattr(saving_lib, "get_attr_skipset"):
        saving_lib.get_attr_skipset = functools.cache(saving_lib.get_attr_skipset)
    # Where in the program an operation was made takes the longer the deeper the calls are.
    ops._create_c_op = functools.partial(ops._create_c_op, extract_traceback=False)
    # TensorFlow's own, in C++; off by default.
    flags.config().graph_building_optimization.reset(True)
    _check_types_without_listing_them()
    _keep_inputs()
    _look_for_resources_in_types()
    _stay_in_a_graph()
    # Each operation asks for the version of its graph, which is always that of this TensorFlow.
    versions = tf.Graph().graph_def_versions
    ops.Graph.graph_def_versions = property(lambda graph: versions)


def _check_types_without_listing_them() -> None:
    """List the types that an operation allows only if it gets another one."""
    own = op_def_library._SatisfiesTypeConstraint

    def check_type(dtype, attr_def, param_name):
        allowed = attr_def.HasField("allowed_values") and attr_def.allowed_values.list.type
        if allowed and dtype not in allowed:
            own(dtype, attr_def, param_name)

    op_def_library._SatisfiesTypeConstraint = check_type


def _keep_inputs() -> None:
    """Let an operation know its inputs, which are else looked up by name."""
    own = ops.Operation.__dict__["from_node_def"].__func__

    def from_node_def(cls, node_def, g, inputs=None, *args, **kwargs):
        made = own(cls, node_def, g, inputs, *args, **kwargs)
        if inputs is not None:
            made._inputs_val = tuple(inputs)
        return made

    ops.Operation.from_node_def = classmethod(from_node_def)


def _look_for_resources_in_types() -> None:
    """Of an operation without resources, ask for no attributes that say how it uses them."""
    own = auto_control_deps_utils.get_read_write_resource_inputs

    def reads_and_writes(op):
        if any(tensor.dtype == tf.resource for tensor in op.inputs):
            return own(op)
        return ObjectIdentitySet(), ObjectIdentitySet()

    auto_control_deps_utils.get_read_write_resource_inputs = reads_and_writes


class _Current:
    """A context in which the graph stays what it is."""

    def __init__(self, graph):
        self._graph = graph

    def __enter__(self):
        return self._graph

    def __exit__(self, *error):
        return False


def _stay_in_a_graph() -> None:
    """Do not enter the graph that is the current one, as each of its operations does."""
    own = func_graph.FuncGraph.as_default

    def as_default(graph):
        current = ops._default_graph_stack.get_default() is graph
        return _Current(graph) if current and not context.executing_eagerly() else own(graph)

    func_graph.FuncGraph.as_default = as_default
