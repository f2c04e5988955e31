"""`FusionNetwork`: the members and the fused detector as one functional Keras model.

Each view of an image is one input. Backbones that several members share are computed once. The
outputs for several windows of an image are averaged in the model.
"""

import hashlib
import json

import keras
import numpy as np
from keras import layers, ops

from tfdetect.core.probability import EPSILON
from tfdetect.fusion.fusions import Fusion
from tfdetect.fusion.members import Members
from tfdetect.models.detector_parts import features_of
from tfdetect.models.feature_outputs import with_features
from tfdetect.models.inference import predicts_masks
from tfdetect.models.saving import load_detector


class FusionNetwork:
    """The graph of all members, up to their logits.

    Attributes:
        inputs: one per view, float32 [B, H, W, 3] or [B, crops, H, W, 3], values 0..255.
        logits: the logits of P(fake), one float32 [B, 1] per member.
        fake_classes: log-probabilities of the classes of fakes [B, C - 1], of members that
            distinguish all of them.
        features: the features of each member, and color, contrast and sharpness of each view; each
            float32 [B, F].
        masks: mask logits, by index of the member.
        detectors: the detector of each member alone; they share their weights with the network.
        parameters: the number of parameters of each.
        shared_backbones: pairs of indices of members whose backbones are equal.
    """

    def __init__(self, members: Members, masks: bool = True):
        """Load the members and connect them to common inputs.

        Args:
            members: the runs.
            masks: whether to predict masks, if members predict them.
        """
        single = len(members.views) == 1
        self.inputs = [
            keras.Input((*([] if single or v.crops == 1 else [v.crops]), *v.size, 3),
                        name="image" if single else f"image_{index}")
            for index, v in enumerate(members.views)
        ]  # fmt: skip
        self.logits: list[keras.KerasTensor] = []
        self.fake_classes: list[keras.KerasTensor] = []
        self.features: list[keras.KerasTensor] = []
        self.masks: dict[int, keras.KerasTensor] = {}
        self.detectors: list[keras.Model] = []
        self.parameters: list[int] = []
        self.shared_backbones: list[tuple[int, int]] = []
        self._backbones: dict[tuple[int, str], tuple[int, keras.KerasTensor]] = {}
        for index, run in enumerate(members.runs):
            detector = load_detector(run)
            detector.name = f"member_{index}"
            view_index = members.view_index[index]
            crops = 1 if single else members.views[view_index].crops
            image = _merge_crops(self.inputs[view_index], crops)
            self.detectors.append(detector)
            self.parameters.append(detector.count_params())
            if predicts_masks(detector):
                outputs = with_features(detector)(image)
                features = outputs["label"]
                if masks:
                    self.masks[index] = outputs["mask"]
            else:
                features, outputs = self._connect(detector, index, view_index, image)
            self._add_member(outputs["label"], features, crops, len(members.class_names))
        for image, view in zip(self.inputs, members.views):
            crops = 1 if single else view.crops
            statistics = _image_statistics(_merge_crops(image, crops))
            self.features.append(_mean_of_crops(statistics, crops))

    def _connect(
        self, detector: keras.Model, index: int, view_index: int, image: keras.KerasTensor
    ) -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
        """Return features and outputs of a member; reuse the backbone of an earlier equal member.

        Args:
            detector: the detector of the member.
            index: its index.
            view_index: the index of its view.
            image: the windows of its view, [B * crops, H, W, 3].
        """
        inner = features_of(detector)
        backbone = keras.Model(detector.inputs[0], inner, name=f"backbone_{index}")
        head = keras.Model(inner, detector.output, name=f"head_{index}")
        key = view_index, _digest(backbone)
        if key in self._backbones:
            first, features = self._backbones[key]
            self.shared_backbones.append((first, index))
        else:
            features = backbone(image)
            self._backbones[key] = index, features
        return features, head(features)

    def _add_member(
        self, outputs: keras.KerasTensor, features: keras.KerasTensor, crops: int, classes: int
    ) -> None:
        """Add the logit, features and fake classes of a member, averaged over the windows.

        Args:
            outputs: class logits [B * crops, 1 or C].
            features: [B * crops, ..., F].
            crops: windows per image.
            classes: number of classes of the fused detector.
        """
        outputs = ops.cast(outputs, "float32")
        fake_classes = None
        if outputs.shape[-1] == 1:
            logits = outputs
        else:
            logits = ops.logsumexp(outputs[:, 1:], axis=1, keepdims=True) - outputs[:, :1]
            if classes > 2:
                fake_classes = ops.log_softmax(outputs[:, 1:], axis=1)
        features = ops.cast(features, "float32")
        if len(features.shape) > 2:
            features = ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))
        if crops > 1:
            logits = _logit(_mean_of_crops(ops.sigmoid(logits), crops))
            features = _mean_of_crops(features, crops)
            if fake_classes is not None:
                fake_classes = ops.log(_mean_of_crops(ops.exp(fake_classes), crops))
        self.logits.append(logits)
        self.features.append(features)
        if fake_classes is not None:
            self.fake_classes.append(fake_classes)

    def score_model(self) -> keras.Model:
        """Return a model from the views to {"logits": [B, M], "features": [B, F]}."""
        outputs = {"logits": layers.Concatenate()(self.logits),
                   "features": layers.Concatenate()(self.features)}  # fmt: skip
        return keras.Model(self._model_inputs(), outputs)

    def fused_model(self, fusion: Fusion, name: str, view_index: list[int]) -> keras.Model:
        """Return the fused detector, from the views to {"label"} and, if they are fused, masks.

        Args:
            fusion: the fusion of these members.
            name: the name of the model.
            view_index: for each member, the index of its view.
        """
        members = len(self.logits)
        scale = layers.Dense(members, use_bias=False, name="calibration", dtype="float32")
        inputs = scale(layers.Concatenate(name="members")(self.logits))
        scale.set_weights([np.diag(1 / fusion.temperatures)])
        kernel = fusion.weights
        if fusion.gate is not None:
            mean, deviation, gate_kernel, gate_bias = fusion.gate
            gate = layers.Dense(members, activation="softmax", name="gate", dtype="float32")
            gates = gate(layers.Concatenate(name="features")(self.features))
            standardized = gate_kernel / deviation[:, None]
            gate.set_weights([standardized, gate_bias - mean @ standardized])
            inputs = _logit(ops.sum(gates * ops.sigmoid(inputs), axis=1, keepdims=True))
            kernel = fusion.weights[:1]
        elif fusion.tails is not None:
            bends, slope_changes = fusion.tails
            tails = layers.Dense(bends.size, activation="relu", name="tails", dtype="float32")
            inputs = tails(inputs)
            tails.set_weights([np.repeat(np.eye(members), bends.shape[1], axis=1), -bends.ravel()])
            kernel = (kernel[:, None] * slope_changes).ravel()
        elif fusion.on_probabilities:
            inputs = ops.sigmoid(inputs)
        last = layers.Dense(1, name="fusion", dtype="float32")
        logits = last(inputs)
        last.set_weights([kernel[:, None], np.array([fusion.bias])])
        if self.fake_classes:  # 0 for the authentic class; the fakes' probabilities sum to P(fake)
            mean = sum(self.fake_classes) / len(self.fake_classes)
            classes = logits + ops.log_softmax(mean, axis=1)
            logits = layers.Concatenate(name="classes")([ops.zeros_like(logits), classes])
        outputs = {"label": logits, **self._fused_masks(fusion, view_index)}
        return keras.Model(self._model_inputs(), outputs, name=name)

    def _model_inputs(self) -> keras.KerasTensor | list[keras.KerasTensor]:
        """Return the inputs as `keras.Model` takes them: a single one is no list."""
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    def _fused_masks(self, fusion: Fusion, view_index: list[int]) -> dict[str, keras.KerasTensor]:
        """Return the weighted mean of mask logits for each view; negative weights count as 0."""
        return {
            "mask" if len(self.inputs) == 1 else f"mask_{view}": sum(
                weight * ops.cast(self.masks[index], "float32") for index, weight in weights.items()
            )
            for view, weights in self._weights_of_masks(fusion, view_index).items()
        }

    def _weights_of_masks(
        self, fusion: Fusion, view_index: list[int]
    ) -> dict[int, dict[int, float]]:
        """Return the weights of the masks by index of the member, for each view; their sum is 1."""
        found = {}
        for view in range(len(self.inputs)):
            indices = [index for index in self.masks if view_index[index] == view]
            if indices:
                weights = np.maximum(fusion.weights[indices], 0)
                weights = weights if weights.sum() > 0 else np.ones(len(indices))
                found[view] = dict(zip(indices, (weights / weights.sum()).tolist()))
        return found

    def mask_weights(self, fusion: Fusion, view_index: list[int]) -> dict[int, float]:
        """Return the weight of the mask of each member in the fused mask.

        All views have the same weight.

        Args:
            fusion: the fusion of these members.
            view_index: for each member, the index of its view.

        Returns:
            The weights by index of the member, whose sum is 1; empty without masks.
        """
        by_view = self._weights_of_masks(fusion, view_index).values()
        return {
            index: weight / len(by_view) for weights in by_view for index, weight in weights.items()
        }


def _merge_crops(image: keras.KerasTensor, crops: int) -> keras.KerasTensor:
    """Move the windows of images [B, crops, H, W, 3] into the batch dimension."""
    return image if crops == 1 else ops.reshape(image, (-1, *image.shape[2:]))


def _mean_of_crops(values: keras.KerasTensor, crops: int) -> keras.KerasTensor:
    """Average values [B * crops, F] over the windows of each image."""
    if crops == 1:
        return values
    return ops.mean(ops.reshape(values, (-1, crops, values.shape[-1])), axis=1)


def _logit(p: keras.KerasTensor) -> keras.KerasTensor:
    """Return the logit of probabilities."""
    p = ops.clip(p, EPSILON, 1 - EPSILON)
    return ops.log(p) - ops.log(1 - p)


def _image_statistics(image: keras.KerasTensor) -> keras.KerasTensor:
    """Return color, contrast and sharpness of images [B, H, W, 3], float32 [B, 15].

    Members may have learned to ignore them, but a gate can use them.
    """
    image = image / 255.0
    statistics = [ops.mean(image, axis=(1, 2)), ops.std(image, axis=(1, 2))]
    for derivative in (
        image[:, 1:] - image[:, :-1],
        image[:, :, 1:] - image[:, :, :-1],
        image[:, 2:, 2:] - 2 * image[:, 1:-1, 1:-1] + image[:, :-2, :-2],
    ):
        statistics.append(ops.log(ops.mean(ops.abs(derivative), axis=(1, 2)) + 1e-3))
    return ops.concatenate(statistics, axis=1)


def _digest(model: keras.Model) -> str:
    """Return a digest that is equal for models that compute the same."""
    kinds = [type(layer).__name__ for layer in model._flatten_layers()]
    settings = json.dumps([
        {key: value for key, value in layer.get_config().items() if key != "name"}
        for layer in model._flatten_layers() if not isinstance(layer, keras.Model)
    ], default=str)  # fmt: skip
    digest = hashlib.sha256(f"{kinds}{settings}".encode())
    for weight in model.get_weights():
        digest.update(f"{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
