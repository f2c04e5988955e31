"""Figures of a report, as matplotlib figures; nothing here needs a display."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import expit, logit
from sklearn.metrics import precision_recall_curve, roc_curve

from tfdetect.evaluation.metrics import BINS
from tfdetect.evaluation.overlays import overlay
from tfdetect.imaging.pillow import opened, upright_rgb

if TYPE_CHECKING:  # this room draws; it needs no TensorFlow
    from tfdetect.data.sources import Files, Records
    from tfdetect.evaluation.predictions import Drawn

_BLUE, _GRAY, _RED = "#2166ac", "#888888", "#b2182b"


def roc(fake: np.ndarray, scores: np.ndarray) -> Figure:
    """Receiver operating characteriztic of P(fake)."""
    figure, axes = _axes("false positive rate", "true positive rate", "ROC")
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", linewidth=1)
    axes.plot(*roc_curve(fake, scores)[:2], color=_BLUE)
    return figure


def precision_recall(fake: np.ndarray, scores: np.ndarray) -> Figure:
    """Precision over recall of the fakes; the dotted line is chance."""
    figure, axes = _axes("recall", "precision", "Precision and recall")
    precision, recall, _ = precision_recall_curve(fake, scores)
    axes.plot([0, 1], [fake.mean()] * 2, color=_GRAY, linestyle=":", linewidth=1)
    axes.plot(recall, precision, color=_BLUE, drawstyle="steps-post")
    axes.set_ylim(0, 1.02)
    return figure


def reliability(fake: np.ndarray, scores: np.ndarray, raw: np.ndarray | None = None) -> Figure:
    """Share of fakes over P(fake) in bins; the bars below count the images.

    Args:
        raw: P(fake) before calibration, for a second line.
    """
    figure, axes = _axes("P(fake)", "share of fakes", "Reliability")
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", linewidth=1)
    lines = [(scores, _BLUE, "calibrated")] + ([(raw, _GRAY, "before")] if raw is not None else [])
    for p, color, label in reversed(lines):
        bins = np.minimum((p * BINS).astype(int), BINS - 1)
        count = np.bincount(bins, minlength=BINS)
        used = count > 0
        mean = np.bincount(bins, p, BINS)[used] / count[used]
        share = np.bincount(bins, fake, BINS)[used] / count[used]
        axes.plot(mean, share, color=color, marker="o", markersize=4, label=label)
    if raw is not None:
        axes.legend(fontsize=8)
    centers = (np.arange(BINS) + 0.5) / BINS
    axes.bar(centers, 0.3 * count / count.max(), width=0.9 / BINS, color=_GRAY, alpha=0.25)
    return figure


def reliability_by_generator(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Share of fakes over P(fake) in fifths, a line a generator; larger points are more images.

    Args:
        parts: is-fake and P(fake) by generator, its own and authentic images; the first ten are
            shown.
    """
    figure, axes = _axes("P(fake)", "share of fakes", "Reliability by generator")
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", linewidth=1)
    for name, (fake, p) in list(parts.items())[:10]:
        bins = np.minimum((p * 5).astype(int), 4)
        count = np.bincount(bins, minlength=5)
        used = count > 0
        mean, share = (np.bincount(bins, v, 5)[used] / count[used] for v in (p, fake))
        [line] = axes.plot(mean, share, linewidth=1, label=name)
        axes.scatter(mean, share, 4 + 60 * count[used] / count.max(), color=line.get_color())
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend(fontsize=7)
    return figure


def thresholds(
    fake: np.ndarray, scores: np.ndarray, points: dict[str, float], unsure: tuple[float, float]
) -> Figure:
    """What each threshold gives: fakes found, false alarms, precision where few are fake.

    Args:
        points: operating points' thresholds of P(fake) by name.
        unsure: the band, shaded.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    ends = logit(np.clip([*scores.min(keepdims=True), *scores.max(keepdims=True)], 1e-4, 1 - 1e-4))
    at = expit(np.linspace(*ends, 400))
    found, alarms = ((s[:, None] >= at).mean(0) for s in (scores[fake], scores[~fake]))
    with np.errstate(invalid="ignore"):
        precise = 0.01 * found / (0.01 * found + 0.99 * alarms)
    axes.plot(logit(at), found, color=_BLUE, label="fakes found")
    axes.plot(logit(at), alarms, color=_RED, label="false alarms")
    axes.plot(logit(at), precise, color=_GRAY, label="precision, 1 fake in 100")
    if unsure[0] < unsure[1]:
        axes.axvspan(*logit(np.clip(unsure, 1e-6, 1 - 1e-6)), color="#fff3cd", label="unsure")
    for threshold in sorted(set(points.values())):
        name = ", ".join(n for n, other in points.items() if other == threshold)
        x = float(logit(np.clip(threshold, 1e-6, 1 - 1e-6)))
        axes.axvline(x, color="#444444", linewidth=0.8, linestyle=":")
        axes.text(x, 1.03, name, fontsize=7, rotation=35, ha="left", va="bottom")
    ticks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    axes.set_xticks(logit(ticks), [f"{tick:g}" for tick in ticks])
    axes.set(xlim=sorted(ends), ylim=(0, 1.02), xlabel="P(fake) from which the verdict is fake",
             ylabel="share")  # fmt: skip
    axes.legend(fontsize=8, loc="center left")
    axes.grid(alpha=0.2)
    return figure


def confusion_matrix(counts: list[list[int]], classes: list[str]) -> Figure:
    """Counts by true and predicted class, shaded by share of the true class."""
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    table = np.array(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}\n{shares[row, column]:.1%}", ha="center", va="center",
                  color=color)  # fmt: skip
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    axes.set(xlabel="verdict", ylabel="truth", title="Confusion")
    return figure


def training_curves(history: list[dict[str, float]]) -> Figure:
    """Loss, accuracy and, where there are masks, IoU of train and validation, by epoch."""
    shown = [("log_loss", "Log-loss"), ("accuracy", "Accuracy")]
    if "mask_iou" in history[0]:
        shown.append(("mask_iou", "IoU of the masks"))
    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for place, (name, title) in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), place)
        marker = "o" if len(epochs) < 3 else None
        axes.plot(epochs, [row[name] for row in history], color=_GRAY, marker=marker, label="train")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], color=_BLUE, marker=marker,
                  label="validation")  # fmt: skip
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
        axes.grid(alpha=0.2)
    return figure


def most_confident_errors(
    table: pa.Table, source: "Files | Records", classes: list[str], most: int = 16
) -> Figure:
    """The wrong verdicts with the highest confidence, as pictures; `source` holds the images."""
    rows = [
        {**row, "place": place} for place, row in enumerate(table.to_pylist())
        if row["error"] is None and row["verdict"] != classes[row["label"]]
    ]  # fmt: skip
    rows.sort(key=lambda row: -abs(row["p_fake"] - 0.5))
    rows = rows[:most]
    columns = min(8, max(1, len(rows)))
    lines = max(1, -(-len(rows) // columns))
    figure = Figure(figsize=(max(4.2, 1.5 * columns), 1.9 * lines + 0.4), layout="constrained")
    figure.suptitle("Surest mistakes" if rows else "No mistakes", fontsize=11)
    for place, row in enumerate(rows, 1):
        axes = figure.add_subplot(lines, columns, place)
        with opened(io.BytesIO(source.read(row["place"]))) as image:
            picture = upright_rgb(image)
            picture.thumbnail((256, 256))
        axes.imshow(np.asarray(picture))
        axes.set_title(f"{classes[row['label']]}\nP(fake) {row['p_fake']:.3f}", fontsize=7)
        axes.set_axis_off()
    return figure


def read_picture(path: Path) -> np.ndarray:
    """A picture's pixels, uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def forgeries(rows: list[tuple[list[np.ndarray], str]]) -> Figure:
    """Photographs, masks, forgeries and what changed.

    Args:
        rows: photograph, mask and forgery, uint8 [H, W, 3] each, and the fill's name.
    """
    figure = Figure(figsize=(9.6, 2.0 * len(rows)), layout="constrained")
    for line, ((photo, mask, forged), fill) in enumerate(rows):
        change = np.abs(photo.astype(int) - forged).max(axis=-1)
        shown = ("original", photo), ("mask", mask), (fill, forged), ("largest change", change)
        for place, (title, picture) in enumerate(shown):
            axes = figure.add_subplot(len(rows), 4, 4 * line + place + 1)
            axes.imshow(picture, cmap="magma")
            axes.set_title(title, fontsize=8)
            axes.set_axis_off()
    return figure


def localization(rows: "list[tuple[Drawn, float]]", title: str) -> Figure:
    """Photographs, true masks, P(altered) and overlays, with each mask's IoU.

    Args:
        rows: what was drawn on each image, and its IoU.
    """
    figure = Figure(figsize=(9.6, 2.0 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for line, (drawn, iou) in enumerate(sorted(rows, key=lambda row: -row[1])):
        picture = overlay(drawn.image, drawn.altered >= 0.5)
        shown = (
            ("photograph", drawn.image, None),
            ("truth", drawn.truth, "gray"),
            ("P(altered)", drawn.altered, "magma"),
            (f"IoU {iou:.2f}", picture, None),
        )
        for place, (name, pixels, colors) in enumerate(shown):
            axes = figure.add_subplot(len(rows), 4, 4 * line + place + 1)
            axes.imshow(pixels, cmap=colors, vmin=0, vmax=1 if colors else None)
            axes.set_title(name, fontsize=8)
            axes.set_axis_off()
    return figure


def contact_sheet(
    images: np.ndarray, masks: np.ndarray | None = None, side: int = 128, gap: int = 4
) -> Image.Image:
    """A sheet of pictures, whose pixels are shown as they are or enlarged whole.

    Args:
        images: uint8 [rows, columns, H, W, 3].
        masks: uint8 [rows, columns, H, W, 1], drawn in red where 1; or none.
        side: wanted size of one picture in pixels.
    """
    rows, columns, height, width, _ = images.shape
    if masks is not None:
        red = np.array([255, 0, 0], np.uint8)
        images = np.where(masks > 0, images // 2 + red // 2, images)
    factor = max(1, round(side / max(height, width)))
    images = images.repeat(factor, axis=2).repeat(factor, axis=3)
    pads = [(0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0)]
    images = np.pad(images, pads, constant_values=255)
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height * factor + gap), columns * (width * factor + gap), 3
    )
    return Image.fromarray(np.pad(sheet, [(0, gap), (0, gap), (0, 0)], constant_values=255))


def _axes(xlabel: str, ylabel: str, title: str) -> tuple:
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.2)
    return figure, axes
