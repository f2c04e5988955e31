"""Explanation maps of one image: Grad-CAM, integrated gradients, occlusion and attention.

All maps but attention have a sign: positive values raise the score for fake. They are computed here
because no maintained library does: xplique requires an older TensorFlow, tf-keras-vis and
tf-explain are older than Keras 3, and `saliency` occludes one pixel at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import spearmanr

from tfdetect.explanation.attention import attention
from tfdetect.explanation.patches import flattened, patch_grid
from tfdetect.explanation.views import Views, mean_color, middle_window
from tfdetect.models.detector_parts import named_backbones

ATTENTION = "attention"
LARGE = 10_000_000  # parameters; the maps of larger networks take fewer steps and patches
MAX_BATCH = 32  # images that go through the network at once
FORWARD_PIXELS = 2**19  # that go through the network at once
GRADIENT_PIXELS = 2**17  # the same with gradients: CLIP takes 0.3 GB for 224 x 224 pixels
ROUNDING = 1e-5  # relative changes of a score up to this are rounding errors of float32
# Layers of front-ends that map an image to coordinates other than its own.
_MOVING_LAYERS = ("Spectrum", "LogDCT", "SimplestPatch")


class Effort(NamedTuple):
    """How accurately maps are computed: the more steps and patches, the more passes.

    Attributes:
        steps: number of steps of the integral of `integrated_gradients`.
        overlap: whether neighboring patches of `occlusion` overlap by half, which takes four times
            as many patches.
        every: occlude only every n-th patch; 1 occludes all.
    """

    steps: int
    overlap: bool
    every: int = 1


# By whether the network is large. On a photograph, the maps of photo_detector with 8 and with 24
# steps have a rank correlation of 0.98.
_FINE = {False: Effort(48, overlap=True), True: Effort(8, overlap=False)}
# For the sanity check, which compares only the order of the pixels.
_COARSE = {False: Effort(8, overlap=False), True: Effort(2, overlap=False, every=3)}


class Explainer:
    """Computes the maps of one detector.

    Args:
        detector: the detector from `load_detector`.
        members: names of an ensemble's members.
    """

    def __init__(self, detector: keras.Model, members: Sequence[str] = ()):
        self.detector = detector
        self._large = detector.count_params() > LARGE
        self.backbones = [
            (name, features) for name, backbone, features in named_backbones(detector, members)
            if not _moves_positions([*detector.layers, *backbone._flatten_layers()])
        ]  # fmt: skip
        outputs = {str(number): features for number, (_, features) in enumerate(self.backbones)}
        outputs["label"] = detector.output["label"]
        inputs = detector.inputs if len(detector.inputs) > 1 else detector.inputs[0]
        self._model = keras.Model(inputs, outputs)
        self._compiled_score = self._compile(lambda *views: self._score(self._label(views)))
        self._gradients: dict[int, tf.types.experimental.PolymorphicFunction] = {}

    def _compile(self, function: Callable) -> tf.types.experimental.PolymorphicFunction:
        """Return a compiled function of an image's views, for any number of images."""
        views = [tf.TensorSpec(i.shape, tf.float32) for i in self.detector.inputs]
        return tf.function(function, autograph=False, input_signature=views)

    def score(self, views: Views) -> np.ndarray:
        """Return the uncalibrated logit of P(fake) of each image, float32 [B].

        Args:
            views: as for `maps`, of B images.
        """
        return self._compiled_score(*(tf.convert_to_tensor(v, tf.float32) for v in views)).numpy()

    def maps(
        self,
        views: Views,
        view: int = 0,
        effort: Effort | None = None,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> dict[str, np.ndarray]:
        """Return every available map of one image.

        Args:
            views: what the detector sees of the image.
            view: number of the view to map; the others stay unchanged.
            effort: how accurately; by default 48 steps and overlapping patches, or for a large
                network 8 steps and no overlap.
            on_step: called with the name of the map that is computed next.

        Returns:
            float32 [H, W] by name, of the middle window if there are several. The names are
            "Grad-CAM" (or "Grad-CAM, MEMBER" for each member of an ensemble that sees this view),
            "integrated gradients", "occlusion" and, for transformers, "attention", which has no
            sign.
        """
        effort = effort or _FINE[self._large]
        found = self.grad_cam(views, view)
        on_step("integrated gradients")
        gradients = middle_window(self._integrated(views, view, effort.steps)[None])
        found["integrated gradients"] = gradients.sum(-1).astype(np.float32)
        on_step("occlusion")
        found["occlusion"] = self.occlusion(views, view, effort.overlap, effort.every)
        return found | self.attention(views, view)

    def grad_cam(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Return Grad-CAM (Selvaraju et al., ICCV 2017) at the last feature map.

        The ReLU of the paper is left out, so that evidence for authentic is visible too.

        Args:
            views, view: see `maps`.

        Returns:
            float32 [H, W] by name; empty if the features have no positions in the image, as those
            of class tokens and behind front-ends that transform the image.
        """
        found: dict[str, np.ndarray] = {}
        if not self.backbones:
            return found
        height, width = views[view].shape[-3:-1]
        inputs = [tf.constant(v, tf.float32) for v in views]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            for image in inputs:
                tape.watch(image)
            outputs = self._call(inputs)
            score = tf.reduce_sum(self._score(outputs["label"]))
        for number, (name, _) in enumerate(self.backbones):
            values = outputs[str(number)]
            gradients = tape.gradient(score, values)
            if gradients is None:
                continue
            if len(views) > 1 and not _depends_on(tape, values, inputs[view]):
                continue
            cam = tf.reduce_sum(tf.reduce_mean(gradients, (1, 2), keepdims=True) * values, -1)
            cam = tf.image.resize(cam[..., None], (height, width))[..., 0].numpy()
            many = len(self.backbones) > 1
            found[f"Grad-CAM, {name}" if many else "Grad-CAM"] = cam[len(cam) // 2]
        return found

    def integrated_gradients(
        self, views: Views, view: int = 0, steps: int = 48
    ) -> tuple[np.ndarray, float]:
        """Return integrated gradients (Sundararajan et al., ICML 2017) and their relative error.

        The baseline of the integral is the mean color of the image.

        Args:
            views, view: see `maps`.
            steps: number of steps of the integral.

        Returns:
            The map, float32 [H, W], summed over colors; and its relative error: by how much its
            sum differs from the difference of the scores of image and baseline.
        """
        total = self._integrated(views, view, steps)
        both = self._repeated(views, 2)
        both[view] = tf.concat([views[view], mean_color(views[view])], 0)
        image, baseline = self.score(both)
        difference = float(image - baseline)
        error = abs(total.sum() - difference) / max(abs(difference), 1e-6)
        return middle_window(total[None]).sum(-1).astype(np.float32), error

    def _integrated(self, views: Views, view: int, steps: int) -> np.ndarray:
        """Return integrated gradients of each value of a view, float64 [(crops,) H, W, 3]."""
        image = views[view].astype(np.float32)
        base = mean_color(image)
        total = np.zeros(image.shape[1:], np.float64)
        fractions = (np.arange(steps) + 0.5) / steps  # midpoints
        fractions = fractions.reshape(-1, *[1] * (image.ndim - 1))
        for some in np.array_split(fractions, math.ceil(steps / _batch(views, GRADIENT_PIXELS))):
            given = self._repeated(views, len(some))
            given[view] = tf.constant(base + some * (image - base), tf.float32)
            total += self._gradient(given, view).numpy().sum(0) / steps
        return total * (image - base)[0]

    def _gradient(self, views: Sequence[tf.Tensor], view: int) -> tf.Tensor:
        """Return the gradient of the scores with respect to one of the views."""

        def compute(*given: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(given[view])
                score = tf.reduce_sum(self._score(self._label(given)))
            return tape.gradient(score, given[view])

        if view not in self._gradients:
            self._gradients[view] = self._compile(compute)
        return self._gradients[view](*views)

    def occlusion(
        self, views: Views, view: int = 0, overlap: bool = True, every: int = 1
    ) -> np.ndarray:
        """Return how far the logit falls if a patch loses its texture (Zeiler & Fergus, 2014).

        A patch is replaced by its mean color, which keeps brightness and removes noise and detail.

        Args:
            views, view: see `maps`.
            overlap, every: see `Effort`.

        Returns:
            float32 [H, W], the mean over the patches that cover a pixel, rounded to `ROUNDING`
            times the score; NaN where no patch covers it.
        """
        image = views[view].astype(np.float32)
        height, width = image.shape[-3:-1]
        patches = list(patch_grid(height, width, overlap))[::every]
        falls, covered = np.zeros((2, height, width), np.float32)
        changes = [[], *([patch] for patch in patches)]  # the first one is the image itself
        scores: list[float] = []
        batch = _batch(views, FORWARD_PIXELS)
        for start in range(0, len(changes), batch):
            some = changes[start : start + batch]
            given = self._repeated(views, len(some))
            given[view] = tf.constant(np.concatenate([flattened(image, each) for each in some]))
            scores.extend(self.score(given).tolist())
        # Without rounding, the ranks of patches that change nothing would be random.
        unit = ROUNDING * max(1.0, abs(scores[0]))
        for patch, after in zip(patches, scores[1:]):
            falls[patch] += round((scores[0] - after) / unit) * unit
            covered[patch] += 1
        return np.divide(falls, covered, out=np.full_like(falls, np.nan), where=covered > 0)

    def attention(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Return which positions a transformer attends to; see `attention.attention`.

        Args:
            views, view: see `maps`.

        Returns:
            float32 [H, W], 0 or more, under the name "attention"; empty for ensembles and networks
            that are no transformers.
        """
        if len(views) > 1:
            return {}
        found = attention(lambda: self._label([tf.constant(views[view], tf.float32)]),
                          self.detector, views[view].shape[-3:-1])  # fmt: skip
        return {} if found is None else {ATTENTION: found}

    def sanity(self, views: Views, maps: dict[str, np.ndarray], view: int = 0) -> dict[str, float]:
        """Return the correlation of maps with those of the same network with shuffled weights.

        A map that does not change shows the image, not what was learned (Adebayo et al., Sanity
        checks for saliency maps, NeurIPS 2018). The shuffled network's maps are computed with
        fewer steps and patches.

        Returns:
            Spearman's rank correlation of absolute values by name, -1 to 1.
        """
        with shuffled(self.detector):
            others = self.maps(views, view, _COARSE[self._large])
        return {
            name: _correlation(np.abs(values), np.abs(others[name]))
            for name, values in maps.items() if name in others
        }  # fmt: skip

    def _call(self, views: Sequence) -> dict[str, tf.Tensor]:
        return self._model(list(views) if len(views) > 1 else views[0], training=False)

    def _label(self, views: Sequence) -> tf.Tensor:
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


def _batch(views: Views, pixels: int) -> int:
    """Return how many copies of one image's views go through the network at once."""
    return min(MAX_BATCH, max(1, pixels // sum(view[..., 0].size for view in views)))


@contextmanager
def shuffled(model: keras.Model) -> Iterator[None]:
    """Shuffle the values of every weight of a model while the context is open."""
    before = model.get_weights()
    draw = np.random.default_rng(0)
    model.set_weights([draw.permutation(weight.ravel()).reshape(weight.shape) for weight in before])
    try:
        yield
    finally:
        model.set_weights(before)


def _moves_positions(layers: list[keras.layers.Layer]) -> bool:
    """Return whether the output positions of one of the layers are not image positions."""
    return any(type(layer).__name__ in _MOVING_LAYERS for layer in layers)


def _depends_on(tape: tf.GradientTape, values: tf.Tensor, image: tf.Tensor) -> bool:
    """Return whether features depend on an input."""
    return tape.gradient(values, image) is not None


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation where `other` is not NaN; 0 if one of them is constant."""
    known = ~np.isnan(other)
    one, other = one[known], other[known]
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
