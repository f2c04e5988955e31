"""Writes the page, the figures and the terminal text of the explanation of a set of images."""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect.core import console, html
from tfdetect.core.run import Run
from tfdetect.core.text import counted
from tfdetect.evaluation.intervals import format_interval
from tfdetect.explanation.set_results import ExplanationResult, FeatureMeans, MapMeans
from tfdetect.explanation.wording import map_meaning

_COLUMNS = ["map", "correlation when shuffled", "fall", "fall, random patches", "difference"]
_TERMINAL_LEGEND = (
    "correlation when shuffled: rank correlation with the map of the same network with shuffled "
    "weights; near 1, the map shows the image and not what the detector learned",
    "fall: of the verdict's logit, if the patches that the map ranks highest are painted over with "
    "their mean color; if the interval of the difference contains 0, the map is no better than "
    "chance",
)


def format_explanation(found: ExplanationResult) -> str:
    """Return the tests of the maps as a table for the terminal."""
    return "\n".join([console.format_table(_test_rows(found), _COLUMNS), *_TERMINAL_LEGEND])


def set_page(
    found: ExplanationResult,
    run: Run,
    dataset: str,
    split: str,
    means: MapMeans,
    features: FeatureMeans,
    figures: Path,
) -> str:
    """Return the page, and write its figures into a directory.

    Args:
        found: what was measured, the content of explanation.json.
        run: the run.
        dataset: the name of the dataset.
        split: the split that was explained.
        means: mean images and maps by class.
        features: mean feature maps by class.
        figures: the directory.
    """
    for name in ("maps.png", "features.png"):  # of an earlier explanation
        (figures / name).unlink(missing_ok=True)
    height, width = max(run.views, key=lambda view: view.size[0] * view.size[1]).size
    reliable = [name for name, test in found["maps"].items() if (test["gain"]["low"] or 0) > 0]
    return html.render_page(
        f"{run.name}: explanation maps",
        [
            html.Section("Mean maps by class", _maps(run, means, figures / "maps.png")),
            html.Section("Mean feature maps", _features(run, features, figures / "features.png")),
            html.Section("Can the maps be trusted?", _tests(found)),
        ],
        subtitle=f"{counted(found['count'], 'image')} of {split} of {dataset}, equally many of "
                 "each class if there are enough; the maps are of the "
                 f"{width} x {height} pixels that the detector sees.",
        cards=[
            html.Card(f"{found['count']:,}", "images"),
            html.Card(f"{len(reliable)} of {len(found['maps'])}", "kinds of map beat chance",
                      f"{', '.join(reliable)}: what they mark moves the score more than random "
                      "regions do" if reliable else
                      "none marks regions that move the score more than random ones"),
        ],
    )  # fmt: skip


def _maps(run: Run, means: MapMeans, file: Path) -> Markup:
    classes = ", ".join(run.class_names)
    figure = html.picture_of(
        _map_figure(run, means), f"Mean image and mean maps of the classes {classes}", path=file
    )
    return html.join(
        html.text("A map shows which regions of an image move the score for fake. Here each kind "
                  "of map is averaged over the images of a class, below their mean image. An even "
                  "map means that the position does not matter. A bright border or corner means "
                  "that the images of this dataset have something there that separates the "
                  "classes, which is often a shortcut."),
        html.table(["map", "what it shows"], [[n, map_meaning(n)] for n in means.maps()]),
        html.figures([figure], "wide"),
    )  # fmt: skip


def _features(run: Run, features: FeatureMeans, file: Path) -> Markup:
    """Return nothing for a detector with several views, which has no feature maps."""
    if not features.sizes:
        return html.text("")
    figure = html.picture_of(
        _feature_figure(run, features),
        f"Mean feature maps of the classes {', '.join(run.class_names)} and their differences",
        path=file,
    )
    sizes = "; ".join(
        f"{name} {' x '.join(map(str, size))}" for name, size in features.sizes.items()
    )
    rows = [
        [name, run.class_names[label], ", ".join(f"{number} ({d:+.2f})" for number, d in channels)]
        for name, label, channels in features.separating_channels()
    ]
    return html.join(
        html.text("The network describes an image by channels: each says for every region how "
                  "strong one learned pattern is there. Each map below is the mean over all "
                  "channels and over the images of a class: of the output of the front-end (a "
                  "first filter), if there is one, and of the last features of the network, or of "
                  "the stages that --features names. Beside them are the differences of each fake "
                  f"class from {run.class_names[0]}.",
                  f"The table lists the channels that differ most from {run.class_names[0]}: the "
                  "number of the channel and, in brackets, the difference of the class means in "
                  "standard deviations of single images (Cohen's d). Above 0 the pattern is "
                  "stronger in the fakes; from 0.8 on, in either direction, the difference is "
                  "usually called large. The largest of many channels are large by chance, too, "
                  "if there are few images."),
        html.text(f"Height, width and channels: {sizes}", small=True),
        html.table(["features", "class", "channel (difference)"], rows),
        html.figures([figure], "wide"),
    )  # fmt: skip


def _tests(found: ExplanationResult) -> Markup:
    return html.join(
        html.text("Correlation when shuffled: how similar each map is to that of a network that "
                  "has learned nothing, the same one with shuffled weights (rank correlation: 0 "
                  "or less for different regions, 1 for the same ones). Near 1, the map shows the "
                  "image and not what the detector learned (Adebayo et al., 2018).",
                  "Fall: how far the score for the verdict (as a logit, from which the probability "
                  "is computed) falls if the tenth of the image that the map marks most is painted "
                  "over, each patch with its mean color; beside it, the same with random patches. "
                  "If the interval of the difference contains 0, what the map marks moves the "
                  "score no more than random patches do."),
        html.table(_COLUMNS, _test_rows(found)),
    )  # fmt: skip


def _test_rows(found: ExplanationResult) -> list[list[str]]:
    """Return a row of `_COLUMNS` for each map."""
    return [
        [name, f"{test['shuffled']:.2f}", f"{test['fall']:.2f}", f"{test['random']:.2f}",
         format_interval(test["gain"], 2)]
        for name, test in found["maps"].items()
    ]  # fmt: skip


def _map_figure(run: Run, means: MapMeans) -> Figure:
    """Draw the mean image and the mean maps of each class."""
    labels = [label for label, count in enumerate(means.counts) if count]
    maps = means.maps()
    rows = 1 + len(maps)
    figure = Figure(figsize=(2.6 * len(labels) + 1, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, len(labels), squeeze=False)
    for column, label in enumerate(labels):
        axes[0, column].imshow(np.clip(means.image(label) / 255, 0, 1))
        title = f"{run.class_names[label]} ({means.counts[label]})"
        axes[0, column].set_title(title, fontsize=10)
    for row, by_class in enumerate(maps.values(), 1):
        limit = max(np.abs(values).max() for values in by_class.values()) or 1.0
        for column, label in enumerate(labels):
            axes[row, column].imshow(by_class[label], cmap="RdBu_r", vmin=-limit, vmax=limit)
    _label_rows(axes, ["mean image", *maps])
    return figure


def _feature_figure(run: Run, features: FeatureMeans) -> Figure:
    """Draw the mean feature maps of each class, and their differences from class 0."""
    maps = features.maps()
    labels = list(next(iter(maps.values())))
    fakes = [label for label in labels if label and 0 in labels]
    rows, columns = len(maps), len(labels) + len(fakes)
    figure = Figure(figsize=(2.6 * columns + 1, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, by_class in enumerate(maps.values()):
        low, high = (function(list(by_class.values())) for function in (np.min, np.max))
        for column, label in enumerate(labels):
            axes[row, column].imshow(by_class[label], cmap="viridis", vmin=low, vmax=high)
            axes[row, column].set_title(run.class_names[label], fontsize=10)
        for column, label in enumerate(fakes, len(labels)):
            difference = by_class[label] - by_class[0]
            limit = np.abs(difference).max() or 1.0
            axes[row, column].imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
            title = f"{run.class_names[label]} - {run.class_names[0]}"
            axes[row, column].set_title(title, fontsize=10)
    _label_rows(axes, list(maps))
    return figure


def _label_rows(axes: np.ndarray, names: list[str]) -> None:
    """Write a name at the left of each row of panels, and remove the ticks."""
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, fontsize=10)
    for each in axes.ravel():
        each.set(xticks=[], yticks=[])
