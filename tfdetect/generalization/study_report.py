"""Writes the reports of studies: a page with a figure and tables, JSON and CSV."""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from tfdetect.core import console, html
from tfdetect.core.files import csv_text, merged, write_json, write_text
from tfdetect.core.text import capitalized, span
from tfdetect.evaluation.intervals import CHANCE, format_interval, numbers, sign_of
from tfdetect.evaluation.metrics import NAMES
from tfdetect.generalization.study_remarks import (
    GUESSING,
    may_guess,
    no_size_learned,
    no_variant_learned,
)
from tfdetect.generalization.study_results import (
    CurvePart,
    CurveResult,
    VariantsResult,
    domain_word,
)

Rows = tuple[list[str], list[list[str]]]
_PARTS: tuple[CurvePart, ...] = ("error", "seen", "unseen")
_COLORS = {"error": "#0b57a4", "seen": "#2c7a3f", "unseen": "#b3261e"}


def curve_rows(values: CurveResult) -> Rows:
    """Return headings and rows of a learning curve."""
    points = values["points"]
    parts = [part for part in _PARTS if part in points[0]]
    by_images = values["by"] == "images"
    heads = ["images"] if by_images else [f"{domain_word(values['by'])}s", "images"]
    heads += [*(_part_title(values, part) for part in parts), "seeds"]
    rows = []
    for point in points:
        low, high = min(point["images"]), max(point["images"])
        images = span(low, high)
        size = [images] if by_images else [str(point["size"]), images]
        seeds = " ".join(f"{error:.4f}" for error in point["seeds"])
        cells = [format_interval(point[part]) for part in parts]
        cells[0] += _mark(point["may_be_chance"])
        rows.append([*size, *cells, seeds])
    return heads, rows


def _mark(may_be_chance: bool) -> str:
    return f" {GUESSING}" if may_be_chance else ""


def _part_title(values: CurveResult, part: CurvePart) -> str:
    """Return what a column or a line of a curve is called."""
    words = f"{domain_word(values['by'])}s"
    titles: dict[CurvePart, str] = {
        "error": "error", "seen": f"{words} in training", "unseen": f"unseen {words}",
    }  # fmt: skip
    return titles[part]


def fit_sentence(values: CurveResult) -> str:
    """Return the fitted power law in words; what is missing, where it could not be fitted."""
    fit = values["fit"]
    if fit is None:
        return "A power law needs at least three points."
    largest = values["points"][-1]["size"]
    _, low, _ = numbers(fit["floor"])
    what = "training images" if values["by"] == "images" else f"{domain_word(values['by'])}s"
    return (
        f"error = {format_interval(fit['scale'])} * (n / {largest:,})^-"
        f"{format_interval(fit['exponent'], 2)} + {format_interval(fit['floor'])} for n {what}. If "
        f"it goes on so, the error is {format_interval(fit['twice'])} with {2 * largest:,} and "
        f"{format_interval(fit['tenfold'])} with {10 * largest:,}."
    )


def format_curve(values: CurveResult) -> str:
    """Return a learning curve as text for the terminal."""
    heads, rows = curve_rows(values)
    lines = [console.format_table(rows, heads), fit_sentence(values)]
    return "\n".join([*lines, *map(_as_warning, values["remarks"])])


def _as_warning(remark: str) -> str:
    return f"\nwarning: {remark}"


def write_curve(values: CurveResult, folder: Path) -> None:
    """Write report.html, curve.json, curve.csv and figures/curve.png.

    Args:
        values: the content of curve.json.
        folder: where to write.
    """
    rows = [
        [point["size"], part, *numbers(point[part])]
        for point in values["points"] for part in _PARTS if part in point
    ]  # fmt: skip
    last = values["points"][-1]
    with merged(folder) as new:
        (new / "figures").mkdir()
        write_json(new / "curve.json", values)
        write_text(new / "curve.csv", csv_text(rows, ["size", "part", "error", "low", "high"]))
        picture = html.picture_of(
            curve_figure(values),
            "Test error over the size of the training data; the table below holds "
            "the values.", path=new / "figures" / "curve.png",
        )  # fmt: skip
        write_text(new / "report.html", html.render_page(
            f"Learning curve of {values['experiment']}",
            [
                html.Section("Test error", html.join(
                    html.figures([picture], "wide"), _table(curve_rows(values)),
                    html.text(
                        "Error: mean of the error rates of authentic images and of fakes. Brackets "
                        "and band: 95% bootstrap intervals over test images. Dots and the last "
                        "column: each seed, with its own order of training data and its own "
                        "initialization.", small=True,
                    ),
                )),
                html.Section("Power law", html.text(
                    fit_sentence(values),
                    "Least squares; of three points without a floor. The law is an extrapolation: "
                    "it holds for more data like these, trained in this way."
                    if values["fit"] else "",
                )),
            ],
            subtitle=f"Dataset {values['dataset']}, by {values['by']}; {values['count']:,} test "
            "images, the same for all trainings.",
            verdict=_not_learned(values) or html.Verdict(
                f"Error {format_interval(last['error'])} with all of the data",
                "Lower is better; 0.5 is chance.", "neutral",
            ),
            notes=_notes(values),
            footer="Full data: curve.json and curve.csv in the same directory.",
        ))  # fmt: skip


def curve_figure(values: CurveResult) -> Figure:
    """Draw the error over the size with its intervals, each training, and the fitted power law."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    points, fit = values["points"], values["fit"]
    sizes = np.array([point["size"] for point in points], float)
    for part in _PARTS:
        if part not in points[0]:
            continue
        value, low, high = np.array([numbers(point[part]) for point in points]).T
        title = _part_title(values, part)
        axes.plot(sizes, value, "o-", color=_COLORS[part], markersize=5,
                  label=title if part == "error" else f"error on {title}")  # fmt: skip
        axes.fill_between(sizes, low, high, color=_COLORS[part], alpha=0.15, linewidth=0)
    if any(point["may_be_chance"] for point in points):
        axes.axhline(CHANCE, color="gray", linestyle=":", linewidth=1, label="guesses")
    for point in points:
        axes.plot([point["size"]] * len(point["seeds"]), point["seeds"], ".", color="gray",
                  markersize=4)  # fmt: skip
    if fit is not None:
        scale, exponent, floor = (numbers(fit[name])[0] for name in ("scale", "exponent", "floor"))
        line = np.geomspace(sizes[0], 10 * sizes[-1], 100)
        fitted = scale * (line / sizes[-1]) ** -exponent + floor
        axes.plot(line, fitted, "--", color="black", linewidth=1, label="power law")
    axes.set_xscale("log")
    if all(min(*point["seeds"], numbers(point["error"])[0]) > 0 for point in points):
        axes.set_yscale("log")
    else:  # no error at all, which a logarithmic axis would not show
        axes.set_ylim(bottom=-0.01 * axes.get_ylim()[1])
    ticks = sizes if fit is None else np.append(sizes, 10 * sizes[-1])
    axes.set_xticks(ticks, [f"{int(size):,}" for size in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(6))  # powers of ten alone would be one or two
    axes.yaxis.set_major_formatter(ScalarFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    by_images = values["by"] == "images"
    words = f"{domain_word(values['by'])}s"
    axes.set_xlabel("training images" if by_images else f"{words} in training")
    axes.set_ylabel("test error")
    axes.legend(fontsize=9)
    return figure


def variant_rows(values: VariantsResult) -> dict[str, Rows]:
    """Return headings and rows of a comparison of variants, by the metric's title."""
    tables = {}
    for name in values["variants"][0]["metrics"]:
        rows = [
            [variant["name"],
             format_interval(variant["metrics"][name]) + _mark(may_guess(variant["metrics"], name)),
             format_interval((variant["difference"] or {}).get(name), signed=True)]
            for variant in values["variants"]
        ]  # fmt: skip
        tables[NAMES[name]] = ["variant", NAMES[name], "difference"], rows
    return tables


def seed_rows(values: VariantsResult) -> Rows:
    """Return headings and rows of each training of a comparison of variants."""
    metrics = list(values["variants"][0]["metrics"])
    rows = [
        [variant["name"], str(run["seed"]), *(f"{run['metrics'][name]:.4f}" for name in metrics)]
        for variant in values["variants"] for run in variant["runs"]
    ]  # fmt: skip
    return ["variant", "seed", *(NAMES[name] for name in metrics)], rows


def format_variants(values: VariantsResult) -> str:
    """Return a comparison of variants as text for the terminal."""
    tables = "\n\n".join(
        console.format_table(rows, heads)
        for heads, rows in (*variant_rows(values).values(), seed_rows(values))
    )
    return "\n".join(
        [tables, *filter(None, [_seed_sentence(values)]), *map(_as_warning, values["remarks"])]
    )


def _seed_sentence(values: VariantsResult) -> str:
    """Return what intervals leave out, and where it is; "" of one seed, which has a remark."""
    if max(len(variant["runs"]) for variant in values["variants"]) < 2:
        return ""
    return (
        "Intervals are over test images; what another seed would give is in the table of all "
        "trainings."
    )


def write_variants(values: VariantsResult, folder: Path) -> None:
    """Write report.html and variants.json.

    Args:
        values: the content of variants.json.
        folder: where to write.
    """
    with merged(folder) as new:
        write_json(new / "variants.json", values)
        write_text(new / "report.html", html.render_page(
            f"Variants of {values['experiment']}",
            [
                html.Section("Results", html.join(
                    *map(_table, variant_rows(values).values()),
                    html.text(
                        "Means over the seeds. Differences are from the first variant. Brackets: "
                        "95% bootstrap intervals, paired for differences. "
                        f"{_seed_sentence(values)}".rstrip(), small=True,
                    ),
                )),
                html.Section("Settings", _settings(values["settings"])),
                html.Section("All trainings", _table(seed_rows(values))),
            ],
            subtitle=f"Dataset {values['dataset']}; the variants differ in their settings alone. "
            f"{values['count']:,} test images.",
            verdict=variants_verdict(values),
            notes=_notes(values),
            footer="Full data: variants.json in the same directory.",
        ))  # fmt: skip


def _not_learned(values: CurveResult | VariantsResult) -> html.Verdict | None:
    """Return the verdict that all results may be those of guesses; None if not all may."""
    if "points" in values:
        found = no_size_learned(values["points"])
    else:
        found = no_variant_learned(values["variants"])
    return html.Verdict(found.title, capitalized(found.reason), "bad") if found else None


def _notes(values: CurveResult | VariantsResult) -> list[Markup]:
    """Return the remarks that are not the verdict."""
    return [html.note(text) for text in values["remarks"][bool(_not_learned(values)) :]]


def variants_verdict(values: VariantsResult) -> html.Verdict:
    """Return which variant is best, or that no difference from the first one is significant."""
    if found := _not_learned(values):
        return found
    first, *others = values["variants"]
    differ = [
        variant for variant in others
        if (change := (variant["difference"] or {}).get("auc")) and sign_of(change)
    ]  # fmt: skip
    if not differ:
        return html.Verdict(
            f"No variant's AUC differs significantly from that of {first['name']}",
            "The 95% intervals of all differences contain 0.",
        )
    best = max(values["variants"], key=lambda variant: numbers(variant["metrics"]["auc"])[0])
    change = (best["difference"] or {}).get("auc")
    detail = f"Difference from {first['name']}: {format_interval(change, signed=True)}."
    return html.Verdict(
        f"Highest AUC: {best['name']}, {best['metrics']['auc']['value']:.4f}",
        detail if change else "",
    )


def _settings(variants: dict[str, list[str]]) -> Markup:
    """Return a table of what the names of variants mean; nothing where they say it."""
    rows = [[name, "; ".join(settings)] for name, settings in variants.items()]
    if all(name == settings for name, settings in rows):
        return Markup("")
    return _table((["variant", "settings"], rows))


def _table(found: Rows) -> Markup:
    return html.table(*found)
