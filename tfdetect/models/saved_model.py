"""Export a run's detector as a SavedModel that needs only TensorFlow, from 2.15 on.

It has two signatures with stable names:

    serving_default   images: float32 [B, H, W, 3], 0..255, any H and W
    encoded           encoded_images: string [B], JPEG, PNG or BMP bytes

A third one, `encoded_webp`, also decodes WebP that is not animated. TensorFlow has the operation
for it from 2.20 on, and older versions do not load a file that contains it. So it is in an export
of its own, `saved_model_webp`.

All return:

    class_names     string [B, C]; class 0 is the authentic one
    probabilities   float32 [B, C], calibrated as the run is
    p_fake          float32 [B], 1 - P(class 0)
    verdict         string [B], a class name, by the run's threshold
    inconclusive    bool [B], whether p_fake is in the run's abstention band
    in_domain       bool [B], whether the image is like the training images
    domain_reasons  string [B], in what it is unlike them: "size, format, features", or ""

The last two are missing where the run does not know its training images; serving_default sees
no format.

The encoded signatures also return `error`, string [B]: why a file is not decoded, or "". Such a
file has NaN as its probabilities and "" as its verdict; the others are not affected. Kinds that
`formats.TABLE` does not give to the graph are refused.

Detectors that predict masks also return P(altered) of each pixel: serving_default as mask,
float32 [B, H, W, 1]; encoded as mask_png_bytes, string [B], gray PNG of each image's size, 255 for
1. Where p_fake is below the run's mask threshold, it is below 0.5 everywhere. TensorFlow Serving
encodes outputs with such a name as base64.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.files import staged
from tfdetect.core.run import Run
from tfdetect.imaging.decode_in_graph import decode_in_graph, refusal
from tfdetect.imaging.facts import SIGNATURES
from tfdetect.imaging.facts_in_graph import first_bytes, is_format
from tfdetect.imaging.geometry import view_parts
from tfdetect.imaging.graph import traced_as_written
from tfdetect.models.feature_outputs import (
    GraphDistance,
    distances_in_graph,
    feature_width,
    with_features,
)
from tfdetect.models.inference import (
    Scores,
    calibrated,
    predicts_masks,
    score_images,
    score_views,
    shown_masks,
)
from tfdetect.models.saving import load_detector


def export_saved_model(
    run: Run,
    folder: Path | None = None,
    webp: bool = False,
    detector: keras.Model | None = None,
) -> None:
    """Write a SavedModel.

    Args:
        run: the run.
        folder: the folder to write; by default `saved_model/` in the run's folder.
        webp: whether it has the endpoint `encoded_webp`, which needs TensorFlow 2.20.
        detector: the run's model; by default it is loaded.
    """
    endpoints = _Endpoints(run, detector or load_detector(run))
    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    encoded = tf.TensorSpec([None], tf.string, name="encoded_images")
    signatures = {
        "serving_default": _traced(endpoints.predict_images, images),
        "encoded": _traced(endpoints.predict_encoded, encoded),
    }
    if webp:
        signatures["encoded_webp"] = _traced(partial(endpoints.predict_encoded, webp=True), encoded)
    # From traced functions, not Keras's archive, which would trace each of them again.
    module = tf.Module()
    module.used = [v for signature in signatures.values() for v in signature.variables]
    with staged(run.path / "saved_model" if folder is None else folder) as new:
        tf.saved_model.save(module, str(new), signatures=signatures)


class _Endpoints:
    """The functions of an export, in the graph; see the module for what they return.

    Args:
        run: the run.
        detector: its model.
    """

    def __init__(self, run: Run, detector: keras.Model):
        self._run, self._domain = run, _Domain(run)
        known = run.info.domain is not None
        self._detector = _TracedOnce(with_features(detector) if known else detector)
        self._has_masks = predicts_masks(self._detector)
        self._names = tf.constant(list(run.class_names))

    def predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the outputs of `serving_default`, from float32 [B, H, W, 3] in 0..255."""
        count, *size, _ = tf.unstack(tf.shape(images))
        known = {"sides": tf.tile(tf.sort(tf.stack(size))[None], [count, 1])}
        if not self._has_masks:
            scores = score_views(self._detector, self._views(images))
            return self._outputs(scores, known)
        scores = score_images(self._detector, images, self._run.views)
        return self._outputs(scores, known, mask=self._shown(scores.table, scores.masks))

    def predict_encoded(
        self, encoded_images: tf.Tensor, webp: bool = False
    ) -> dict[str, tf.Tensor]:
        """Return the outputs of `encoded`, from string [B], with what is not decoded as errors."""
        known = {"start": first_bytes(encoded_images)}
        if self._has_masks:
            scores, masks, sides, error = self._decode_and_mask(encoded_images, webp)
            found = self._outputs(scores, known | {"sides": sides}, mask_png_bytes=masks)
        else:

            def view(image: tf.Tensor) -> tuple[tf.Tensor, ...]:
                return *self._views(image), _sides(image)

            (*views, sides), error = _decoded_views(encoded_images, webp, view)
            found = self._outputs(score_views(self._detector, views), known | {"sides": sides})
        return _without_undecodable(found, error)

    def _views(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Return the detector's views of images [B, H, W, 3], or of one image [H, W, 3]."""
        return view_parts(images, self._run.views)

    def _decode_and_mask(
        self, files: tf.Tensor, webp: bool
    ) -> tuple[Scores, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Decode and predict one image after the other, since their masks have their sizes.

        Returns:
            The scores, without masks; the masks as PNG, string [B]; the shorter and the longer
            side of each image, int32 [B, 2]; why it is not decoded, string [B].
        """

        def predict(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, error = _decoded(data, webp)
            table, features, masks = score_images(self._detector, image[None], self._run.views)
            mask = tf.round(self._shown(table, masks)[0] * 255)
            mask = tf.io.encode_png(tf.cast(mask, tf.uint8))
            features = tf.zeros([1, 0]) if features is None else features
            return table[0], features[0], mask, _sides(image), error

        specs = (
            tf.TensorSpec([len(self._run.class_names)], tf.float32),
            tf.TensorSpec([feature_width(self._detector)], tf.float32),
            tf.TensorSpec([], tf.string),
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([], tf.string),
        )
        table, features, masks, sides, error = tf.map_fn(predict, files, fn_output_signature=specs)
        return Scores(table, features), masks, sides, error

    def _shown(self, table: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        """Return masks that are below 0.5 where P(fake) is below the run's mask threshold."""
        p_fake = tf.reduce_sum(calibrated(table, self._run.calibration)[:, 1:], axis=1)
        return shown_masks(masks, p_fake, self._run.mask_threshold)

    def _outputs(
        self, scores: Scores, known: dict[str, tf.Tensor], **masks: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return the outputs by name.

        Args:
            scores: the scores of the images.
            known: what else is known of them; see `_Domain`.
            masks: outputs to add.
        """
        run, names = self._run, self._names
        table = calibrated(scores.table, run.calibration)
        fake = tf.reduce_sum(table[:, 1:], axis=1)
        most_likely = 1 + tf.argmax(table[:, 1:], axis=1)
        low, high = run.abstention_band
        return {
            "class_names": tf.tile(names[None], [tf.shape(table)[0], 1]),
            "probabilities": table,
            "p_fake": fake,
            "verdict": tf.gather(names, tf.where(fake >= run.threshold, most_likely, 0)),
            "inconclusive": (fake >= low) & (fake < high),
            **self._domain(features=scores.features, **known),
            **masks,
        }


def _sides(image: tf.Tensor) -> tf.Tensor:
    """Return the shorter and the longer side of an image [H, W, C], int32 [2]."""
    return tf.sort(tf.shape(image)[:2])


def _without_undecodable(found: dict[str, tf.Tensor], error: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the outputs with `error`, and nothing said of the files that have one."""
    nothing = {tf.float32: float("nan"), tf.string: "", tf.bool: False}
    result = {"class_names": found.pop("class_names"), "error": error}
    for name, value in found.items():
        decoded = tf.reshape(error == b"", [-1] + [1] * (value.shape.rank - 1))
        result[name] = tf.where(decoded, value, nothing[value.dtype])
    return result


def _decoded(data: tf.Tensor, webp: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode an image, or say why not, without ending the call for the images beside it.

    Args:
        data: scalar string, the bytes of a file.
        webp: whether WebP is decoded.

    Returns:
        uint8 [H, W, 3] and the reason, scalar string: one black pixel with a reason, or an image
        with "".
    """
    images = tf.data.Dataset.from_tensors(data).map(
        traced_as_written(lambda data: _attempt(data, webp))
    )
    damaged = tf.data.Dataset.from_tensors((_black(), _DAMAGED))
    image, error = images.ignore_errors().concatenate(damaged).take(1).get_single_element()
    image.set_shape([None, None, 3])
    return image, error


def _decoded_views(
    files: tf.Tensor, webp: bool, view: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
    """Decode images, several at a time, and view each; otherwise as `_decoded`.

    Args:
        files: string [B].
        webp: whether WebP is decoded.
        view: returns the views of an image, each of the same shape for all images.

    Returns:
        The views, [B, ...] each, and the reasons, string [B].
    """
    count = tf.size(files, tf.int64)

    @traced_as_written
    def load(index: tf.Tensor, data: tf.Tensor) -> tuple:
        image, error = _attempt(data, webp)
        return index, view(image), error

    images = tf.data.Dataset.from_tensor_slices(files).enumerate().map(load, _DECODED_AT_A_TIME)
    damaged = tf.data.Dataset.from_tensors((count, view(_black()), _DAMAGED))
    images = images.ignore_errors().concatenate(damaged).batch(count + 1)
    indices, views, errors = images.get_single_element()
    found = tf.range(tf.size(indices))
    last = tf.fill([count + 1], found[-1])  # stands for the files that are damaged
    order = tf.tensor_scatter_nd_update(last, indices[:, None], found)[:count]
    return tuple(tf.gather(part, order) for part in views), tf.gather(errors, order)


_DAMAGED = "damaged, or not an image"
_DECODED_AT_A_TIME = 8  # images of a batch


def _black() -> tf.Tensor:
    return tf.zeros([1, 1, 3], tf.uint8)


def _attempt(data: tf.Tensor, webp: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode an image that is not refused by its header; raises if it is damaged.

    In a dataset that ignores errors, which is what goes on after an error in a graph.
    """
    reason = refusal(data, webp=webp)
    image = tf.cond(reason == b"", lambda: decode_in_graph(data, webp=webp), _black)
    image.set_shape([None, None, 3])
    return image, reason


def _any_number(endpoint: Callable[..., dict[str, tf.Tensor]]) -> Callable:
    """Return an endpoint that also takes an empty batch, which not every layer does."""

    def run(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(batch)[0]

        def one() -> tf.Tensor:
            if batch.dtype == tf.string:
                return tf.constant([""])
            return tf.zeros(tf.maximum(tf.shape(batch), [1, 1, 1, 3]))

        filled = tf.ensure_shape(tf.cond(count == 0, one, lambda: batch), batch.shape)
        found = endpoint(filled)
        return {name: value[:count] for name, value in found.items()}

    return run


def _traced(endpoint: Callable, spec: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    """Return an endpoint traced for one signature, which takes an empty batch, too."""
    return tf.function(_any_number(endpoint), autograph=False).get_concrete_function(spec)


class _TracedOnce:
    """A detector whose network all endpoints share, so that it is traced and stored once."""

    def __init__(self, detector: keras.Model):
        self.output, self.layers = detector.output, detector.layers
        self._shapes = [given.shape for given in detector.inputs]

        @tf.function(
            input_signature=[tf.TensorSpec(shape, tf.float32) for shape in self._shapes],
            autograph=False,
        )
        def network(*images: tf.Tensor) -> dict[str, tf.Tensor]:
            return detector(list(images) if len(images) > 1 else images[0], training=False)

        self._network = network

    def __call__(
        self, images: tf.Tensor | list[tf.Tensor], training: bool = False
    ) -> dict[str, tf.Tensor]:
        assert not training
        parts = images if isinstance(images, list) else [images]
        return self._network(*map(tf.ensure_shape, parts, self._shapes))


class _Domain:
    """The outputs in_domain and domain_reasons; the same rule as `evaluation.domain`."""

    def __init__(self, run: Run):
        self._limits, self._formats = run.in_domain_sides, run.in_domain_formats
        self._known = run.info.domain
        if self._known is not None:
            self._distance = GraphDistance.of(FeatureDistance.load(run.path, self._known.rest))

    def __call__(
        self, features: tf.Tensor | None, sides: tf.Tensor, start: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Return the outputs; none where nothing is known.

        Args:
            features: float32 [B, F].
            sides: the shorter and the longer one of each image in pixels, int32 [B, 2].
            start: first 8 bytes of each file, int64 [B]; None where there are no files.
        """
        unlike = {}
        if self._limits is not None:
            low, high, longest = self._limits
            shorter, longer = tf.unstack(tf.cast(sides, tf.float32), axis=1)
            unlike["size"] = (shorter < low) | (shorter > high)
            if longest is not None:
                unlike["size"] |= longer > longest
        if self._formats and start is not None:
            unlike["format"] = is_format(start, SIGNATURES) & ~is_format(start, self._formats)
        if self._known is not None:
            unlike["features"] = distances_in_graph(self._distance, features) > self._known.limit
        if not unlike:
            return {}
        reasons = tf.fill(tf.shape(sides)[:1], "")
        for name, rows in unlike.items():
            longer = tf.where(reasons == "", name, reasons + ", " + name)
            reasons = tf.where(rows, longer, reasons)
        return {"in_domain": reasons == "", "domain_reasons": reasons}


def run_signature(
    folder: Path, signature: str, batches: Sequence[np.ndarray | list[bytes]]
) -> list[dict[str, np.ndarray]]:
    """Return the outputs of a signature of a SavedModel for each of some batches.

    The SavedModel is loaded as TensorFlow Serving loads it, and runs on the CPU.
    `tf.saved_model.load` would build each of its functions in Python, which takes several times as
    long as writing them.

    Args:
        folder: the folder of the SavedModel.
        signature: name of one of its signatures, which has one input.
        batches: values of that input. Zeros at the end of bytes are kept.

    Returns:
        The outputs of each batch by name.
    """
    # NumPy's own type of bytes would drop zeros at their end.
    arrays = [
        np.array(batch, object if isinstance(batch, list) and bytes in map(type, batch) else None)
        for batch in batches
    ]
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # it runs a few times only
    with tf.compat.v1.Session(graph=tf.Graph(), config=config) as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
        chosen = loaded.signature_def[signature]
        [inputs] = chosen.inputs.values()
        outputs = {name: tensor.name for name, tensor in chosen.outputs.items()}
        return [session.run(outputs, {inputs.name: array}) for array in arrays]
