"""Batch normalization that is fast on CPUs."""

import keras
import tensorflow as tf
from keras import layers

from tfdetect.models.tensors import Tensor


@keras.saving.register_keras_serializable("tfdetect")
class FusedBatchNormalization(layers.BatchNormalization):
    """Batch normalization over the last axis by TensorFlow's fused kernel.

    Keras computes moments and scaling as separate operations; on a CPU the fused kernel makes a
    whole training step up to twice as fast. When synchronized across replicas, it is Keras's own.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        if not training or not self.trainable or self.synchronized or len(inputs.shape) != 4:
            return layers.BatchNormalization.call(self, inputs, training=training, mask=mask)
        channels = inputs.shape[-1:]
        result, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32) if self.scale else tf.ones(channels),
            offset=tf.cast(self.beta, tf.float32) if self.center else tf.zeros(channels),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the unbiased variance; Keras averages the biased one.
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        variance *= (count - 1) / count
        momentum = self.momentum
        self.moving_mean.assign(self.moving_mean * momentum + mean * (1 - momentum))
        self.moving_variance.assign(self.moving_variance * momentum + variance * (1 - momentum))
        return result
