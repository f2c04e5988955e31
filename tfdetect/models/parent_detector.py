"""Start a detector from the weights of another one, or add the outputs that distillation needs."""

import keras

from tfdetect.core.errors import UserError
from tfdetect.data.targets import ANSWERS
from tfdetect.models.low_rank import adapted_layers


def start_from(detector: keras.Model, parent: keras.Model, name: str) -> list[str]:
    """Copy all weights of a detector of the same architecture.

    With another number of classes, the layer that gives the logits starts anew. A backbone with
    low-rank matrices has the weights of the run already, through `model.weights`.

    Args:
        detector: whose weights are set.
        parent: the detector to copy from.
        name: the name of its run, for messages.

    Returns:
        Names of the layers that start anew.

    Raises:
        UserError: the architectures differ.
    """
    kept = {output: detector.output[output] for output in parent.output}  # a run has no others
    layers = keras.Model(detector.inputs[0], kept).layers
    pairs = list(zip(layers, parent.layers))
    same_kinds = len(layers) == len(parent.layers) and all(
        type(own) is type(other) for own, other in pairs
    )
    same_classes = detector.output["label"].shape == parent.output["label"].shape
    pairs = [pair for pair in pairs if not adapted_layers(pair[0])]
    anew = [
        own.name for own, other in pairs
        if [v.shape for v in own.weights] != [v.shape for v in other.weights]
    ]  # fmt: skip
    if not same_kinds or (anew and same_classes):
        raise UserError(
            f"The detector of {name} has other layers than its experiment builds: "
            f"{', '.join(anew[:3]) or 'of other kinds'}. It was trained with other plug-ins or "
            "another version; train it again."
        )
    for own, other in pairs:
        if own.name not in anew:
            own.set_weights(other.get_weights())
    return anew


def with_teacher(detector: keras.Model, teacher: keras.Model) -> keras.Model:
    """Return a detector that also gives the logits of another one, which is not trained.

    Args:
        detector: its layers are shared.
        teacher: a detector of the same input and number of classes.

    Returns:
        A model with the detector's outputs and `ANSWERS`: float32 [B, 2 * logits], the detector's
        logits and then the teacher's.
    """
    frozen = keras.Model(teacher.inputs[0], teacher.output["label"], name="teacher")
    frozen.trainable = False
    image, own = detector.inputs[0], detector.output["label"]
    both = keras.layers.Concatenate(dtype="float32", name=ANSWERS)(
        [own, frozen(image, training=False)]
    )
    return keras.Model(image, {**detector.output, ANSWERS: both}, name=detector.name)


def with_answers(detector: keras.Model) -> keras.Model:
    """Return a detector that gives its logits once more, to be compared with stored answers.

    Returns:
        A model with the detector's outputs and `ANSWERS`: float32 [B, logits].
    """
    logits = keras.layers.Identity(dtype="float32", name=ANSWERS)(detector.output["label"])
    outputs = {**detector.output, ANSWERS: logits}
    return keras.Model(detector.inputs[0], outputs, name=detector.name)
