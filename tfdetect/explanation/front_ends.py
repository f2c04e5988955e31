"""Shows what front-ends leave of one image, and how training changed the run's own front-end."""

from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import keras
import numpy as np
import tensorflow as tf
from markupsafe import Markup

from tfdetect.core import console, html
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_json, write_text
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.model_settings import Model
from tfdetect.core.run import Run
from tfdetect.core.text import from_os
from tfdetect.explanation.examination import view_of_image
from tfdetect.explanation.pictures import picture, residual_image
from tfdetect.imaging.read import decode_any, decoding_error
from tfdetect.models.detector import build_detector, build_front_end
from tfdetect.models.detector_parts import front_end_output
from tfdetect.models.saving import load_detector

# The front-ends that are shown for every image, and how to read their outputs.
FRONT_ENDS = {
    "residual": "what a local denoiser (a Wiener filter) removes",
    "srm": "three fixed high-pass filters, one shown in each color; gray is no residual",
    "bayar": "three constrained filters with random weights, as before a training",
    "npr": "differences of neighboring pixels in blocks of 2 x 2",
    "dct": "logarithm of the cosine transform of each color; low frequencies are top left",
}
_SPECTRAL = ("dct", "spectrum")  # front-ends whose values are not centered at zero


class LearnedResult(TypedDict):
    """How training changed the run's own front-end."""

    name: str
    weights: int  # number of weights that are learned
    change: float  # mean absolute change of the output, relative to its mean absolute value before


@dataclass(frozen=True)
class Learned:
    """A run's own front-end before and after its training.

    Attributes:
        name: the name of the front-end.
        before, after: its outputs for the image, float32 [h, w, C].
        weights: number of weights that are learned.
        kernels: names of convolutions, with their kernels before and after, [h, w, in, out].
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    weights: int
    kernels: dict[str, tuple[np.ndarray, np.ndarray]]

    def as_data(self) -> LearnedResult:
        """Return the content of front_ends.json about it."""
        scale = float(np.abs(self.before).mean())
        change = float(np.abs(self.after - self.before).mean()) / scale if scale else 0.0
        return {"name": self.name, "weights": self.weights, "change": round(change, 6)}


class OutputResult(TypedDict):
    """Statistics of the output of a front-end."""

    zero: float  # fraction of values that are 0
    deviation: float  # standard deviation


class FrontEndsResult(TypedDict):
    """The content of front_ends.json."""

    image: str
    size: list[int]  # height and width of the view in pixels
    front_ends: dict[str, OutputResult]
    learned: NotRequired[LearnedResult]


def show_front_ends(
    run: Run, path: Path, output: Path, max_pixels: int = MAX_PIXELS
) -> FrontEndsResult:
    """Write front_ends.html and front_ends.json for one image.

    Args:
        run: the run; its view decides which pixels of the image are shown.
        path: the path of the image.
        output: folder to write into.
        max_pixels: an image with more pixels is refused.

    Raises:
        UserError: the image cannot be read, or the run is an ensemble.
    """
    if run.is_ensemble:
        raise UserError(
            f"{run.name} is an ensemble. Its members have front-ends of their own; give one."
        )
    data = path.read_bytes()
    if problem := decoding_error(data, max_pixels):
        raise UserError(f"Cannot read {path}: {problem}.")
    image = decode_any(tf.constant(data), max_pixels).numpy()
    shown = view_of_image(run, image)
    outputs = {name: _untrained_output(name, shown, run.info.seed) for name in FRONT_ENDS}
    learned = learned_front_end(run, shown)
    found: FrontEndsResult = {
        "image": from_os(path), "size": list(shown.shape[:2]),
        "front_ends": {
            name: {"zero": round(float((values == 0).mean()), 6),
                   "deviation": round(float(values.std()), 6)}
            for name, values in outputs.items()
        },
    }  # fmt: skip
    if learned is not None:
        found["learned"] = learned.as_data()
    write_json(output / "front_ends.json", found)
    write_text(output / "front_ends.html", _page(run, path, shown, outputs, learned))
    return found


def learned_front_end(run: Run, image: np.ndarray) -> Learned | None:
    """Return a run's own front-end before and after its training; None if it has none.

    The untrained network is built again with the run's seed, so that its weights are those with
    which the training began.

    Args:
        run: the run.
        image: uint8 [H, W, 3], of the size of the run's view.
    """
    detector = load_detector(run)
    if front_end_output(detector) is None:
        return None
    experiment = run.experiment()
    keras.utils.set_random_seed(run.info.seed)
    fresh = build_detector(experiment, len(run.class_names))
    models = [keras.Model(d.inputs[0], front_end_output(d)) for d in (fresh, detector)]
    before, after = (np.asarray(m(image[None].astype(np.float32)))[0] for m in models)
    weights = [[(w.path, w.numpy()) for w in m.trainable_weights] for m in models]
    kernels = {
        name: (one, other) for (name, one), (_, other) in zip(*weights, strict=True)
        if one.ndim == 4
    }  # fmt: skip
    count = sum(one.size for _, one in weights[0])
    return Learned(experiment.model.front_end, before.astype(np.float32),
                   after.astype(np.float32), count, kernels)  # fmt: skip


def format_front_ends(found: FrontEndsResult) -> str:
    """Return the content of front_ends.json as text for the terminal."""
    rows = [[name, f"{v['deviation']:.4g}", f"{v['zero']:.1%}"]
            for name, v in found["front_ends"].items()]  # fmt: skip
    table = console.format_table(rows, ["front-end", "standard deviation", "zeros"])
    return f"{table}\n{_learned_sentence(found.get('learned'))}"


def _learned_sentence(learned: LearnedResult | None) -> str:
    if learned is None:
        return "The run has no front-end: its network reads pixels."
    if not learned["weights"]:
        return f"The run's front-end is {learned['name']}, which has no weights to learn."
    return (
        f"The run's front-end is {learned['name']}, with {learned['weights']:,} weights. Training "
        f"changed its output on this image by {learned['change']:.1%} (mean absolute change)."
    )


def _untrained_output(name: str, image: np.ndarray, seed: int) -> np.ndarray:
    """Return the output of an untrained front-end for an image, float32 [h, w, C]."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(image.shape)
    model = keras.Model(inputs, build_front_end(Model(front_end=name), inputs))
    return np.asarray(model(image[None].astype(np.float32)), np.float32)[0]


def _output_image(name: str, values: np.ndarray) -> np.ndarray:
    """Return the output of a front-end as an image, uint8 [h, w, 3]."""
    centered = values - np.median(values) if name in _SPECTRAL else values
    return residual_image(centered)


def _page(
    run: Run, path: Path, image: np.ndarray, outputs: dict[str, np.ndarray], learned: Learned | None
) -> str:
    pictures = [picture(image, "The pixels that the detector sees", "image")]
    pictures += [
        picture(
            _output_image(name, values), f"What {name} leaves of the image", name, FRONT_ENDS[name]
        )
        for name, values in outputs.items()
    ]
    return html.render_page(
        f"Front-ends: {path.name}",
        [
            html.Section("What front-ends leave", html.join(
                html.text("Gray is zero (for dct the median). Each picture is scaled to its own "
                          "range. Three channels are shown as colors, any other number as their "
                          "mean."),
                html.figures(pictures, "small"),
            )),
            html.Section("The run's own front-end, before and after training", _learned(learned)),
        ],
        subtitle=f"What {run.name} sees of the image: {image.shape[1]} x {image.shape[0]} pixels.",
    )  # fmt: skip


def _learned(learned: Learned | None) -> Markup:
    if learned is None:
        return html.text(_learned_sentence(None))
    before, after = (
        _output_image(learned.name, values) for values in (learned.before, learned.after)
    )
    pictures = [
        picture(before, "Output before training", "before training"),
        picture(after, "Output after training", "after training"),
        picture(residual_image(learned.after - learned.before), "The difference of both outputs",
                "difference", "gray: no change"),
    ]  # fmt: skip
    return html.join(
        html.text(_learned_sentence(learned.as_data())),
        html.figures(pictures, "small"),
        *(
            html.table(
                ["kernel", "before", "after", "difference"],
                [
                    [f"{name}, output {k + 1}", *(f"{np.abs(part[..., k]).mean():.4f}"
                                                  for part in (one, other, other - one))]
                    for k in range(min(one.shape[-1], 12))
                ],
                caption="Mean absolute weight of each kernel",
            )
            for name, (one, other) in learned.kernels.items()
        ),
    )  # fmt: skip
