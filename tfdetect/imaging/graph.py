"""How functions become graphs of operations."""

import tensorflow as tf

# tf.data would translate Python's `if` and `for` into operations first, which takes longer than to
# trace a function. Functions of this package are written in operations.
traced_as_written = tf.autograph.experimental.do_not_convert

# A branch that is not taken still costs a little for each of its operations; as a function that
# stays one, it costs one operation.
rare_branch = tf.function(
    autograph=False, experimental_attributes={"_noinline": True, "_tf_data_function": True}
)
