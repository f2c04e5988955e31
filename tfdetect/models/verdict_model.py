"""A detector with its verdicts: calibration, threshold, abstention band and known domain inside.

`verdict_outputs` is what every export computes; `verdict_model` puts it into a Keras model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.documents import Document
from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.run import Run
from tfdetect.core.run_info import Calibration, View
from tfdetect.models.feature_outputs import GraphDistance, distances_in_graph, with_features
from tfdetect.models.inference import calibrated, predicts_masks, score_tiles, score_views


class KnownDomain(Document):
    """Size and limits of the distance from the training images; see `FeatureDistance`.

    Attributes:
        components: number of principal components.
        width: number of features.
        rest: standard deviation along the other directions.
        limit: distance up to which an image is like the training images.
    """

    components: int
    width: int
    rest: float
    limit: float


class VerdictSettings(Document):
    """The settings that turn the outputs of a detector into verdicts.

    Attributes:
        views: what the detector sees of an image.
        flips: whether the mean with the mirrored image is taken.
        calibration: at the run's prior; none for no change.
        threshold: P(fake) from which the verdict is fake.
        low, high: P(fake) from which, and below which, a verdict is inconclusive.
        domain: none where the distance from the training images is not known.
    """

    views: tuple[View, ...]
    flips: bool
    calibration: Calibration | None
    threshold: float
    low: float
    high: float
    domain: KnownDomain | None


class Verdicts(NamedTuple):
    """The settings, and the distance from the training images if the settings have a domain."""

    settings: VerdictSettings
    distance: GraphDistance | None


def verdicts_of(run: Run) -> Verdicts:
    """Return the settings by which a run comes to its verdicts.

    Raises:
        UserError: the run's domain.npy is missing or damaged.
    """
    known, domain, distance = run.info.domain, None, None
    if known is not None:
        fitted = FeatureDistance.load(run.path, known.rest)
        distance = GraphDistance.of(fitted)
        count, width = fitted.components.shape
        domain = KnownDomain(components=count, width=width, rest=known.rest, limit=known.limit)
    low, high = run.abstention_band
    settings = VerdictSettings(
        views=run.views, flips=run.info.flips, calibration=run.calibration,
        threshold=run.threshold, low=low, high=high, domain=domain,
    )  # fmt: skip
    return Verdicts(settings, distance)


def with_verdict_features(detector: keras.Model, settings: VerdictSettings) -> keras.Model:
    """Return the detector as `verdict_outputs` takes it: with features where these are compared."""
    return detector if settings.domain is None else with_features(detector)


def verdict_outputs(
    detector: keras.Model, verdicts: Verdicts, views: Sequence[tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Return the outputs that `models.exports` describes.

    Args:
        detector: a detector from `with_verdict_features`; with masks it has one view.
        verdicts: settings and distance.
        views: one tensor per view, uint8 [N, H, W, 3], or [N, crops, H, W, 3] with several crops.
    """
    settings, distance = verdicts
    if predicts_masks(detector):
        scores = score_tiles(detector, views[0])
    else:
        crops = [v if view.crops > 1 else v[:, None] for v, view in zip(views, settings.views)]
        scores = score_views(detector, crops, settings.flips)
    more = {}
    if scores.masks is not None:
        more["mask"] = scores.masks
    if scores.features is not None:
        assert distance is not None and settings.domain is not None
        more["features"] = tf.identity(scores.features)
        more["feature_distance"] = distances_in_graph(distance, scores.features)
        more["in_domain"] = more["feature_distance"] <= settings.domain.limit
    table = calibrated(scores.table, settings.calibration)
    fake = tf.reduce_sum(table[:, 1:], axis=1)
    kind = 1 + tf.argmax(table[:, 1:], axis=1, output_type=tf.int32)
    return {
        "probabilities_raw": tf.identity(scores.table),
        "probabilities": table,
        "p_fake": fake,
        "label": tf.where(fake >= settings.threshold, kind, 0),
        "inconclusive": (fake >= settings.low) & (fake < settings.high),
        **more,
    }


def view_signature(views: Sequence[View]) -> list[tf.TensorSpec]:
    """Return shape, type and name of the input for each view."""
    return [
        tf.TensorSpec([None, *([view.crops] if view.crops > 1 else []), *view.size, 3], tf.uint8,
                      name="images" if len(views) == 1 else f"images_{number}")
        for number, view in enumerate(views)
    ]  # fmt: skip


@keras.saving.register_keras_serializable("tfdetect")
class VerdictLayer(keras.Layer):
    """Applies a detector to parts of images and comes to verdicts; see `verdict_outputs`.

    Args:
        detector: maps images in 0..255 to a dict of logits.
        settings: `VerdictSettings` as plain data.
    """

    def __init__(self, detector: keras.Model, settings: dict[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.detector, self.settings = detector, VerdictSettings.model_validate(settings)
        self.distance: GraphDistance | None = None
        if (domain := self.settings.domain) is not None:
            shape = domain.components, domain.width
            self.distance = GraphDistance(
                self._constant("mean", shape[1:]), self._constant("components", shape),
                self._constant("deviations", shape[:1]), domain.rest,
            )  # fmt: skip
        # In a tuple in a function, so that Keras saves the shared layers once.
        applied = with_verdict_features(detector, self.settings)
        self._applied = lambda: applied

    def _constant(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        return self.add_weight(
            shape=shape, initializer="zeros", dtype="float32", trainable=False, name=name
        )

    def call(self, views: Any) -> dict[str, tf.Tensor]:
        several = views if isinstance(views, list | tuple) else [views]
        return verdict_outputs(self._applied(), Verdicts(self.settings, self.distance), several)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "detector": keras.saving.serialize_keras_object(self.detector),
            "settings": self.settings.as_data(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        detector = keras.saving.deserialize_keras_object(config.pop("detector"))
        return cls(detector, **config)


def verdict_model(run: Run, detector: keras.Model) -> keras.Model:
    """Return a Keras model with the inputs and outputs that `models.exports` describes.

    Args:
        run: says how images are viewed, calibrated and classified.
        detector: its model; with masks it has one view.
    """
    settings, distance = verdicts_of(run)
    layer = VerdictLayer(detector, settings.as_data(), name="verdicts")
    if distance is not None and layer.distance is not None:
        for variable, value in zip(layer.distance[:3], distance[:3], strict=True):
            variable.assign(np.asarray(value))
    inputs = [
        keras.Input(spec.shape[1:], dtype="uint8", name=spec.name)
        for spec in view_signature(settings.views)
    ]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    return keras.Model(inputs, layer(inputs), name=f"{detector.name}_with_verdicts")
