"""The order of training images: a pure function of seed and position."""

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Strata:
    """Draws from groups of images in fixed shares, each group reshuffled every pass over it.

    Which image stands at a position of the stream is a pure function of the seed.
    Every batch has each stratum's share, to one image.

    Attributes:
        members: indices of images, stratum after stratum, int64 [n].
        starts: where each stratum begins in `members`, int64 [s].
        sizes: images of each, int64 [s].
        bounds: cumulated shares, float64 [s + 1] from 0 to 1.
    """

    members: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor
    bounds: tf.Tensor

    @classmethod
    def of(cls, keys: tf.Tensor, shares: tf.Tensor) -> "Strata":
        """Strata of images by their key, int32 [n], and the share of each key, float64 [s].

        The share of a key that no image has goes to the others.
        """
        count = shares.shape[0]
        sizes = tf.math.bincount(keys, None, count, count, tf.int64)
        sizes = tf.ensure_shape(sizes, [count])
        shares = tf.where(sizes > 0, shares, tf.zeros_like(shares))
        bounds = tf.cumsum(shares / tf.reduce_sum(shares))
        bounds = tf.where(bounds > 1 - 1e-12, tf.ones_like(bounds), bounds)
        bounds = tf.pad(bounds, [[1, 0]])
        members = tf.argsort(keys, stable=True) if count > 1 else tf.range(tf.size(keys))
        return cls(tf.cast(members, tf.int64), tf.cumsum(sizes, exclusive=True), sizes, bounds)

    def indices(self, positions: tf.Tensor, batch: int, seed: int | tf.Tensor) -> tf.Tensor:
        """The images at positions of the stream, int64 [n], which begin with a batch."""
        place = positions % batch
        number = tf.cast(positions // batch, tf.float64)
        if self.sizes.shape[0] > 1:  # so that no replica gets one stratum only
            place = shuffle(place, [seed, positions // batch, -1], batch)
        # Images of the strata up to each before this batch, and those up to it in this batch.
        before = tf.cast(tf.floor(number[:, None] * batch * self.bounds), tf.int64)
        inside = tf.cast(tf.floor((number[:, None] + 1) * batch * self.bounds), tf.int64) - before
        stratum = tf.reduce_sum(tf.cast(place[:, None] >= inside[:, 1:], tf.int64), axis=1)

        def at(table: tf.Tensor, offset: int = 0) -> tf.Tensor:
            return tf.gather(table, stratum + offset, batch_dims=1)

        drawn = at(before, 1) - at(before) + place - at(inside)
        size = tf.gather(self.sizes, stratum)
        shuffled = shuffle(drawn % size, [seed, drawn // size, stratum], size)
        start = tf.gather(self.starts, stratum)
        return tf.gather(self.members, start + shuffled)


def shuffle(index: tf.Tensor, seed: list, size: tf.Tensor | int) -> tf.Tensor:
    """Where each index in [0, size) goes in the permutation that the seed names. int64 [n]."""
    count = tf.shape(index)
    seeds = tf.stack([tf.broadcast_to(tf.cast(s, tf.int64), count) for s in seed], axis=1)
    last = tf.broadcast_to(tf.cast(size, tf.int64) - 1, count)
    # tf.random.experimental.index_shuffle pads a batch of seeds along the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=last, rounds=4)
