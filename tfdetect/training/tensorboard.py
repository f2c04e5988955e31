"""Write errors as images, and features for the projector, into the TensorBoard log of a run."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.files import write_bytes, write_text
from tfdetect.imaging.resampling import antialiased
from tfdetect.models.feature_outputs import features_of_images, with_features
from tfdetect.models.inference import probabilities
from tfdetect.training.weight_average import AverageWeights

MAX_ERRORS = 16  # pictures of each kind of error
MAX_POINTS = 2048  # images of the projector
_SPRITE_SIDE = 64  # pixels of an image of the projector, at most; the whole picture has 8192 a side


class ErrorImages(keras.callbacks.Callback):
    """Writes the validation images that are misclassified with the highest confidence.

    The verdict is fake from P(fake) 0.5 on, before calibration.

    Args:
        detector: maps images to logits; its weights are those that are trained.
        validation: batches of images, targets and weights.
        folder: the folder of the log.
        every: epochs between pictures.
        average: moving average of the weights, which predicts in their place.
    """

    def __init__(
        self,
        detector: keras.Model,
        validation: tf.data.Dataset,
        folder: Path,
        every: int,
        average: AverageWeights | None,
    ) -> None:
        super().__init__()
        self.every = every
        self._detector, self._validation, self._average = detector, validation, average
        self._folder = str(folder / "validation")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        with self._average.in_place() if self._average else nullcontext():
            found = _worst(self._detector, self._validation)
        with tf.summary.create_file_writer(self._folder).as_default(step=epoch):
            for kind, errors in found.items():
                if errors:
                    scores = ", ".join(f"{p_fake:.3f}" for p_fake, _ in errors)
                    tf.summary.image(
                        f"errors/{kind}", np.stack([image for _, image in errors]),
                        max_outputs=MAX_ERRORS, description=f"P(fake), in order: {scores}",
                    )  # fmt: skip


def _worst(
    detector: keras.Model, validation: tf.data.Dataset
) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Return P(fake) and pixels, uint8 [H, W, 3], of the worst errors of both kinds."""
    found: dict[str, list[tuple[float, np.ndarray]]] = {"false alarms": [], "missed fakes": []}
    for images, fake, outputs in _predicted(detector, validation):
        p_fake = 1 - probabilities(outputs["label"])[:, 0].numpy()
        for kind, wrong in (
            ("false alarms", (p_fake >= 0.5) & ~fake), ("missed fakes", (p_fake < 0.5) & fake),
        ):  # fmt: skip
            errors = [(float(p_fake[i]), images[i]) for i in np.flatnonzero(wrong)]
            found[kind] = sorted(found[kind] + errors, key=lambda pair: -abs(pair[0] - 0.5))
            del found[kind][MAX_ERRORS:]
    return found


def _predicted(
    detector: keras.Model, validation: tf.data.Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, tf.Tensor]]]:
    """Yield batches of images uint8 [n, H, W, 3], whether each is fake, and outputs; no padding."""
    predict = tf.function(
        lambda images: detector(images, training=False), reduce_retracing=True, autograph=False
    )
    for images, target, weights in validation:
        rows = np.flatnonzero(weights["label"].numpy())
        if len(rows):
            outputs = {name: tf.gather(x, rows) for name, x in predict(images).items()}
            fake = target["label"].numpy().reshape(len(images), -1)[rows, 0] > 0
            yield images.numpy()[rows].astype(np.uint8), fake, outputs


def write_projector(detector: keras.Model, validation: tf.data.Dataset, folder: Path) -> None:
    """Write features of validation images for TensorBoard's projector, with the images.

    If there are more than `MAX_POINTS` images, some at equal distances are taken.

    Args:
        detector: as it is kept.
        validation: batches of images, targets and weights.
        folder: the folder of the log.
    """
    from tensorboard.plugins import projector

    kept: list[tuple[np.ndarray, bool, float, np.ndarray]] = []
    seen, step, side = 0, 1, _SPRITE_SIDE
    for images, fake, outputs in _predicted(with_features(detector), validation):
        side = min(_SPRITE_SIDE, *images.shape[1:3])
        small = antialiased(images, [side, side]).numpy().round()
        features = np.asarray(features_of_images(outputs, tf.shape(images)[0]))
        p_fake = 1 - probabilities(outputs["label"])[:, 0].numpy()
        for each in zip(features, fake.tolist(), p_fake.tolist(), small):
            if seen % step == 0:
                kept.append(each)
            seen += 1
        while len(kept) > MAX_POINTS:
            kept, step = kept[::2], 2 * step
    if not kept:
        return
    target = folder / "validation"
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "features.tsv", _lines(row[0].tolist() for row in kept))
    rows = (("fake" if fake else "authentic", f"{p:.4f}") for _, fake, p, _ in kept)
    write_text(target / "images.tsv", _lines([("class", "P(fake)"), *rows]))
    columns = int(np.ceil(np.sqrt(len(kept))))
    sprite = np.zeros((columns * columns, side, side, 3), np.uint8)
    sprite[: len(kept)] = [image for *_, image in kept]
    grid = sprite.reshape(columns, columns, side, side, 3).swapaxes(1, 2)
    png = tf.io.encode_png(grid.reshape(columns * side, columns * side, 3)).numpy()
    write_bytes(target / "images.png", png)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name, embedding.tensor_path = "features of validation images", "features.tsv"
    embedding.metadata_path, embedding.sprite.image_path = "images.tsv", "images.png"
    embedding.sprite.single_image_dim.extend([side, side])
    projector.visualize_embeddings(str(target), config)


def _lines(rows: Iterable[Iterable]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)
