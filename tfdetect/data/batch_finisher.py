"""`BatchFinisher`: makes a training batch of loaded images: targets, augmentation, weights."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdetect.core.data_settings import Augmentation
from tfdetect.data.augmentation import augment, mixes_targets
from tfdetect.data.examples import Examples
from tfdetect.data.targets import ANSWERS, empty_mask_is_authentic, mark_unknown, targets
from tfdetect.imaging.draws import Part, drawing_for


@dataclass(frozen=True, kw_only=True)
class BatchFinisher:
    """Makes a training batch of loaded images: targets, augmentation and weights.

    Attributes:
        policy: the augmentation steps.
        size: (height, width) of the images in a batch, in pixels.
        classes: number of classes.
        seed: integer that determines the augmentation.
        labels: int32 [n], the class of each image of the split.
        has_mask: bool [n], which of them have a mask; None without masks.
        class_weights: float32 [classes], loss weight of each class; None for equal weights.
        answers: float32 [n, logits], a teacher's answers of each image; None without a teacher.
    """

    policy: tuple[Augmentation, ...]
    size: tuple[int, int]
    classes: int
    seed: int
    labels: tf.Tensor
    has_mask: tf.Tensor | None = None
    class_weights: tf.Tensor | None = None
    answers: tf.Tensor | None = None

    @classmethod
    def of(
        cls,
        examples: Examples,
        *,
        policy: tuple[Augmentation, ...],
        size: tuple[int, int],
        classes: int,
        seed: int,
        weigh_classes: bool,
    ) -> "BatchFinisher":
        """Return the finisher of some examples.

        Args:
            examples: the images and what is known of them.
            policy, size, classes, seed: see the class.
            weigh_classes: whether the loss weighs images so that all classes count equally.
        """
        weights = None
        if weigh_classes:
            counts = np.bincount(examples.labels, minlength=classes)
            weights = len(examples) / (classes * np.maximum(counts, 1))
            weights = tf.constant(weights, tf.float32)
        has_mask = None if examples.has_mask is None else tf.constant(examples.has_mask)
        answers = None if examples.answers is None else tf.constant(examples.answers)
        return cls(
            policy=policy, size=size, classes=classes, seed=seed,
            labels=tf.constant(examples.labels), has_mask=has_mask, class_weights=weights,
            answers=answers,
        )  # fmt: skip

    def __call__(
        self,
        positions: tf.Tensor,
        indices: tf.Tensor,
        images: tf.Tensor,
        masks: tf.Tensor | None = None,
        part: Part | None = None,
    ) -> tuple:
        """Finish a batch, or a part of one.

        Args:
            positions: int64 [B], positions in the stream, ascending.
            indices: int64 [B], which images of the split these are.
            images: uint8 [B, h, w, 3].
            masks: uint8 [B, h, w, 1], 1 where altered; None without masks.
            part: which part of its batch this is; None for all of it.

        Returns:
            Images, targets and, with class weights, weights; see `TrainingStream.batches`.
        """
        labels = tf.gather(self.labels, indices)
        target = targets(labels, self.classes)
        if self.classes > 2 and mixes_targets(self.policy):
            target = tf.one_hot(labels, self.classes)
        if masks is not None:
            masks = mark_unknown(masks, labels, tf.gather(self.has_mask, indices))
        first = positions[0] if part is None else positions[0] - part.start
        with drawing_for(part):
            images, target, masks = augment(
                images, self.policy, self.size, self.seed, first, target, masks
            )
        target = {"label": target}
        if masks is not None:
            target = {"label": empty_mask_is_authentic(target["label"], masks), "mask": masks}
        if self.answers is not None:
            target[ANSWERS] = tf.gather(self.answers, indices)
        batch = tf.cast(images, tf.float32), target
        if self.class_weights is None:
            return batch
        weights = {"label": tf.gather(self.class_weights, labels)}
        if masks is not None:
            weights["mask"] = tf.ones(images.shape[0])
        if self.answers is not None:
            weights[ANSWERS] = tf.ones(images.shape[0])
        return *batch, weights
