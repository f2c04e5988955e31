"""The fusion `dense`: one dense unit on the P(fake) of the members, trained by gradient descent.

Elsewhere such units are often trained on the training images of the members. Here it is trained on
validation images, so that members that overfit their training images do not get a large weight.
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
    """Train a dense unit with Adam, whose schedule and early stopping follow the training loss.

    Args:
        p: P(fake) of the M members, float [n, M].
        fake: bool [n].
        weights: the weights of the images, float [n].

    Returns:
        Kernel, float64 [M], and bias of the fused logit.
    """
    unit = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=0))
    model = keras.Sequential([keras.Input((p.shape[1],)), unit])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.BinaryCrossentropy(from_logits=True),
        steps_per_execution=32,  # a step takes less time than the call of one
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
