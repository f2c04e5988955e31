"""The fused detector as one functional Keras model.

Every view is one input; trunks that members share are computed once. A member whose run averages
windows averages them inside.
"""

import hashlib
import json

import keras
import numpy as np
from keras import layers, ops

from tfdetect.evaluation.calibration import TINY
from tfdetect.fusion.fusions import Fusion
from tfdetect.fusion.members import Members
from tfdetect.models.detector import features_of
from tfdetect.models.inference import predicts_masks
from tfdetect.models.saving import load_detector


class Network:
    """The members' graph, up to their log-odds.

    Attributes:
        inputs: one for each view, float32 [B, H, W, 3] or [B, crops, H, W, 3], 0..255.
        odds: log-odds of fake, float32 [B, 1] each.
        kinds: of members with all classes, their fakes' log-probabilities [B, C - 1].
        features: float32 [B, F] of each member, and of each view's color and sharpness.
        masks: of members that draw them, logits by member's number.
        parameters: of each member by itself.
        shared: pairs of members whose trunks are one.
    """

    def __init__(self, members: Members, masks: bool = True):
        single = len(members.views) == 1
        self.inputs = [
            keras.Input((*([] if single or v.crops == 1 else [v.crops]), *v.size, 3),
                        name="image" if single else f"image_{number}")
            for number, v in enumerate(members.views)
        ]  # fmt: skip
        self.odds, self.kinds, self.features, self.masks = [], [], [], {}
        self.parameters, self.shared = [], []
        trunks: list[tuple] = []
        for number, run in enumerate(members.runs):
            detector = load_detector(run)
            detector.name = f"member_{number}"
            place = members.place[number]
            crops = 1 if single else members.views[place].crops
            image = self.inputs[place]
            if crops > 1:
                image = ops.reshape(image, (-1, *image.shape[2:]))
            self.parameters.append(detector.count_params())
            if predicts_masks(detector):
                answer = detector(image)
                features = answer["label"]
                if masks:
                    self.masks[number] = answer["mask"]
            else:
                inner = features_of(detector)
                trunk = keras.Model(detector.inputs[0], inner, name=f"trunk_{number}")
                head = keras.Model(inner, detector.output, name=f"head_{number}")
                key = _fingerprint(trunk)
                known = [t for t in trunks if t[:2] == (place, key)]
                if known:
                    self.shared.append((known[0][3], number))
                    features = known[0][2]
                else:
                    features = trunk(image)
                    trunks.append((place, key, features, number))
                answer = head(features)
            self._add(answer["label"], features, crops, len(members.classes))
        self._look([1 if single else view.crops for view in members.views])

    def _look(self, crops: list[int]) -> None:
        """Adds what kind of image it is, by each view: members may have learned to ignore it."""
        for image, count in zip(self.inputs, crops):
            found = _statistics(image if count == 1 else ops.reshape(image, (-1, *image.shape[2:])))
            if count > 1:
                found = ops.mean(ops.reshape(found, (-1, count, found.shape[-1])), axis=1)
            self.features.append(found)

    def _add(self, logits, features, crops: int, classes: int) -> None:
        """A member's log-odds, of all its windows together."""
        logits = ops.cast(logits, "float32")
        if logits.shape[-1] == 1:
            odds, kinds = logits, None
        else:
            odds = ops.logsumexp(logits[:, 1:], axis=1, keepdims=True) - logits[:, :1]
            kinds = ops.log_softmax(logits[:, 1:], axis=1) if classes > 2 else None
        features = ops.cast(features, "float32")
        if len(features.shape) == 4:
            features = ops.mean(features, axis=(1, 2))
        elif len(features.shape) == 3:
            features = ops.mean(features, axis=1)
        if crops > 1:
            fake = ops.mean(ops.reshape(ops.sigmoid(odds), (-1, crops)), axis=1, keepdims=True)
            fake = ops.clip(fake, TINY, 1 - TINY)
            odds = ops.log(fake) - ops.log(1 - fake)
            features = ops.mean(ops.reshape(features, (-1, crops, features.shape[-1])), axis=1)
            if kinds is not None:
                kinds = ops.log(ops.mean(
                    ops.reshape(ops.exp(kinds), (-1, crops, kinds.shape[-1])), axis=1
                ))  # fmt: skip
        self.odds.append(odds)
        self.features.append(features)
        if kinds is not None:
            self.kinds.append(kinds)

    def scores(self) -> keras.Model:
        """From the views to {"odds": [B, M], "features": [B, F]}."""
        outputs = {"odds": layers.Concatenate()(self.odds),
                   "features": layers.Concatenate()(self.features)}  # fmt: skip
        return keras.Model(self._given(), outputs)

    def fused(self, fusion: Fusion, name: str, places: list[int]) -> keras.Model:
        """The detector: from the views to {"label"} and, where members draw them, masks.

        Args:
            fusion: of these members.
            places: of each member its view's index.
        """
        joined = layers.Concatenate(name="members")(self.odds)
        scale = layers.Dense(len(self.odds), use_bias=False, name="calibration", dtype="float32")
        joined = scale(joined)
        kernel = fusion.weights
        if fusion.gate is not None:
            mean, deviation, gate, bias = fusion.gate
            share = layers.Dense(len(self.odds), activation="softmax", name="gate", dtype="float32")
            shares = share(layers.Concatenate(name="features")(self.features))
            inner = gate / deviation[:, None]
            share.set_weights([inner, bias - mean @ inner])
            fake = ops.sum(shares * ops.sigmoid(joined), axis=1, keepdims=True)
            fake = ops.clip(fake, TINY, 1 - TINY)
            joined, kernel = ops.log(fake) - ops.log(1 - fake), fusion.weights[:1]
        if fusion.tails is not None:
            bends, turns = fusion.tails
            bend = layers.Dense(bends.size, activation="relu", name="tails", dtype="float32")
            joined = bend(joined)
            members = np.repeat(np.eye(len(bends)), bends.shape[1], axis=1)
            bend.set_weights([members, -bends.ravel()])
            kernel = (kernel[:, None] * turns).ravel()
        last = layers.Dense(1, name="fusion", dtype="float32")
        odds = last(joined)
        scale.set_weights([np.diag(1 / fusion.temperatures)])
        last.set_weights([kernel[:, None], np.array([fusion.bias])])
        if self.kinds:  # 0 for the authentic class; the fakes' probabilities sum to P(fake)
            kinds = ops.log_softmax(sum(self.kinds) / len(self.kinds), axis=1)
            odds = layers.Concatenate(name="classes")([ops.zeros_like(odds), odds + kinds])
        return keras.Model(self._given(), {"label": odds, **self._fused_masks(fusion, places)},
                           name=name)  # fmt: skip

    def _given(self):
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    def _fused_masks(self, fusion: Fusion, places: list[int]) -> dict:
        """The mean of mask logits on each view, by the members' weights where those are shares."""
        found = {}
        for view in range(len(self.inputs)):
            own = [n for n in self.masks if places[n] == view]
            if own:
                shares = np.maximum(fusion.weights[own], 0)
                shares = (
                    shares / shares.sum() if shares.sum() > 0 else np.full(len(own), 1 / len(own))
                )
                mask = sum(
                    float(s) * ops.cast(self.masks[n], "float32") for s, n in zip(shares, own)
                )
                found["mask" if len(self.inputs) == 1 else f"mask_{view}"] = mask
        return found


def _statistics(image):
    """Color, contrast and sharpness of images [B, H, W, 3]: float32 [B, 15]."""
    image = image / 255.0
    mean = ops.mean(image, axis=(1, 2))
    found = [mean, ops.std(image, axis=(1, 2))]
    for rise in (
        image[:, 1:] - image[:, :-1],
        image[:, :, 1:] - image[:, :, :-1],
        image[:, 2:, 2:] - 2 * image[:, 1:-1, 1:-1] + image[:, :-2, :-2],
    ):
        found.append(ops.log(ops.mean(ops.abs(rise), axis=(1, 2)) + 1e-3))
    return ops.concatenate(found, axis=1)


def _fingerprint(trunk: keras.Model) -> str:
    """The same for trunks that compute the same."""
    kinds = [type(layer).__name__ for layer in trunk._flatten_layers()]
    settings = json.dumps([
        {key: value for key, value in layer.get_config().items() if key != "name"}
        for layer in trunk._flatten_layers() if not isinstance(layer, keras.Model)
    ], default=str)  # fmt: skip
    digest = hashlib.sha256(f"{kinds}{settings}".encode())
    for weight in trunk.get_weights():
        digest.update(f"{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
