"""What moves a detector on a set of images: maps averaged by class, and whether to believe them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import view_dataset
from tfdetect.data.sources import image_source
from tfdetect.explanation.maps import Explainer, cells, feature_maps, flattened, views_of
from tfdetect.models.saving import load_detector

_SHARE = 0.1  # of the cells, that are flattened to test a map
_RESAMPLES = 1000

_PAGE = template(
    """<p>{{ run }} on {{ count }} images of {{ split }} of {{ dataset }}, as many of each class as
there are; the maps are of the {{ size }} pixels that the detector looks at.</p>
<h2>Where the classes are told apart</h2>
<p>Mean image of each class, and each map averaged over the class: red speaks for fake, blue for
authentic. Attention has no sign: red is more than evenly. An even map says that the place does not
matter; a bright frame or corner that the set has something there that it should not.</p>
{{ figures([maps]) }}
{% if features %}<h2>Mean maps of features</h2>
<p>The mean over channels of what the front-end and the backbone leave, by class, and the
difference of each fake class from {{ authentic }}. The channels that part the classes best, by
Cohen's d of their mean:</p>
{{ channels }}
{{ figures([features]) }}{% endif %}
<h2>May the maps be believed?</h2>
<p>Shuffled: rank correlation with the map of the same network with shuffled weights; a map near 1
shows the image, not the detector (Adebayo et al., 2018). Fall: how far the log-odds of the verdict
fall where the tenth of the patches that the map names lose their texture; beside it the same for
random patches. A map that tells no more than chance has an interval of the difference around 0.</p>
{{ table }}
"""
)


def explain_set(
    run: Run, catalog: Catalog, split: str, count: int, output: Path, say=print
) -> dict:  # fmt: skip
    """Maps of some images of a split, averaged; writes explanation.json, .html and figures.

    Args:
        count: images at most, shared among the classes; which ones follows from their content.

    Returns:
        count and, by map, shuffled (median correlation), fall, random and gain (with an
        interval).

    Raises:
        UserError: the split has no readable image.
    """
    if not catalog.split(split).num_rows:
        raise UserError(f"The dataset has no images in {split}.")
    detector = load_detector(run)
    explainer, features = Explainer(detector, run.members), _Features(run, detector)
    rows = _choose(catalog.split(split), count, len(run.classes))
    sums, told = _Sums(len(run.classes)), {}
    say(f"explaining {rows.num_rows:,} images of {split}")
    draw = np.random.default_rng(0)
    images = view_dataset(image_source(catalog, rows), run.views, 1)
    for index, parts in tqdm(images, "explaining", rows.num_rows, unit=" images", disable=None):
        label = rows["label"][int(index[0])].as_py()
        views, focus = views_of(run, [part.numpy() for part in parts])
        maps = explainer.maps(views, focus)
        alike = explainer.sanity(views, maps, focus)
        sums.add(label, views[focus], maps)
        features.add(label, views)
        called = 1 if explainer.score(views)[0] > 0 else -1
        for name, drawn in maps.items():
            signed = drawn if name == "attention" else called * drawn
            told.setdefault(name, []).append(
                (alike[name], *_falls(explainer, views, focus, signed, called, draw))
            )
    if not told:
        raise UserError(f"None of the images of {split} can be read.")
    found = {"count": sum(sums.counts), "maps": {n: _judged(np.array(v)) for n, v in told.items()}}
    _write(found, run, catalog, split, sums, features, output)
    return found


def _choose(rows: pa.Table, count: int, classes: int) -> pa.Table:
    """As many rows of each class as there are, up to `count` in all."""
    labels = rows["label"].to_numpy()
    order = np.argsort(rows["hash"].to_numpy(zero_copy_only=False), kind="stable")
    share = max(1, count // classes)
    chosen = [order[labels[order] == label][:share] for label in range(classes)]
    return rows.take(pa.array(np.concatenate(chosen)))


class _Sums:
    """Sums of images and maps by class."""

    def __init__(self, classes: int):
        self.counts = [0] * classes
        self.images: list = [0.0] * classes
        self.maps: dict[str, list] = {}

    def add(self, label: int, view: np.ndarray, maps: dict[str, np.ndarray]) -> None:
        self.counts[label] += 1
        image = view[0] if view.ndim == 4 else view[0, view.shape[1] // 2]
        self.images[label] = self.images[label] + image
        for name, drawn in maps.items():
            drawn = drawn - 1 if name == "attention" else drawn
            size = np.abs(drawn).mean() or 1.0  # no image counts more than another
            of = self.maps.setdefault(name, [0.0] * len(self.counts))
            of[label] = of[label] + drawn / size


class _Features:
    """Sums of maps of features by class; of detectors with one view."""

    def __init__(self, run: Run, detector):
        self._of: Callable = (lambda _: {}) if len(run.views) > 1 else feature_maps(detector)
        self._classes = len(run.classes)
        self.sums: dict[str, list] = {}
        self.means: dict[str, list[list]] = {}

    def add(self, label: int, views: list[np.ndarray]) -> None:
        for name, values in self._of(views[0]).items():
            sums = self.sums.setdefault(name, [0.0] * self._classes)
            sums[label] = sums[label] + values[0].mean(-1)
            means = self.means.setdefault(name, [[] for _ in range(self._classes)])
            means[label].append(values[0].mean((0, 1)))

    def channels(self, classes: list[str]) -> list[list[str]]:
        """Rows of the channels with the largest Cohen's d between class 0 and each other."""
        rows = []
        for name, means in self.means.items():
            for label in range(1, self._classes):
                if min(len(means[0]), len(means[label])) < 2:
                    continue
                d = _cohen(np.array(means[0]), np.array(means[label]))
                best = np.argsort(-np.abs(d))[:5]
                text = ", ".join(f"{channel} ({d[channel]:+.2f})" for channel in best)
                rows.append([name, classes[label], text])
        return rows


def _cohen(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cohen's d of each column, positive where `other` is larger."""
    deviation = np.sqrt((one.var(0, ddof=1) + other.var(0, ddof=1)) / 2)
    return (other.mean(0) - one.mean(0)) / np.maximum(deviation, 1e-9)


def _falls(
    explainer: Explainer, views: list, focus: int, signed: np.ndarray, called: int,
    draw: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """How far the verdict's log-odds fall without the cells a map names, and without others."""
    places = list(cells(*signed.shape))
    few = max(1, round(_SHARE * len(places)))
    best = np.argsort([-signed[place].mean() for place in places])[:few]
    others = draw.choice(len(places), few, replace=False)
    before, falls = explainer.score(views)[0], []
    for chosen in (best, others):
        changed = flattened(views[focus], [places[i] for i in chosen])
        after = explainer.score([changed if n == focus else v for n, v in enumerate(views)])[0]
        falls.append(float(called * (before - after)))
    return tuple(falls)


def _judged(values: np.ndarray) -> dict:
    """What is known of a map, from rows of (correlation, fall, random fall)."""
    gains = values[:, 1] - values[:, 2]
    draw = np.random.default_rng(0)
    means = gains[draw.integers(0, len(gains), (_RESAMPLES, len(gains)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "shuffled": round(float(np.median(values[:, 0])), 4),
        "fall": round(float(values[:, 1].mean()), 4),
        "random": round(float(values[:, 2].mean()), 4),
        "gain": {"value": round(float(gains.mean()), 4), "low": round(float(low), 4),
                 "high": round(float(high), 4)},
    }  # fmt: skip


def _write(found, run, catalog, split, sums, features, output: Path) -> None:
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    write_text(output / "explanation.json", json.dumps(found, indent=2) + "\n")
    headers, rows = _rows(found)
    drawn = save_figure(_maps(run, sums), figures / "maps.png")
    shown = None
    if features.sums:
        shown = save_figure(_feature_figure(run, sums, features), figures / "features.png")
    size = max(run.views, key=lambda view: np.prod(view.size)).size
    page = _PAGE.render(
        title=f"What moves {run.name}", run=run.name, count=f"{found['count']:,}", split=split,
        dataset=catalog.name, size=f"{size[1]} x {size[0]}", authentic=run.classes[0],
        maps=("maps by class", drawn), features=shown and ("mean maps of features", shown),
        channels=html_table(["features", "class", "channels (d)"], features.channels(run.classes)),
        table=html_table(headers, rows),
    )  # fmt: skip
    write_text(output / "explanation.html", page)


def terminal(found: dict) -> str:
    """What is known of the maps as a table for the terminal."""
    headers, rows = _rows(found)
    return tabulate(rows, headers, disable_numparse=True)


def _rows(found: dict) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, value in found["maps"].items():
        gain = value["gain"]
        rows.append([
            name, f"{value['shuffled']:.2f}", f"{value['fall']:.2f}", f"{value['random']:.2f}",
            f"{gain['value']:.2f} [{gain['low']:.2f}, {gain['high']:.2f}]",
        ])  # fmt: skip
    return ["map", "shuffled", "fall", "fall, random", "difference"], rows


def _maps(run: Run, sums: _Sums) -> Figure:
    labels = [label for label, n in enumerate(sums.counts) if n]
    rows = 1 + len(sums.maps)
    figure = Figure(figsize=(2.6 * len(labels) + 1, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, len(labels), squeeze=False)
    for column, label in enumerate(labels):
        count = sums.counts[label]
        axes[0, column].imshow(np.clip(sums.images[label] / count / 255, 0, 1))
        axes[0, column].set_title(f"{run.classes[label]} ({count})")
        for row, maps in enumerate(sums.maps.values(), 1):
            size = max(np.abs(maps[other] / sums.counts[other]).max() for other in labels) or 1.0
            axes[row, column].imshow(maps[label] / count, cmap="RdBu_r", vmin=-size, vmax=size)
    for row, name in enumerate(["mean image", *sums.maps]):
        axes[row, 0].set_ylabel(name)
    for place in axes.ravel():
        place.set(xticks=[], yticks=[])
    return figure


def _feature_figure(run: Run, sums: _Sums, features: _Features) -> Figure:
    labels = [label for label, n in enumerate(sums.counts) if n]
    fakes = [label for label in labels if label and 0 in labels]
    rows, columns = len(features.sums), len(labels) + len(fakes)
    figure = Figure(figsize=(2.6 * columns + 1, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (name, totals) in enumerate(features.sums.items()):
        means = {label: totals[label] / sums.counts[label] for label in labels}
        low, high = (f(list(means.values())) for f in (np.min, np.max))
        for column, label in enumerate(labels):
            axes[row, column].imshow(means[label], cmap="viridis", vmin=low, vmax=high)
            axes[row, column].set_title(run.classes[label])
        for column, label in enumerate(fakes, len(labels)):
            difference = means[label] - means[0]
            size = np.abs(difference).max() or 1.0
            axes[row, column].imshow(difference, cmap="RdBu_r", vmin=-size, vmax=size)
            axes[row, column].set_title(f"{run.classes[label]} - {run.classes[0]}")
        axes[row, 0].set_ylabel(name)
    for place in axes.ravel():
        place.set(xticks=[], yticks=[])
    return figure
