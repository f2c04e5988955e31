"""Draws the figures of an audit's report."""

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfdetect.auditing.shortcuts import Shortcut
from tfdetect.auditing.traits import BANDS
from tfdetect.core.text import legend_label

_COLORS = ("#2166ac", "#b2182b", "#e08214", "#542788", "#1b7837", "#888888")  # of classes
_COMBINED_COLOR = "#444444"
_EMPTY_BAND = -12  # log10 of the fraction of power below which a band contains no frequency


def shortcut_figure(shortcuts: list[Shortcut]) -> Figure:
    """Draw the balanced accuracy of each trait, the highest at the top.

    Args:
        shortcuts: at least one.
    """
    ordered = sorted(shortcuts, key=lambda s: s.accuracy)
    figure = Figure(figsize=(7, 1.2 + 0.27 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    color_of_group = {"format": _COLORS[1], "size": _COLORS[1], "metadata": _COLORS[2],
                      "name": _COLORS[2], "content": _COLORS[0]}  # fmt: skip
    colors = [color_of_group.get(s.group, _COMBINED_COLOR) for s in ordered]
    axes.barh([s.name for s in ordered], [s.accuracy for s in ordered], color=colors)
    axes.axvline(ordered[0].chance, color="#222222", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), xlabel="balanced accuracy (dotted: chance)")
    handles = [Patch(color=color, label=label) for color, label in (
        (_COLORS[1], "format, size"), (_COLORS[2], "metadata, file name"),
        (_COLORS[0], "content"), (_COMBINED_COLOR, "combined"),
    ) if color in colors]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return figure


def noise_spectra_figure(spectra: dict[str, tuple[np.ndarray, int]], authentic: str) -> Figure:
    """Draw noise spectra, and below each its difference from that of the authentic images.

    Args:
        spectra: at least one; see `mean_noise_spectra`.
        authentic: name of the authentic class.
    """
    columns = len(spectra)
    compare = authentic in spectra and columns > 1
    figure = Figure(figsize=(1.9 * columns + 1, 4.4 if compare else 2.4), layout="constrained")
    axes = figure.subplots(1 + compare, columns, squeeze=False)
    low, high = np.percentile([spectrum for spectrum, _ in spectra.values()], [1, 99.8])
    for panel in axes.ravel():
        panel.set_axis_off()
    for column, (name, (spectrum, count)) in enumerate(spectra.items()):
        drawn = axes[0, column].imshow(spectrum, cmap="magma", vmin=low, vmax=high)
        axes[0, column].set_title(f"{name}\n{count} images", fontsize=8)
        if compare and name != authentic:
            difference = spectrum - spectra[authentic][0]
            shown = axes[1, column].imshow(difference, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(drawn, ax=axes[0], label="log10 power", shrink=0.8)
    if compare:
        axes[1, 0].text(0.5, 0.5, f"difference\nfrom {authentic}", ha="center", va="center",
                        fontsize=9, transform=axes[1, 0].transAxes)  # fmt: skip
        figure.colorbar(shown, ax=axes[1], label="log10 ratio", shrink=0.8)
    return figure


def radial_spectrum_figure(traits: pa.Table, classes: tuple[str, ...]) -> Figure:
    """Draw the mean radial spectrum of each class, with the middle half of the images.

    Args:
        traits: the table from `read_traits`.
        classes: names of the classes, in label order.
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    labels = traits["label"].to_numpy()
    bands = np.stack([traits[f"band_{i:02}"].to_numpy() for i in range(1, BANDS + 1)], 1)
    frequency = (np.arange(BANDS) + 0.5) / (2 * BANDS)
    known = (bands > _EMPTY_BAND).any(0)  # small images lack some frequencies
    bands, frequency = bands[:, known], frequency[known]
    for label, name in enumerate(classes):
        rows = bands[labels == label]
        rows = rows[np.isfinite(rows).all(1)]
        if len(rows):
            color = _COLORS[label % len(_COLORS)]
            axes.plot(frequency, rows.mean(0), color=color, label=legend_label(name))
            low, high = np.percentile(rows, [25, 75], axis=0)
            axes.fill_between(frequency, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="cycles per pixel", ylabel="log10 fraction of power")
    axes.legend(fontsize=9)
    return figure


def color_figure(traits: pa.Table, classes: tuple[str, ...]) -> Figure:
    """Draw histograms of the mean color and the colorfulness of each class.

    Args:
        traits: the table from `read_traits`.
        classes: names of the classes, in label order.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    labels = traits["label"].to_numpy()
    titles = {"red": "mean red", "green": "mean green", "blue": "mean blue",
              "colorfulness": "colorfulness"}  # fmt: skip
    for axes, (column, title) in zip(figure.subplots(1, 4), titles.items()):
        numbers = traits[column].to_numpy()
        edges = np.linspace(0, np.nanmax(numbers, initial=1.0), 41)
        for label, name in enumerate(classes):
            if (labels == label).any():
                axes.hist(numbers[labels == label], edges, density=True, histtype="step",
                          label=legend_label(name),
                          color=_COLORS[label % len(_COLORS)])  # fmt: skip
        axes.set(title=title, yticks=[])
        axes.title.set_fontsize(10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure
