"""The order of training images, as a pure function of the seed and the position in the stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdetect.data.strata import Strata
from tfdetect.imaging.geometry import fold_in

POOL_BYTES = 128 * 2**20  # size of the shards from which images are drawn at a time
# Number of the random draws that order the shards; augmentation steps have small numbers.
SHARD_DRAWS = 2**31 - 2
_BATCH_DRAWS = -1  # stands in place of a stratum's number in the seed that orders a batch


@dataclass(frozen=True)
class StratifiedOrder:
    """An endless order of images that takes given fractions of the batches from each stratum.

    Each stratum is reshuffled for every pass over it. The image at a position of the stream is
    a pure function of the seed. The fractions may change over the batches: they are given at some
    of them, linear in between, and constant after the last one. All batches up to any one have
    each stratum's fractions, to within one image.

    Attributes:
        members: int64 [n], indices of images, stratum after stratum.
        starts: int64 [s], where each stratum begins in `members`.
        sizes: int64 [s], number of images in each stratum.
        points: int64 [p], the batches at which fractions are given, the first of them 0.
        bounds: float64 [p, s + 1], cumulative fractions from 0 to 1 there.
    """

    members: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor
    points: tf.Tensor
    bounds: tf.Tensor

    @classmethod
    def of(
        cls, strata: tf.Tensor, weights: tf.Tensor, points: Sequence[int] | tf.Tensor = (0,)
    ) -> "StratifiedOrder":
        """Build the order of images from their strata.

        Args:
            strata: int32 [n], the stratum of each image.
            weights: float64 [s] or [p, s], the relative weight of each stratum. Strata without an
                image are left out, and the others share their weight.
            points: int64 [p], the batches at which the weights are given, ascending from 0.
        """
        weights = tf.reshape(weights, [-1, weights.shape[-1]])
        count = weights.shape[1]
        sizes = tf.math.bincount(strata, None, count, count, tf.int64)
        sizes = tf.ensure_shape(sizes, [count])
        weights = tf.where(sizes > 0, weights, tf.zeros_like(weights))
        bounds = tf.cumsum(weights / tf.reduce_sum(weights, axis=1, keepdims=True), axis=1)
        bounds = tf.where(bounds > 1 - 1e-12, tf.ones_like(bounds), bounds)
        bounds = tf.pad(bounds, [[0, 0], [1, 0]])
        members = tf.argsort(strata, stable=True) if count > 1 else tf.range(tf.size(strata))
        starts = tf.cumsum(sizes, exclusive=True)
        return cls(tf.cast(members, tf.int64), starts, sizes, tf.constant(points, tf.int64), bounds)

    def indices(self, positions: tf.Tensor, batch_size: int, seed: int | tf.Tensor) -> tf.Tensor:
        """Return the images at positions of the stream.

        Args:
            positions: int64 [n], whole batches, the first of which begins at a multiple of
                `batch_size`.
            batch_size: number of images in a batch.
            seed: integer that determines the order.

        Returns:
            int64 [n], indices of images.
        """
        slot = positions % batch_size
        batch = positions // batch_size
        if self.sizes.shape[0] > 1:  # so that no replica gets images of one stratum only
            slot = permute(slot, [seed, batch, _BATCH_DRAWS], batch_size)
        segment = tf.searchsorted(self.points, batch, side="right") - 1
        # Images taken from the strata up to each one, before this batch and inside it.
        before = self._taken(segment, batch, batch_size)
        inside = self._taken(segment, batch + 1, batch_size) - before
        stratum = tf.reduce_sum(tf.cast(slot[:, None] >= inside[:, 1:], tf.int64), axis=1)

        def of_stratum(table: tf.Tensor, offset: int = 0) -> tf.Tensor:
            return tf.gather(table, stratum + offset, batch_dims=1)

        # How many images of its stratum came earlier in the stream.
        earlier = tf.gather(self._taken_before(batch_size), segment)
        drawn = of_stratum(earlier) + of_stratum(before, 1) - of_stratum(before)
        drawn += slot - of_stratum(inside)
        size = tf.gather(self.sizes, stratum)
        shuffled = permute(drawn % size, [seed, drawn // size, stratum], size)
        return tf.gather(self.members, tf.gather(self.starts, stratum) + shuffled)

    def _taken(self, segment: tf.Tensor, batch: tf.Tensor, batch_size: int) -> tf.Tensor:
        """Return how many images were taken in a segment before a batch, int64 [n, s + 1].

        Args:
            segment: int [n], the point after which the segment begins.
            batch: int64 [n], at most the point that ends it.
            batch_size: number of images in a batch.
        """
        last = self.points.shape[0] - 1
        following = tf.minimum(segment + 1, last)
        start, end = tf.gather(self.points, segment), tf.gather(self.points, following)
        passed = tf.cast(batch - start, tf.float64)[:, None]
        length = tf.cast(tf.maximum(end - start, 1), tf.float64)[:, None]
        first = tf.gather(self.bounds, segment)
        change = tf.gather(self.bounds, following) - first
        # The sum of the fractions of each batch, which rise or fall linearly.
        rise = change * (passed * (passed - 1) / (2 * length)) * batch_size
        return tf.cast(tf.floor(passed * batch_size * first + rise), tf.int64)

    def _taken_before(self, batch_size: int) -> tf.Tensor:
        """Return how many images of each stratum came before each point, int64 [p, s]."""
        segments = tf.range(self.points.shape[0] - 1)
        taken = self._taken(segments, self.points[1:], batch_size)
        return tf.pad(tf.cumsum(taken[:, 1:] - taken[:, :-1]), [[1, 0], [0, 0]])

    def weights_at(self, batch: tf.Tensor) -> tf.Tensor:
        """Return the fraction of each stratum, float64 [s], at a batch, int64 scalar."""
        position = tf.cast(batch, tf.float64)
        points = tf.cast(self.points, tf.float64)
        segment = tf.searchsorted(points, position[None], side="right")[0] - 1
        following = tf.minimum(segment + 1, self.points.shape[0] - 1)
        length = tf.maximum(points[following] - points[segment], 1.0)
        part = (position - points[segment]) / length
        bounds = (1 - part) * self.bounds[segment] + part * self.bounds[following]
        return bounds[1:] - bounds[:-1]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The image at each position of the training stream, as a function of the seed.

    Attributes:
        strata: int32 [n], the stratum of each image.
        batch_size: number of images in a batch.
        seed: integer that determines the order.
        whole: the order over all images.
    """

    strata: tf.Tensor
    batch_size: int
    seed: int
    whole: StratifiedOrder

    @classmethod
    def of(cls, strata: Strata, *, batch_size: int, seed: int) -> "Sampler":
        """Build a sampler; see the class."""
        # Tensors made here are shared by the graphs, each of which would hold a copy otherwise.
        keys = tf.constant(strata.of_images)
        whole = StratifiedOrder.of(keys, tf.constant(strata.weights), strata.points)
        return cls(strata=keys, batch_size=batch_size, seed=seed, whole=whole)

    def indices(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the images, int64 [n], at positions int64 [n] that form whole batches."""
        return self.whole.indices(positions, self.batch_size, self.seed)

    def pool_order(self, rows: tf.Tensor, pool: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """Return the order in which the images of a pool of shards are taken.

        Args:
            rows: int64 [m], the images of the pool.
            pool: int64 scalar, the number of the pool in the stream.
            batch: int64 scalar, the batch at which fractions are looked up.

        Returns:
            int64 [m], indices into `rows`.
        """
        weights = self.whole.weights_at(batch)
        order = StratifiedOrder.of(tf.gather(self.strata, rows), weights)
        seed = tf.random.stateless_uniform(
            [], fold_in([self.seed, SHARD_DRAWS], pool), None, None, tf.int64
        )
        return order.indices(tf.range(tf.size(rows, tf.int64)), self.batch_size, seed)


@dataclass(frozen=True, kw_only=True)
class ShardPools:
    """The order in which shards are read: several at a time, shuffled anew for each pass.

    Attributes:
        lengths: int64 [s], number of images in each shard.
        shards_per_pool: number of shards that are held at a time.
        seed: integer that determines the order.
    """

    lengths: np.ndarray
    shards_per_pool: int
    seed: int

    @classmethod
    def of(cls, *, lengths: np.ndarray, largest_bytes: int, seed: int) -> "ShardPools":
        """Build pools of at most `POOL_BYTES`, and at least one shard.

        Args:
            lengths: int64 [s], number of images in each shard.
            largest_bytes: size of the largest shard.
            seed: integer that determines the order.
        """
        fitting = max(1, min(len(lengths), POOL_BYTES // largest_bytes))
        return cls(lengths=lengths, shards_per_pool=fitting, seed=seed)

    @property
    def pools_per_pass(self) -> int:
        """Number of pools in one pass over all shards."""
        return -(-len(self.lengths) // self.shards_per_pool)

    def shards_in(self, pool: tf.Tensor) -> tf.Tensor:
        """Return the indices of the shards, int64 [p], in pool number `pool` of the stream."""
        count = len(self.lengths)
        seed = [self.seed, pool // self.pools_per_pass, SHARD_DRAWS]
        order = permute(tf.range(count, dtype=tf.int64), seed, count)
        first = pool % self.pools_per_pass * self.shards_per_pool
        return order[first:][: self.shards_per_pool]

    def find(self, image: int) -> tuple[int, int]:
        """Return the pool that contains the image at a position, and its offset in the pool.

        Pools before it are counted and not read.
        """
        passes, skip = divmod(image, int(self.lengths.sum()))
        pool = passes * self.pools_per_pass
        while True:
            shards = self.shards_in(tf.constant(pool, tf.int64)).numpy()
            size = int(self.lengths[shards].sum())
            if skip < size:
                return pool, skip
            pool, skip = pool + 1, skip - size


def permute(index: tf.Tensor, seed: Sequence, size: tf.Tensor | int) -> tf.Tensor:
    """Return where each index goes in the permutation that a seed determines.

    Args:
        index: int64 [n], from 0 to `size` - 1.
        seed: three integers, or integer tensors that broadcast to [n].
        size: length of the permutation, an integer or int64 [n].

    Returns:
        int64 [n], from 0 to `size` - 1.
    """
    count = tf.shape(index)
    seeds = tf.stack([tf.broadcast_to(tf.cast(s, tf.int64), count) for s in seed], axis=1)
    last = tf.broadcast_to(tf.cast(size, tf.int64) - 1, count)
    # tf.random.experimental.index_shuffle pads a batch of seeds along the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=last, rounds=4)
