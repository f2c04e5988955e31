"""Explanation maps: Grad-CAM, integrated gradients, occlusion, attention.

Every map but attention is signed: positive values raise the score for fake. No maintained library
serves: xplique pins an older TensorFlow, tf-keras-vis and tf-explain precede Keras 3, and
`saliency` computes occlusion with one pass a pixel.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import spearmanr

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.explanation.attention import attention
from tfdetect.models.detector_parts import backbone_of, front_end_output, named_backbones
from tfdetect.models.pyramid import with_maps

FRONT_END = "front-end"
ATTENTION = "attention"
LARGE = 10_000_000  # parameters from which a network gets fewer steps and patches
BATCH = 32  # images a pass, at most
FORWARD_PIXELS = 2**19  # of a pass that computes scores, at most
GRADIENT_PIXELS = 2**17  # the same with gradients: CLIP's take 0.3 GB for 224 x 224 pixels
ROUNDING = 1e-5  # of a score: what float32 may change of it where nothing else does
CELLS = 8  # patches of occlusion along a side; neighbors overlap by half
# Layers of front-ends whose output positions are not image positions.
_MOVING_LAYERS = ("Spectrum", "LogDCT", "SimplestPatch")

Views = list[np.ndarray]


class Effort(NamedTuple):
    """How many passes through the network the maps of an image take.

    Attributes:
        steps: the number of steps of the integral of `integrated_gradients`.
        overlap: whether neighboring patches of `occlusion` overlap by half, which takes four times
            as many.
        every: one patch of so many is occluded; 1 for all.
    """

    steps: int
    overlap: bool
    every: int = 1


# On a photograph photo_detector's maps with 8 and with 24 steps have a rank correlation of 0.98.
_FINE = {False: Effort(48, overlap=True), True: Effort(8, overlap=False)}
# Where only the order of the pixels is compared.
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
        given = detector.inputs if len(detector.inputs) > 1 else detector.inputs[0]
        self._inner = keras.Model(given, outputs)
        # Prepared once, since occlusion alone takes ten passes for an image.
        self._compiled = self._prepared(lambda *views: self._score(self._label(views)))
        self._slopes: dict[int, tf.types.experimental.PolymorphicFunction] = {}

    def _prepared(self, function: Callable) -> tf.types.experimental.PolymorphicFunction:
        """Return a function of an image's views that is compiled once."""
        views = [tf.TensorSpec(i.shape, tf.float32) for i in self.detector.inputs]
        return tf.function(function, autograph=False, input_signature=views)

    def score(self, views: Views) -> np.ndarray:
        """Return the logit of P(fake) before calibration, float32 [B]; see `maps` for the views."""
        return self._compiled(*(tf.convert_to_tensor(v, tf.float32) for v in views)).numpy()

    def maps(
        self,
        views: Views,
        view: int = 0,
        effort: Effort | None = None,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> dict[str, np.ndarray]:
        """Return every available map of one image.

        Args:
            views: what the detector sees of it, float32 [1, H, W, 3] each, 0..255; an
                ensemble's member with windows of its own sees [1, crops, H, W, 3].
            view: which of them to map; the others stay unchanged.
            effort: by default a sixth of the steps, and patches that do not overlap, for a large
                network.
            on_step: called with what is computed next, in a few words.

        Returns:
            float32 [H, W] by name, of the middle window where there are several. Names are
            "Grad-CAM" (one for each member of an ensemble that sees this view), "integrated
            gradients", "occlusion" and, for transformers, "attention", which has no sign.
        """
        effort = effort or _FINE[self._large]
        found = self.grad_cam(views, view)
        on_step("integrated gradients")
        slopes = middle_window(self._integrated(views, view, effort.steps)[None])
        found["integrated gradients"] = slopes.sum(-1).astype(np.float32)
        on_step("occlusion")
        found["occlusion"] = self.occlusion(views, view, effort.overlap, effort.every)
        return found | self.attention(views, view)

    def grad_cam(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Return Grad-CAM (Selvaraju et al., ICCV 2017) at the last feature map.

        Its ReLU is left out, so that evidence for authentic shows too.

        Returns:
            float32 [H, W] by name; empty where features have no image positions: those of
            front-ends that transform the image, and class tokens.
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
            slopes = tape.gradient(score, values)
            if slopes is None or (len(views) > 1 and not _sees(tape, values, inputs[view])):
                continue
            cam = tf.reduce_sum(tf.reduce_mean(slopes, (1, 2), keepdims=True) * values, -1)
            cam = tf.image.resize(cam[..., None], (height, width))[..., 0].numpy()
            many = len(self.backbones) > 1
            found[f"Grad-CAM, {name}" if many else "Grad-CAM"] = cam[len(cam) // 2]
        return found

    def integrated_gradients(
        self, views: Views, view: int = 0, steps: int = 48
    ) -> tuple[np.ndarray, float]:
        """Return integrated gradients (Sundararajan et al., ICML 2017) from the mean color.

        Args:
            views, view: see `maps`.
            steps: the number of steps of the integral.

        Returns:
            float32 [H, W], summed over colors, and the fraction of the difference of the scores
            that the map's sum misses.
        """
        total = self._integrated(views, view, steps)
        both = self._repeated(views, 2)
        both[view] = tf.concat([views[view], _bare(views[view])], 0)
        image, bare = self.score(both)
        gap = float(image - bare)
        missed = abs(total.sum() - gap) / max(abs(gap), 1e-6)
        return middle_window(total[None]).sum(-1).astype(np.float32), missed

    def _integrated(self, views: Views, view: int, steps: int) -> np.ndarray:
        """Return integrated gradients of each value of a view, float64 [(crops,) H, W, 3]."""
        image = views[view].astype(np.float32)
        base = _bare(image)
        total = np.zeros(image.shape[1:], np.float64)
        fractions = (np.arange(steps) + 0.5) / steps  # midpoints
        fractions = fractions.reshape(-1, *[1] * (image.ndim - 1))
        for some in np.array_split(fractions, math.ceil(steps / _batch(views, GRADIENT_PIXELS))):
            given = self._repeated(views, len(some))
            given[view] = tf.constant(base + some * (image - base), tf.float32)
            total += self._slope(given, view).numpy().sum(0) / steps
        return total * (image - base)[0]

    def _slope(self, views: Sequence[tf.Tensor], view: int) -> tf.Tensor:
        """Return the gradient of the scores with respect to one of the views."""

        def compute(*given: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(given[view])
                score = tf.reduce_sum(self._score(self._label(given)))
            return tape.gradient(score, given[view])

        if view not in self._slopes:
            self._slopes[view] = self._prepared(compute)
        return self._slopes[view](*views)

    def occlusion(
        self, views: Views, view: int = 0, overlap: bool = True, every: int = 1
    ) -> np.ndarray:
        """Return how far the logit falls where a patch loses its texture (Zeiler & Fergus, 2014).

        A patch is replaced by its mean color: brightness stays, noise and detail go.

        Args:
            views, view: see `maps`.
            overlap, every: see `Effort`.

        Returns:
            float32 [H, W], the mean over the patches that cover a pixel, in steps of `ROUNDING`;
            NaN where none does.
        """
        image = views[view].astype(np.float32)
        height, width = image.shape[-3:-1]
        patches = list(cells(height, width, overlap))[::every]
        falls, covered = np.zeros((2, height, width), np.float32)
        changes = [[], *([patch] for patch in patches)]  # the first one is the image itself
        scores: list[float] = []
        batch = _batch(views, FORWARD_PIXELS)
        for start in range(0, len(changes), batch):
            some = changes[start : start + batch]
            given = self._repeated(views, len(some))
            given[view] = tf.constant(np.concatenate([flattened(image, each) for each in some]))
            scores.extend(self.score(given).tolist())
        # Without, the ranks of patches that change nothing would be those of errors of rounding.
        unit = ROUNDING * max(1.0, abs(scores[0]))
        for patch, after in zip(patches, scores[1:]):
            falls[patch] += round((scores[0] - after) / unit) * unit
            covered[patch] += 1
        return np.divide(falls, covered, out=np.full_like(falls, np.nan), where=covered > 0)

    def attention(self, views: Views, view: int = 0) -> dict[str, np.ndarray]:
        """Return where a transformer looks; see `attention.attention`.

        Returns:
            float32 [H, W], not negative, under "attention"; empty for other networks and
            ensembles.
        """
        if len(views) > 1:
            return {}
        found = attention(lambda: self._label([tf.constant(views[view], tf.float32)]),
                          self.detector, views[view].shape[-3:-1])  # fmt: skip
        return {} if found is None else {ATTENTION: found}

    def sanity(self, views: Views, maps: dict[str, np.ndarray], view: int = 0) -> dict[str, float]:
        """Return how similar maps are to those of the same network with shuffled weights.

        A map that does not change shows the image, not what was learned (Adebayo et al., Sanity
        checks for saliency maps, NeurIPS 2018). The shuffled network's maps are computed with
        fewer steps and patches.

        Returns:
            Spearman's correlation of the maps' absolute values, by name.
        """
        with shuffled(self.detector):
            others = self.maps(views, view, _COARSE[self._large])
        return {
            name: _correlation(np.abs(values), np.abs(others[name]))
            for name, values in maps.items() if name in others
        }  # fmt: skip

    def _call(self, views: Sequence) -> dict[str, tf.Tensor]:
        return self._inner(list(views) if len(views) > 1 else views[0], training=False)

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


def views_of(run: Run, parts: list[np.ndarray]) -> tuple[Views, int]:
    """Return what an `Explainer` takes of an image, and the view to map: the largest.

    Args:
        parts: uint8 [1, crops, H, W, 3] of each of the run's views, as `view_dataset` gives them.

    Returns:
        The views, with the middle window where an ensemble does not take all of them.
    """
    views = []
    for part in parts:
        count = part.shape[1]
        alone = len(parts) == 1 or count == 1
        views.append((part[:, count // 2] if alone else part).astype(np.float32))
    return views, int(np.argmax([np.prod(view.size) for view in run.views]))


def _batch(views: Views, pixels: int) -> int:
    """Return how many copies of one image's views go through the network at once."""
    return min(BATCH, max(1, pixels // sum(view[..., 0].size for view in views)))


def _bare(view: np.ndarray) -> np.ndarray:
    """Return images [..., H, W, 3] of the mean color of others."""
    return np.broadcast_to(view.mean((-3, -2), keepdims=True), view.shape).astype(np.float32)


def middle_window(view: np.ndarray) -> np.ndarray:
    """Return the middle window of a view [1, H, W, C] or [1, crops, H, W, C], [H, W, C]."""
    return view[0] if view.ndim == 4 else view[0, view.shape[1] // 2]


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


def cells(height: int, width: int, overlap: bool = False) -> Iterator[tuple[slice, slice]]:
    """Yield patches that cover an image, about an eighth of a side each.

    Args:
        height, width: the height and width of the image.
        overlap: whether neighbors overlap by half.
    """
    for down in _spans(height, overlap):
        for across in _spans(width, overlap):
            yield down, across


def flattened(images: np.ndarray, patches: list[tuple[slice, slice]]) -> np.ndarray:
    """Return a copy of images [..., H, W, 3] whose `patches` have nothing but their mean color."""
    images = images.copy()
    for down, across in patches:
        patch = images[..., down, across, :]
        patch[...] = patch.mean((-3, -2), keepdims=True)
    return images


def feature_maps(
    detector: keras.Model, stages: Sequence[str] = (), members: Sequence[str] = ()
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from images [B, H, W, 3] to feature maps [B, h, w, C] by name.

    They are the output of the front-end, where there is one, and the last map of the backbone.

    Args:
        detector: the detector from `load_detector`.
        stages: names of stages instead of the last map, or "all"; see `stage_maps`.
        members: names of an ensemble's members.

    Raises:
        UserError: the backbone has no such stage.
    """
    front = front_end_output(detector)
    found = {} if front is None or len(front.shape) != 4 else {FRONT_END: front}
    if stages:
        known = stage_maps(detector)
        names = list(known) if "all" in stages else list(stages)
        if wrong := [name for name in names if name not in known]:
            sizes = ", ".join(f"{name} ({' x '.join(map(str, x.shape[1:]))})"
                              for name, x in known.items())  # fmt: skip
            raise UserError(
                f"Unknown stage {wrong[0]!r}. This network's stages are {sizes or 'none'}; all "
                "stands for every one."
            )
        found |= {name: known[name] for name in names}
    else:
        found |= {name: features for name, _, features in named_backbones(detector, members)}
    model = keras.Model(detector.inputs[0], list(found.values())) if found else None

    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        if model is None:
            return {}
        values = model(tf.constant(images, tf.float32), training=False)
        values = values if isinstance(values, list | tuple) else [values]
        return {name: v.numpy().astype(np.float32) for name, v in zip(found, values)}

    return compute


def stage_maps(detector: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return the backbone's last map [B, h, w, C] at each resolution, from fine to coarse.

    Args:
        detector: a detector with one backbone.

    Returns:
        Symbolic tensors by name: "stage1", "stage2" and so on.
    """
    backbone = backbone_of(detector)
    _, *maps = with_maps(backbone)(backbone._inbound_nodes[-1].input_tensors[0])
    return {f"stage{number}": x for number, x in enumerate(maps, 1)}


def _moves_positions(layers: list[keras.layers.Layer]) -> bool:
    """Return whether one of the layers moves what it sees to other positions."""
    return any(type(layer).__name__ in _MOVING_LAYERS for layer in layers)


def _sees(tape: tf.GradientTape, values: tf.Tensor, image: tf.Tensor) -> bool:
    """Return whether features depend on an input."""
    return tape.gradient(values, image) is not None


def _spans(length: int, overlap: bool) -> list[slice]:
    side = max(2, length // CELLS)
    step = max(1, side // 2) if overlap else side
    return [slice(start, start + side) for start in [*range(0, length - side, step), length - side]]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation where `other` is known; 0 if one of them is constant."""
    known = ~np.isnan(other)
    one, other = one[known], other[known]
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
