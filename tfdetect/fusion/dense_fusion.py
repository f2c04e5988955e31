"""The fusion `dense`: one dense unit on the members' P(fake), trained by gradient descent.

The unit is often trained on the members' training images; here it is trained on validation images,
so that members that overfit their training images get no more weight than they deserve.
"""

import keras
import numpy as np
import tensorflow as tf

LEARNING_RATE = 0.001
BATCH_SIZE = 32
EPOCHS = 10
PLATEAU_FACTOR, PLATEAU_PATIENCE, MIN_LEARNING_RATE = 0.001, 2, 1e-6
EARLY_STOPPING_PATIENCE = 3


def fit_dense(p: np.ndarray, fake: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Train a dense unit with Adam; plateau schedule and early stopping watch the training loss.

    Args:
        p: the members' P(fake), float [n, M].
        fake: bool [n].
        weights: the weights of the images, float [n].

    Returns:
        Kernel [M] and bias of the fused logit.
    """
    unit = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=0))
    model = keras.Sequential([keras.Input((p.shape[1],)), unit])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.BinaryCrossentropy(from_logits=True),
        steps_per_execution=32,  # a step is shorter than the call of one
    )
    examples = (p.astype(np.float32), fake.astype(np.float32)[:, None], weights.astype(np.float32))
    stream = tf.data.Dataset.from_tensor_slices(examples).shuffle(len(p), seed=0).batch(BATCH_SIZE)
    model.fit(stream, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[
        keras.callbacks.ReduceLROnPlateau(
            "loss", PLATEAU_FACTOR, PLATEAU_PATIENCE, mode="min", min_lr=MIN_LEARNING_RATE
        ),
        keras.callbacks.EarlyStopping("loss", patience=EARLY_STOPPING_PATIENCE, mode="min"),
    ])  # fmt: skip
    kernel, bias = unit.get_weights()
    return kernel[:, 0].astype(np.float64), float(bias[0])
