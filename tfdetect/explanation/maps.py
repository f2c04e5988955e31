"""Where in an image a detector found what: Grad-CAM, integrated gradients, occlusion, attention.

Every map is signed: above zero speaks for fake, below for authentic. No kept library serves:
xplique pins an older TensorFlow, tf-keras-vis and tf-explain precede Keras 3, and occlusion by
`saliency` takes one pass a pixel.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import spearmanr

from tfdetect.core.run import Run
from tfdetect.explanation.attention import attention
from tfdetect.models.detector import backbones_of, filtered_of

STEPS = 48  # of the integral
FRONT_END = "front-end"
_BATCH = 32  # images a pass, at most
_CELLS = 8  # patches of occlusion along a side; neighbors overlap by half
_NOT_IN_PLACE = ("Spectrum", "LogDCT", "SimplestPatch")  # front-ends that move what they see

Views = list[np.ndarray]


class Explainer:
    """The maps of one detector.

    Args:
        detector: what `load_detector` gives.
        members: names of an ensemble's members.
    """

    def __init__(self, detector: keras.Model, members: Sequence[str] = ()):
        self.detector = detector
        named = {f"trunk_{number}": name for number, name in enumerate(members)}
        self.trunks = [
            (named.get(name, name), features) for name, features in backbones_of(detector)
            if not _moves_places([*detector.layers, *detector.get_layer(name)._flatten_layers()])
        ]  # fmt: skip
        outputs = {str(number): features for number, (_, features) in enumerate(self.trunks)}
        outputs["label"] = detector.output["label"]
        given = detector.inputs if len(detector.inputs) > 1 else detector.inputs[0]
        self._inner = keras.Model(given, outputs)

    def score(self, views: Views) -> np.ndarray:
        """Log-odds of fake before calibration, float32 [B]; see `maps` for the views."""
        return self._score(self._label(views)).numpy()

    def maps(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Every map there is of one image.

        Args:
            views: what the detector sees of it, float32 [1, H, W, 3] each, 0..255; an
                ensemble's member with windows of its own sees [1, crops, H, W, 3].
            view: which of them to map; the others stay as they are.

        Returns:
            float32 [H, W] by name, of the middle window where there are several. Names are
            "Grad-CAM" (one for each member of an ensemble that sees this view), "integrated
            gradients", "occlusion" and, for transformers, "attention", which has no sign.
        """
        return {
            **self.grad_cam(views, view),
            "integrated gradients": self.integrated_gradients(views, view)[0],
            "occlusion": self.occlusion(views, view),
            **self.attention(views, view),
        }

    def grad_cam(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Grad-CAM (Selvaraju et al., ICCV 2017) at the last map of features.

        Its ReLU is left out, so that what speaks for authentic shows too.

        Returns:
            float32 [H, W] by name; empty where the features keep no places: of front-ends that
            transform the image, of class tokens.
        """
        height, width = views[view].shape[-3:-1]
        inputs = [tf.constant(v, tf.float32) for v in views]
        found = {}
        with tf.GradientTape(persistent=True) as tape:
            for image in inputs:
                tape.watch(image)
            outputs = self._call(inputs)
            score = tf.reduce_sum(self._score(outputs["label"]))
        for number, (name, _) in enumerate(self.trunks):
            values = outputs[str(number)]
            slopes = tape.gradient(score, values)
            if slopes is None or (len(views) > 1 and not _sees(tape, values, inputs[view])):
                continue
            drawn = tf.reduce_sum(tf.reduce_mean(slopes, (1, 2), keepdims=True) * values, -1)
            drawn = tf.image.resize(drawn[..., None], (height, width))[..., 0].numpy()
            many = len(self.trunks) > 1
            found[f"Grad-CAM, {name}" if many else "Grad-CAM"] = drawn[len(drawn) // 2]
        return found

    def integrated_gradients(
        self, views: Views, view: int = 0, steps: int = STEPS
    ) -> tuple[np.ndarray, float]:
        """Integrated gradients (Sundararajan et al., ICML 2017) from the image's mean color.

        Returns:
            float32 [H, W], summed over colors, and how much of the difference of the scores
            the map's sum misses, as a share of it.
        """
        image = views[view].astype(np.float32)
        base = np.broadcast_to(image.mean((-3, -2), keepdims=True), image.shape)
        total = np.zeros(image.shape[1:], np.float64)
        shares = (np.arange(steps) + 0.5) / steps  # midpoints
        shares = shares.reshape(-1, *[1] * (image.ndim - 1))
        for some in np.array_split(shares, math.ceil(steps / _BATCH)):
            given = self._repeated(views, len(some))
            given[view] = tf.constant(base + some * (image - base), tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(given[view])
                score = tf.reduce_sum(self._score(self._label(given)))
            total += tape.gradient(score, given[view]).numpy().sum(0) / steps
        total *= (image - base)[0]
        bare = [base if number == view else other for number, other in enumerate(views)]
        gap = float(self.score(views)[0] - self.score(bare)[0])
        missed = abs(total.sum() - gap) / max(abs(gap), 1e-6)
        return _middle(total.sum(-1), image).astype(np.float32), missed

    def occlusion(self, views: Views, view: int = 0) -> np.ndarray:
        """How much P(fake)'s log-odds fall where a patch loses its texture (Zeiler & Fergus, 2014).

        A patch is replaced by its mean color: brightness stays, noise and detail go.

        Returns:
            float32 [H, W], the mean over the patches that cover a pixel.
        """
        image = views[view].astype(np.float32)
        height, width = image.shape[-3:-1]
        places = list(cells(height, width, overlap=True))
        before = self.score(views)[0]
        drawn, covered = np.zeros((2, height, width), np.float32)
        for start in range(0, len(places), _BATCH):
            some = places[start : start + _BATCH]
            given = self._repeated(views, len(some))
            given[view] = tf.constant(np.concatenate([flattened(image, [p]) for p in some]))
            for place, after in zip(some, self.score(given)):
                drawn[place] += before - after
                covered[place] += 1
        return drawn / covered

    def attention(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Where a transformer's last features look; see `attention.attention`.

        Returns:
            float32 [H, W], from 0, under "attention"; empty of other networks and ensembles.
        """
        if len(views) > 1:
            return {}
        drawn = attention(lambda: self._label([tf.constant(views[view], tf.float32)]),
                          self.detector, views[view].shape[-3:-1])  # fmt: skip
        return {} if drawn is None else {"attention": drawn}

    def sanity(self, views: Views, maps: dict[str, np.ndarray], view: int = 0) -> dict[str, float]:
        """How alike maps are to those of the same network with shuffled weights.

        A map that survives that shows the image, not what was learned (Adebayo et al., NeurIPS
        2018).

        Returns:
            Spearman's correlation of the maps' absolute values, by name.
        """
        with shuffled(self.detector):
            others = self.maps(views, view)
        return {
            name: _correlation(np.abs(drawn), np.abs(others[name]))
            for name, drawn in maps.items() if name in others
        }  # fmt: skip

    def _call(self, views: list) -> dict[str, tf.Tensor]:
        return self._inner(views if len(views) > 1 else views[0], training=False)

    def _label(self, views: list) -> tf.Tensor:
        return self._call([tf.convert_to_tensor(v, tf.float32) for v in views])["label"]

    @staticmethod
    def _score(label: tf.Tensor) -> tf.Tensor:
        label = tf.cast(label, tf.float32)
        if label.shape[-1] == 1:
            return label[:, 0]
        return tf.reduce_logsumexp(label[:, 1:], axis=1) - label[:, 0]

    @staticmethod
    def _repeated(views: Views, count: int) -> list:
        return [tf.repeat(tf.constant(v, tf.float32), count, axis=0) for v in views]


def views_of(run: Run, parts: list[np.ndarray]) -> tuple[Views, int]:
    """What an `Explainer` takes of an image, and which view to map: the largest.

    Args:
        parts: uint8 [1, crops, H, W, 3] of each of the run's views, as `view_dataset` gives them.

    Returns:
        Views, of windows the middle one where an ensemble does not want them all.
    """
    views = []
    for part in parts:
        count = part.shape[1]
        alone = len(parts) == 1 or count == 1
        views.append((part[:, count // 2] if alone else part).astype(np.float32))
    return views, int(np.argmax([np.prod(view.size) for view in run.views]))


@contextmanager
def shuffled(model: keras.Model, seed: int = 0) -> Iterator[None]:
    """The model with the values of every weight in random order, then as it was again."""
    before = model.get_weights()
    draw = np.random.default_rng(seed)
    model.set_weights([
        draw.permutation(weight.ravel()).reshape(weight.shape) for weight in before
    ])  # fmt: skip
    try:
        yield
    finally:
        model.set_weights(before)


def cells(height: int, width: int, overlap: bool = False) -> Iterator[tuple[slice, slice]]:
    """Patches, about an eighth of a side each, that cover an image; neighbors may overlap by
    half.
    """
    for down in _spans(height, overlap):
        for across in _spans(width, overlap):
            yield down, across


def flattened(images: np.ndarray, places: list[tuple[slice, slice]]) -> np.ndarray:
    """A copy of images [..., H, W, 3] whose patches at `places` have their mean color alone."""
    images = images.copy()
    for down, across in places:
        patch = images[..., down, across, :]
        patch[...] = patch.mean((-3, -2), keepdims=True)
    return images


def feature_maps(detector: keras.Model) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images [B, H, W, 3] to their maps of features [B, h, w, C] by name.

    They are what the front-end leaves, where there is one, and the backbone's last.
    """
    front = filtered_of(detector)
    found = {} if front is None or len(front.shape) != 4 else {FRONT_END: front}
    found |= dict(backbones_of(detector))
    model = keras.Model(detector.inputs[0], list(found.values())) if found else None

    def of(images: np.ndarray) -> dict[str, np.ndarray]:
        if model is None:
            return {}
        values = model(tf.constant(images, tf.float32), training=False)
        values = values if isinstance(values, list | tuple) else [values]
        return {name: v.numpy().astype(np.float32) for name, v in zip(found, values)}

    return of


def _moves_places(layers: list[keras.layers.Layer]) -> bool:
    """Whether features of these layers, an ensemble's trunk or all of a detector, lie elsewhere."""
    return any(type(layer).__name__ in _NOT_IN_PLACE for layer in layers)


def _sees(tape: tf.GradientTape, values: tf.Tensor, image: tf.Tensor) -> bool:
    """Whether features depend on an input."""
    return tape.gradient(values, image) is not None


def _spans(length: int, overlap: bool) -> list[slice]:
    side = max(2, length // _CELLS)
    step = max(1, side // 2) if overlap else side
    return [slice(start, start + side) for start in [*range(0, length - side, step), length - side]]


def _middle(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The middle window's map of [H, W] or [crops, H, W]."""
    return drawn if image.ndim == 4 else drawn[len(drawn) // 2]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)
