"""A plug-in with a loss, a head, a front-end and an augmentation step of your own.

Name the file in an experiment (`plugins: [examples/plugin_parts.py]`) and use the names that are
registered here: `training.loss`, `model.head`, `model.front_end` and `data.augment`.
"""

import keras
import tensorflow as tf

import tfdetect


@tfdetect.register_augmentation("salt")
def salt(images, seed, *, fraction=0.01):
    """Return uint8 images [B, h, w, 3] in which a fraction of the pixels is white."""
    drawn = tf.random.stateless_uniform(tf.shape(images)[:3], seed)
    return tf.where(drawn[..., None] < fraction, tf.constant(255, images.dtype), images)


@tfdetect.register_front_end("laplacian")
def laplacian(images):
    """Return the Laplacian of images in 0..255, float32 [B, h, w, 3], of a scale near 1."""
    kernel = tf.constant([[0, 1, 0], [1, -4, 1], [0, 1, 0]], tf.float32)[..., None, None]
    kernel = tf.tile(kernel, [1, 1, 3, 1])
    return keras.ops.depthwise_conv(images / 32, kernel, padding="same")


@tfdetect.register_head("two_layers")
def two_layers(features, outputs, dropout, l2, *, units=64):
    """Return logits float32 [B, outputs] from features [B, h, w, c]."""
    x = keras.layers.GlobalAveragePooling2D()(features)
    x = keras.layers.Dense(units, "relu", kernel_regularizer=keras.regularizers.L2(l2))(x)
    x = keras.layers.Dropout(dropout)(x)
    return keras.layers.Dense(outputs, dtype="float32")(x)


@tfdetect.register_loss("focal")
def focal(classes, label_smoothing, *, gamma=2.0):
    """Return the focal loss of the label's logits, of two classes."""
    return keras.losses.BinaryFocalCrossentropy(
        gamma=gamma, from_logits=True, label_smoothing=label_smoothing
    )
