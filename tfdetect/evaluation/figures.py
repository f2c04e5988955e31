"""Figures of a report, as matplotlib figures; nothing here needs a display.

Figures have no titles of their own: the page gives each a title and a text alternative.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.special import expit
from sklearn.metrics import precision_recall_curve, roc_curve

from tfdetect.core.html import Picture
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.text import legend_label
from tfdetect.evaluation.calibration import logit
from tfdetect.evaluation.mask_metrics import THRESHOLD
from tfdetect.evaluation.metrics import BINS
from tfdetect.evaluation.overlays import overlay
from tfdetect.imaging.pillow import read_rgb

if TYPE_CHECKING:  # drawing needs no TensorFlow
    from tfdetect.data.sources import Files, Records
    from tfdetect.evaluation.prediction_columns import MaskPrediction

BLUE, GRAY, RED, GREEN = "#2166ac", "#767676", "#b2182b", "#1b7837"
# Colors that can be distinguished on white, also by color-blind readers.
_COLORS = ("#2166ac", "#b2182b", "#1b7837", "#b35806", "#762a83", "#01665e", "#c51b7d", "#525252")
MAX_GENERATORS = 10
MAX_ERRORS = 16
_CELL, _GAP = 128, 4  # pixels of an image of a contact sheet, about, and between two of them
EDGE = 1e-6  # how far a probability is kept from 0 and 1 on a logit axis
_BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue
_LETTER = 0.075  # inches that a letter of a label takes
_AXES_WIDTH = 6.2  # inches, of the figure of thresholds


def roc(fake: np.ndarray, scores: np.ndarray) -> Figure:
    """Draw the receiver operating characteristic of P(fake); the dotted line is chance."""
    figure, axes = _square("false positive rate", "recall (true positive rate)")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1)
    axes.plot(*roc_curve(fake, scores)[:2], color=BLUE)
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    return figure


def precision_recall(fake: np.ndarray, scores: np.ndarray) -> Figure:
    """Draw precision over recall of the fakes; the dotted line is chance."""
    figure, axes = _square("recall", "precision")
    precision, recall, _ = precision_recall_curve(fake, scores)
    axes.plot([0, 1], [fake.mean()] * 2, color=GRAY, linestyle=":", linewidth=1)
    axes.plot(recall, precision, color=BLUE, drawstyle="steps-post")
    axes.set_ylim(0, 1.02)
    return figure


def reliability(
    fake: np.ndarray,
    scores: np.ndarray,
    raw: np.ndarray | None,
    weights: np.ndarray | None,
) -> Figure:
    """Draw the fraction of fakes over P(fake) in bins; the bars below count the images.

    Args:
        fake: bool [n].
        scores: P(fake), [n].
        raw: P(fake) before calibration, [n], for a second line.
        weights: the weights of the images, [n], so that the classes are as frequent as P(fake)
            assumes.
    """
    figure, axes = _square("P(fake)", "fraction of fakes")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1)
    weights = np.ones(len(fake)) if weights is None else weights
    lines = [(scores, BLUE, "-", "calibrated" if raw is not None else "P(fake)")]
    lines += [(raw, GRAY, "--", "before calibration")] if raw is not None else []
    for p, color, style, label in reversed(lines):
        bins = np.minimum((p * BINS).astype(int), BINS - 1)
        count = np.bincount(bins, weights, BINS)
        used = count > 0
        mean = np.bincount(bins, weights * p, BINS)[used] / count[used]
        fraction = np.bincount(bins, weights * fake, BINS)[used] / count[used]
        axes.plot(mean, fraction, style, color=color, marker="o", markersize=4, label=label)
    count = np.bincount(bins, minlength=BINS)
    centers = (np.arange(BINS) + 0.5) / BINS
    axes.bar(centers, 0.3 * count / count.max(), width=0.9 / BINS, color=GRAY, alpha=0.25)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    if raw is not None:
        _legend_below(figure)
    return figure


def reliability_by_generator(
    parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]],
) -> Figure:
    """Draw the fraction of fakes over P(fake) in fifths; larger points are more images.

    Args:
        parts: is-fake, P(fake) and weights (or None) of each generator's fakes and its authentic
            images; the first ten are drawn.
    """
    figure, axes = _square("P(fake)", "fraction of fakes", extra=0.25 * (len(parts) > 2))
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1)
    for number, (name, (fake, p, weights)) in enumerate(list(parts.items())[:MAX_GENERATORS]):
        weights = np.ones(len(p)) if weights is None else weights
        bins = np.minimum((p * 5).astype(int), 4)
        count = np.bincount(bins, weights, 5)
        used = count > 0
        mean, fraction = (np.bincount(bins, weights * v, 5)[used] / count[used] for v in (p, fake))
        color = _COLORS[number % len(_COLORS)]
        style = "-" if number < len(_COLORS) else "--"
        axes.plot(mean, fraction, style, color=color, linewidth=1.2, label=legend_label(name))
        axes.scatter(mean, fraction, 4 + 60 * count[used] / count.max(), color=color)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _legend_below(figure, columns=2)
    return figure


def thresholds(
    fake: np.ndarray,
    scores: np.ndarray,
    points: dict[str, float],
    band: tuple[float, float],
) -> Figure:
    """Draw recall, false positive rate and precision, with few fakes, over the threshold.

    Args:
        fake: bool [n].
        scores: P(fake), [n].
        points: thresholds of P(fake) by name.
        band: the abstention band, which is shaded.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    positions = {name: float(logit(p, EDGE)) for name, p in points.items()}
    ends = logit(np.quantile(scores, [0.001, 0.999]), 1e-3)
    low = min([ends[0], *positions.values()]) - 0.3
    high = max([ends[1], *positions.values()]) + 0.3
    at = expit(np.linspace(low, high, 400))
    recall, fpr = ((s[:, None] >= at).mean(0) for s in (scores[fake], scores[~fake]))
    with np.errstate(invalid="ignore"):
        precision = 0.01 * recall / (0.01 * recall + 0.99 * fpr)
    precision[fpr == 0] = np.nan  # too few images for an estimate
    axes.plot(logit(at), recall, color=BLUE, label="recall")
    axes.plot(logit(at), fpr, color=RED, linestyle="--", label="false positive rate")
    axes.plot(logit(at), precision, color=GRAY, linestyle="-.", label="precision, 1 in 100 fake")
    if band[0] < band[1]:
        axes.axvspan(*logit(np.array(band), EDGE), color="#fdf0c4", label="inconclusive", zorder=0)
    ticks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    ticks = ticks[(logit(ticks) >= low) & (logit(ticks) <= high)]
    if len(ticks) < 3:
        ticks = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
        ticks = ticks[(logit(ticks) >= low) & (logit(ticks) <= high)]
    axes.set_xticks(logit(ticks), [f"{tick:g}" for tick in ticks])
    axes.set(xlim=(low, high), ylim=(0, 1.02), xlabel="threshold of P(fake)", ylabel="rate")
    axes.grid(alpha=0.2)
    _label_lines(axes, positions)
    _legend_below(figure, columns=4)
    return figure


def _label_lines(axes: Axes, positions: dict[str, float]) -> None:
    """Draw vertical lines with labels above the axes, in as many rows as keep them apart.

    Args:
        positions: names and x of the lines.
    """
    together: dict[float, list[str]] = {}
    for name, x in sorted(positions.items(), key=lambda pair: pair[1]):
        near = next((other for other in together if abs(other - x) < 1e-9), x)
        together.setdefault(near, []).append(name)
    low, high = axes.get_xlim()
    ends: list[float] = []  # right end of the last label of each row, in inches
    for x, names in together.items():
        label = ", ".join(names)
        middle = (x - low) / (high - low) * _AXES_WIDTH
        half = len(label) * _LETTER / 2
        middle = min(max(middle, half), _AXES_WIDTH - half)
        row = next((i for i, end in enumerate(ends) if end < middle - half), len(ends))
        ends[row:] = [middle + half + 0.12, *ends[row + 1 :]]
        axes.axvline(x, color="#444444", linewidth=0.9, linestyle=":")
        axes.annotate(
            label, (x, 1.0), (low + middle / _AXES_WIDTH * (high - low), 1.04 + 0.075 * row),
            xycoords=("data", "axes fraction"), textcoords=("data", "axes fraction"),
            ha="center", va="bottom", fontsize=9, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 1,
                        "shrinkB": 0},
        )  # fmt: skip


def confusion_matrix(counts: list[list[int]], classes: tuple[str, ...]) -> Figure:
    """Draw counts by true class and verdict, shaded by their fraction of the true class."""
    side = max(4.2, 0.9 * len(classes) + 1.6)
    figure = Figure(figsize=(side, side - 0.4), layout="constrained")
    axes = figure.add_subplot()
    table = np.array(counts)
    fractions = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        color = "white" if fractions[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}\n{fractions[row, column]:.1%}", ha="center",
                  va="center", color=color)  # fmt: skip
    long = max(map(len, classes)) > 12 or len(classes) > 4
    axes.set_xticks(range(len(classes)), classes, rotation=30 if long else 0,
                    ha="right" if long else "center")  # fmt: skip
    axes.set_yticks(range(len(classes)), classes, rotation=0 if long else 90, va="center")
    axes.set(xlabel="verdict", ylabel="true class")
    return figure


def heat_map(
    axes: Axes,
    cells: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    colors: str = "RdBu",
    limits: tuple[float, float] = (0, 1),
    text: Callable[[float], str] = "{:.2f}".format,
    size: int = 10,
) -> AxesImage:
    """Draw a table of numbers, float [rows, columns], on their colors; cells of nan stay empty.

    Args:
        colors: matplotlib's name of the color map, whose ends are at the limits.
        text: what is written of a number, in `size` points.

    Returns:
        The image, for a color bar.
    """
    image = axes.imshow(cells, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            dark = np.dot(image.to_rgba(value)[:3], _BRIGHTNESS) < 0.5
            axes.text(column, row, text(value), ha="center", va="center", fontsize=size,
                      color="white" if dark else "black")  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    return image


def training_curves(history: list[dict[str, float]]) -> Figure:
    """Draw loss, accuracy and, where there are masks, their IoU, by epoch."""
    shown = [("log_loss", "log-loss"), ("accuracy", "accuracy")]
    if "mask_iou" in history[0]:
        shown.append(("mask_iou", "IoU of the masks"))
    figure = Figure(figsize=(4.0 * len(shown), 3.4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for position, (name, title) in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), position)
        marker = "o" if len(epochs) < 3 else None
        axes.plot(epochs, [row[name] for row in history], color=GRAY, linestyle="--",
                  marker=marker, label="training")  # fmt: skip
        axes.plot(epochs, [row[f"val_{name}"] for row in history], color=BLUE, marker=marker,
                  label="validation")  # fmt: skip
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        axes.grid(alpha=0.2)
    return figure


def most_confident_errors(
    table: pa.Table, source: "Files | Records", classes: tuple[str, ...]
) -> list[Picture]:
    """Return `MAX_ERRORS` misclassified images with the highest confidence, the worst first.

    Args:
        table: predictions with labels.
        source: the encoded images, in the table's order.
        classes: their names.
    """
    wrong = [
        (position, row) for position, row in enumerate(table.to_pylist())
        if row["error"] is None and row["verdict"] != classes[row["label"]]
    ]  # fmt: skip
    wrong.sort(key=lambda pair: -abs(pair[1]["p_fake"] - 0.5))
    pictures = []
    for position, row in wrong[:MAX_ERRORS]:
        thumbnail = read_rgb(source.read(position), source.max_pixels)
        thumbnail.thumbnail((256, 256))
        truth = classes[row["label"]]
        pictures.append(Picture.of_image(
            thumbnail, f"An image of the class {truth} that was classified as {row['verdict']}",
            title=f"{truth}, classified as {row['verdict']}",
            caption=f"P(fake) {row['p_fake']:.3f}",
            pixelated=max(thumbnail.size) < 100,
            exact=False,
        ))  # fmt: skip
    return pictures


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of an image file, uint8 [H, W, 3]; see `read_rgb`."""
    return np.asarray(read_rgb(path, max_pixels))


def forgeries(rows: list[tuple[list[np.ndarray], str]]) -> Figure:
    """Draw photographs, masks, forgeries and what changed.

    Args:
        rows: photograph, mask and forgery, uint8 [H, W, 3] each, and the fill's name.
    """
    figure = Figure(figsize=(9.6, 2.0 * len(rows)), layout="constrained")
    for line, ((photo, mask, forged), fill) in enumerate(rows):
        change = np.abs(photo.astype(int) - forged).max(axis=-1)
        shown = ("original", photo), ("mask", mask), (fill, forged), ("largest change", change)
        for column, (title, picture) in enumerate(shown):
            axes = figure.add_subplot(len(rows), 4, 4 * line + column + 1)
            axes.imshow(picture, cmap="magma")
            _only_title(axes, title)
    return figure


def _only_title(axes: Axes, title: str) -> None:
    """Hide the axes but keep the title, which matplotlib would place by the ticks."""
    axes.set_title(title, fontsize=9, y=1)
    axes.set_axis_off()


def localization(rows: "list[tuple[MaskPrediction, float]]") -> Figure:
    """Draw images, true masks, P(altered) and overlays, with each mask's IoU.

    Args:
        rows: predicted masks with their IoU.
    """
    figure = Figure(figsize=(9.6, 2.1 * len(rows)), layout="constrained")
    for line, (mask, iou) in enumerate(sorted(rows, key=lambda row: -row[1])):
        marked = overlay(mask.image, mask.altered >= THRESHOLD)
        shown = (
            ("image", mask.image, None),
            ("true mask", mask.truth, "gray"),
            ("P(altered)", mask.altered, "magma"),
            (f"predicted, IoU {iou:.2f}", marked, None),
        )
        for column, (name, pixels, colors) in enumerate(shown):
            axes = figure.add_subplot(len(rows), 4, 4 * line + column + 1)
            axes.imshow(pixels, cmap=colors, vmin=0, vmax=1 if colors else None)
            _only_title(axes, name)
    return figure


def contact_sheet(images: np.ndarray, masks: np.ndarray | None) -> Image.Image:
    """Return a sheet of images, enlarged by a whole factor where they are small.

    Args:
        images: uint8 [rows, columns, H, W, 3].
        masks: uint8 [rows, columns, H, W, 1], shown in red where 1; or None.
    """
    rows, columns, height, width, _ = images.shape
    if masks is not None:
        red = np.array([255, 0, 0], np.uint8)
        images = np.where(masks == 1, images // 2 + red // 2, images)
    factor = max(1, round(_CELL / max(height, width)))
    images = images.repeat(factor, axis=2).repeat(factor, axis=3)
    pads = [(0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0)]
    images = np.pad(images, pads, constant_values=255)
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height * factor + _GAP), columns * (width * factor + _GAP), 3
    )
    return Image.fromarray(np.pad(sheet, [(0, _GAP), (0, _GAP), (0, 0)], constant_values=255))


def _square(xlabel: str, ylabel: str, extra: float = 0.0) -> tuple[Figure, Axes]:
    """Return a figure with one axes from 0 to 1; `extra` inches are for a legend."""
    figure = Figure(figsize=(4.2, 3.9 + extra), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.2)
    return figure, axes


def _legend_below(figure: Figure, columns: int = 2) -> None:
    """Put the legend below the axes, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
