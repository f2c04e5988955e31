"""Explains a detector on a set of images: maps averaged by class, and whether to trust them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect.core import console, html
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_json, write_text
from tfdetect.core.run import Run
from tfdetect.core.run_results import Interval
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import view_dataset
from tfdetect.data.sources import image_source
from tfdetect.evaluation.intervals import format_interval, mean_interval
from tfdetect.explanation.maps import (
    ATTENTION,
    Explainer,
    Views,
    cells,
    feature_maps,
    flattened,
    middle_window,
    views_of,
)
from tfdetect.models.saving import load_detector

FLATTENED_FRACTION = 0.1  # of the patches lose their texture to test a map
CHANNELS = 5  # that are listed for each class


class MapTest(TypedDict):
    """Whether a map is to be trusted."""

    shuffled: float  # median correlation with the map of the network with shuffled weights
    fall: float  # of the verdict's logit, without the patches that the map names
    random: float  # ... and without random ones
    gain: Interval  # their difference


class ExplanationResult(TypedDict):
    """The content of explanation.json."""

    count: int  # of images
    features: dict[str, list[int]]  # height, width and channels
    maps: dict[str, MapTest]


def explain_set(
    run: Run,
    catalog: Catalog,
    split: str,
    count: int,
    output: Path,
    log: console.Log = console.log,
    stages: Sequence[str] = (),
    elsewhere: "ExplainElsewhere | None" = None,
) -> ExplanationResult:
    """Average the maps of some images of a split; write explanation.json, .html and figures.

    Args:
        run: the run.
        catalog: the dataset.
        split: the split of the dataset.
        count: images at most, split evenly among the classes; which ones follows from their
            content.
        output: folder to write into.
        log: called with each line of progress.
        stages: the stages of the backbone whose features are averaged instead of the last; see
            `maps.feature_maps`.
        elsewhere: explains the images; by default this process does.

    Raises:
        UserError: the split has no readable image, or the network has no such stage.
    """
    if stages and (run.is_ensemble or len(run.views) > 1):
        raise UserError(f"{run.name} is an ensemble. Give --features of one of its members.")
    if not catalog.split(split).num_rows:
        raise UserError(f"The dataset {catalog.name} has no images in {split}.")
    classes = len(run.class_names)
    rows = _choose_images(catalog.split(split), count, classes)
    rows = rows.append_column("number", pa.array(range(rows.num_rows), pa.int64()))
    sums, features = _MapSums(classes), _FeatureSums(classes)
    tests: dict[str, list[tuple[float, float, float]]] = {}
    total = catalog.split(split).num_rows
    chosen = "" if rows.num_rows == total else f" of {total:,}, evenly of each class (--count)"
    log(f"explaining {counted(rows.num_rows, 'image')} of {split}{chosen}")
    if elsewhere is None:
        found_images = ImageExplainer(run, stages).explain(catalog, rows)
        images = console.track(found_images, "explaining", rows.num_rows, "images")
    else:
        images = elsewhere(run, catalog, rows)
    for image in images:
        sums.add(image)
        features.add(image)
        for name, values in image.tests.items():
            tests.setdefault(name, []).append(values)
    if not tests:
        raise UserError(f"None of the images of {split} can be read.")
    found: ExplanationResult = {
        "count": sum(sums.counts),
        "features": features.sizes,
        "maps": {name: _summarize_tests(np.array(values)) for name, values in tests.items()},
    }
    (output / "figures").mkdir(parents=True, exist_ok=True)
    page = _page(found, run, catalog.name, split, sums, features, output / "figures")
    write_json(output / "explanation.json", found)
    write_text(output / "explanation.html", page)
    return found


def _choose_images(rows: pa.Table, count: int, classes: int) -> pa.Table:
    """Return equally many rows of each class, up to `count` in all."""
    labels = rows["label"].to_numpy()
    order = np.argsort(rows["hash"].to_numpy(zero_copy_only=False), kind="stable")
    each = max(1, count // classes)
    chosen = [order[labels[order] == label][:each] for label in range(classes)]
    return rows.take(pa.array(np.concatenate(chosen)))


@dataclass(frozen=True)
class ExplainedImage:
    """What is known of the verdict on one image.

    Attributes:
        label: its class.
        image: the view that the maps are of, [H, W, 3], in 0..255.
        maps: by name, [H, W].
        features: by name, the mean of the feature map over its channels, [h, w], and over its
            positions, [c]; of detectors with one view.
        tests: by map, the correlation with the map of the network with shuffled weights, and how
            far the logit falls without the patches that it names and without random ones.
    """

    label: int
    image: np.ndarray
    maps: dict[str, np.ndarray]
    features: dict[str, tuple[np.ndarray, np.ndarray]]
    tests: dict[str, tuple[float, float, float]]


# Explains rows of a catalog elsewhere, for example on a cluster; unreadable images are left out.
ExplainElsewhere = Callable[[Run, Catalog, pa.Table], Iterator[ExplainedImage]]


class ImageExplainer:
    """Explains single images; the model is loaded once.

    Args:
        run: the run.
        stages: see `explain_set`.
    """

    def __init__(self, run: Run, stages: Sequence[str] = ()):
        self._run, detector = run, load_detector(run)
        self._explainer = Explainer(detector, run.info.members)
        self._features: Callable = lambda _: {}
        if len(run.views) == 1:
            self._features = feature_maps(detector, stages, run.info.members)

    def explain(self, catalog: Catalog, rows: pa.Table) -> Iterator[ExplainedImage]:
        """Yield what is known of the images that can be read.

        Args:
            catalog: what the rows are of.
            rows: rows with the column number, which the random patches of an image follow from.
        """
        for index, parts in view_dataset(image_source(catalog, rows), self._run.views, 1):
            row = int(index[0])
            views, view = views_of(self._run, [part.numpy() for part in parts])
            maps = self._explainer.maps(views, view)
            rng = np.random.default_rng([0, rows["number"][row].as_py()])
            yield ExplainedImage(
                rows["label"][row].as_py(), middle_window(views[view]), maps,
                {name: (values[0].mean(-1), values[0].mean((0, 1)))
                 for name, values in self._features(views[0]).items()},
                self._tests(views, view, maps, rng),
            )  # fmt: skip

    def _tests(
        self, views: Views, view: int, maps: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, tuple[float, float, float]]:
        sanity = self._explainer.sanity(views, maps, view)
        sign = 1 if self._explainer.score(views)[0] > 0 else -1
        found = {}
        for name, values in maps.items():
            signed = values if name == ATTENTION else sign * values
            falls = _logit_falls(self._explainer, views, view, signed, sign, rng)
            found[name] = float(sanity[name]), *falls
        return found


class _MapSums:
    """Sums of images and maps by class."""

    def __init__(self, classes: int):
        self.counts = [0] * classes
        self.images: list = [0.0] * classes
        self.maps: dict[str, list] = {}

    def add(self, image: ExplainedImage) -> None:
        label = image.label
        self.counts[label] += 1
        self.images[label] = self.images[label] + image.image
        for name, values in image.maps.items():
            values = values - 1 if name == ATTENTION else values
            scale = np.abs(values).mean() or 1.0  # every image counts the same
            totals = self.maps.setdefault(name, [0.0] * len(self.counts))
            totals[label] = totals[label] + values / scale


class _FeatureSums:
    """Sums of feature maps by class, for detectors with one view."""

    def __init__(self, classes: int):
        self._classes = classes
        self.sizes: dict[str, list[int]] = {}
        self.sums: dict[str, list] = {}
        self.means: dict[str, list[list]] = {}

    def add(self, image: ExplainedImage) -> None:
        label = image.label
        for name, (values, channels) in image.features.items():
            self.sizes[name] = [*values.shape, len(channels)]
            sums = self.sums.setdefault(name, [0.0] * self._classes)
            sums[label] = sums[label] + values
            means = self.means.setdefault(name, [[] for _ in range(self._classes)])
            means[label].append(channels)

    def channels(self, classes: tuple[str, ...]) -> list[list[str]]:
        """Return rows with the channels that separate each fake class from class 0 best."""
        rows = []
        for name, means in self.means.items():
            for label in range(1, self._classes):
                if min(len(means[0]), len(means[label])) < 2:
                    continue
                d = _cohens_d(np.array(means[0]), np.array(means[label]))
                best = np.argsort(-np.abs(d))[:CHANNELS]
                listed = ", ".join(f"{channel} ({d[channel]:+.2f})" for channel in best)
                rows.append([name, classes[label], listed])
        return rows


def _cohens_d(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Cohen's d of each column, positive where `other` is larger."""
    deviation = np.sqrt((one.var(0, ddof=1) + other.var(0, ddof=1)) / 2)
    return (other.mean(0) - one.mean(0)) / np.maximum(deviation, 1e-9)


def _logit_falls(
    explainer: Explainer,
    views: Views,
    view: int,
    signed: np.ndarray,
    sign: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return how far the verdict's logit falls when patches lose their texture.

    Args:
        signed: the map, positive where it supports the verdict, [H, W].
        sign: 1 for the verdict fake, -1 for authentic.

    Returns:
        The fall without the patches that the map names, and without random patches.
    """
    patches = list(cells(*signed.shape))
    count = max(1, round(FLATTENED_FRACTION * len(patches)))
    named = np.argsort([-signed[patch].mean() for patch in patches])[:count]
    random = rng.choice(len(patches), count, replace=False)
    before, falls = explainer.score(views)[0], []
    for chosen in (named, random):
        changed = flattened(views[view], [patches[i] for i in chosen])
        after = explainer.score([changed if n == view else v for n, v in enumerate(views)])[0]
        falls.append(float(sign * (before - after)))
    return falls[0], falls[1]


def _summarize_tests(values: np.ndarray) -> MapTest:
    """Return the summary of rows of (correlation, fall, random fall)."""
    gains = values[:, 1] - values[:, 2]
    return {
        "shuffled": round(float(np.median(values[:, 0])), 4),
        "fall": round(float(values[:, 1].mean()), 4),
        "random": round(float(values[:, 2].mean()), 4),
        "gain": mean_interval(gains),
    }


def _page(
    found: ExplanationResult,
    run: Run,
    dataset: str,
    split: str,
    sums: _MapSums,
    features: _FeatureSums,
    folder: Path,
) -> str:
    """Return the page, and draw its figures into a folder."""
    for name in ("maps.png", "features.png"):
        (folder / name).unlink(missing_ok=True)
    height, width = max(run.views, key=lambda view: view.size[0] * view.size[1]).size
    reliable = [n for n, v in found["maps"].items() if (v["gain"]["low"] or 0) > 0]
    return html.render_page(
        f"{run.name}: explanation maps",
        [
            html.Section("Mean maps by class", _maps_part(run, sums, folder / "maps.png")),
            html.Section(
                "Mean feature maps", _features_part(run, sums, features, folder / "features.png")
            ),
            html.Section("Can the maps be trusted?", _tests_part(found)),
        ],
        subtitle=f"{counted(found['count'], 'image')} of {split} of {dataset}, equally many of "
                 "each class "
        f"where there are enough; the maps are of the {width} x {height} pixels that the "
        "detector sees.",
        cards=[
            html.Card(f"{found['count']:,}", "images"),
            html.Card(f"{len(reliable)} of {len(found['maps'])}", "maps better than chance",
                      ", ".join(reliable) or "none"),
        ],
    )  # fmt: skip


def _maps_part(run: Run, sums: _MapSums, file: Path) -> Markup:
    classes = ", ".join(run.class_names)
    maps = html.picture_of(
        _map_figure(run, sums), f"Mean image and mean maps of the classes {classes}", path=file
    )
    return html.join(
        html.text("The mean image of each class, and each map averaged over the class: red "
                  "supports fake, blue authentic. Attention has no sign: red is more than on "
                  "average. An even map means that the position does not matter. A bright border "
                  "or corner means that the dataset has something there that separates the "
                  "classes, and should not."),
        html.figures([maps], "wide"),
    )  # fmt: skip


def _features_part(run: Run, sums: _MapSums, features: _FeatureSums, file: Path) -> Markup:
    """Return nothing for a detector with several views, which has no feature maps."""
    if not features.sums:
        return html.text("")
    shown = html.picture_of(
        _feature_figure(run, sums, features),
        f"Mean feature maps of the classes {', '.join(run.class_names)} and their differences",
        path=file,
    )
    sizes = "; ".join(
        f"{name} {' x '.join(map(str, size))}" for name, size in features.sizes.items()
    )
    return html.join(
        html.text("The mean over the channels of the front-end's output and of the backbone's at "
                  "its end, or at the stages that were asked for, by class, and the difference of "
                  f"each fake class from {run.class_names[0]}. The table lists the channels whose "
                  "means differ most (Cohen's d)."),
        html.text(f"Height, width and channels: {sizes}", small=True),
        html.table(["features", "class", "channels (Cohen's d)"],
                   features.channels(run.class_names)),
        html.figures([shown], "wide"),
    )  # fmt: skip


def _tests_part(found: ExplanationResult) -> Markup:
    return html.join(
        html.text("Correlation: rank correlation with the map of the same network with shuffled "
                  "weights; near 1 the map shows the image, not the detector (Adebayo et al., "
                  "2018). Fall: how far the logit of the verdict falls when the tenth of the "
                  "patches that the map names lose their texture, and when random patches do. A "
                  "map whose difference has an interval that contains 0 is no better than chance."),
        html.table(*_rows(found)),
    )  # fmt: skip


_EXPLAINED = (
    "correlation when shuffled: with the map of the same network with shuffled weights; near 1 the "
    "map shows the image, not the detector",
    "fall: of the verdict's logit when the patches that the map names lose their texture; a "
    "difference whose interval contains 0 is no better than chance",
)


def format_explanation(found: ExplanationResult) -> str:
    """Return the tests of the maps as a table for the terminal."""
    headers, rows = _rows(found)
    return "\n".join([console.format_table(rows, headers), *_EXPLAINED])


def _rows(found: ExplanationResult) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, value in found["maps"].items():
        gain = value["gain"]
        rows.append([
            name, f"{value['shuffled']:.2f}", f"{value['fall']:.2f}", f"{value['random']:.2f}",
            format_interval(gain, 2),
        ])  # fmt: skip
    headers = ["map", "correlation when shuffled", "fall", "fall, random patches", "difference"]
    return headers, rows


def _map_figure(run: Run, sums: _MapSums) -> Figure:
    """Draw the mean image and the mean maps of each class."""
    labels = [label for label, n in enumerate(sums.counts) if n]
    rows = 1 + len(sums.maps)
    figure = Figure(figsize=(2.6 * len(labels) + 1, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, len(labels), squeeze=False)
    for column, label in enumerate(labels):
        count = sums.counts[label]
        axes[0, column].imshow(np.clip(sums.images[label] / count / 255, 0, 1))
        axes[0, column].set_title(f"{run.class_names[label]} ({count})", fontsize=10)
        for row, maps in enumerate(sums.maps.values(), 1):
            limit = max(np.abs(maps[other] / sums.counts[other]).max() for other in labels) or 1.0
            axes[row, column].imshow(maps[label] / count, cmap="RdBu_r", vmin=-limit, vmax=limit)
    _label_rows(axes, ["mean image", *sums.maps])
    return figure


def _feature_figure(run: Run, sums: _MapSums, features: _FeatureSums) -> Figure:
    """Draw the mean feature maps of each class, and their differences from class 0."""
    labels = [label for label, n in enumerate(sums.counts) if n]
    fakes = [label for label in labels if label and 0 in labels]
    rows, columns = len(features.sums), len(labels) + len(fakes)
    figure = Figure(figsize=(2.6 * columns + 1, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, totals in enumerate(features.sums.values()):
        means = {label: totals[label] / sums.counts[label] for label in labels}
        low, high = (function(list(means.values())) for function in (np.min, np.max))
        for column, label in enumerate(labels):
            axes[row, column].imshow(means[label], cmap="viridis", vmin=low, vmax=high)
            axes[row, column].set_title(run.class_names[label], fontsize=10)
        for column, label in enumerate(fakes, len(labels)):
            difference = means[label] - means[0]
            limit = np.abs(difference).max() or 1.0
            axes[row, column].imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
            title = f"{run.class_names[label]} - {run.class_names[0]}"
            axes[row, column].set_title(title, fontsize=10)
    _label_rows(axes, list(features.sums))
    return figure


def _label_rows(axes: np.ndarray, names: list[str]) -> None:
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, fontsize=10)
    for each in axes.ravel():
        each.set(xticks=[], yticks=[])
