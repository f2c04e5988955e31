"""Write the report of a run's robustness: metrics and curves by degradation and attack."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect.core import console, html
from tfdetect.core.files import write_json, write_text
from tfdetect.core.run import Run
from tfdetect.core.run_results import Metrics
from tfdetect.core.text import capitalized, counted, listed
from tfdetect.evaluation import attacks as attack_kinds
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.figures import BLUE, GRAY, GREEN, RED
from tfdetect.evaluation.intervals import format_interval, may_be_chance, numbers
from tfdetect.evaluation.measure import MAIN_MASK_NAMES
from tfdetect.evaluation.metrics import NAMES
from tfdetect.imaging.degradations import KINDS, done_to

UNDEGRADED = "none"  # the name of the images as they are
_ATTACKS = (
    "An attack changes each color of each pixel by at most its strength, in 8 bits, where the "
    "detector sees it: after cropping and resizing. It raises P(fake) of authentic images and "
    "lowers it of fakes. pgd knows the detector and follows its gradient for the given number of "
    "steps (Madry et al., 2018); square sees P(fake) alone, for the given number of queries "
    "(Andriushchenko et al., 2020). These are measurements, not a promise: a stronger attack, or "
    "one made for this detector, may do more."
)


class DegradationResult(TypedDict):
    """The metrics of the verdicts after one degradation or attack."""

    metrics: Metrics
    flipped: float  # fraction of changed verdicts
    budget: NotRequired[int]  # steps or queries of an attack


class RobustnessResult(TypedDict):
    """The content of degradations.json and attacks.json."""

    count: int  # of images
    stable: float  # fraction of the images whose verdict never changes
    degradations: dict[str, DegradationResult]  # `UNDEGRADED` first, attacks last


def result_name(found: RobustnessResult) -> str:
    """Return the name, without ending, of the files of a result: attacks alone have their own."""
    attacked = _budgets(found["degradations"])
    others = {*found["degradations"]} - {UNDEGRADED, *attacked}
    return "degradations" if others or not attacked else "attacks"


def write_report(
    found: RobustnessResult,
    run: Run,
    dataset: str,
    split: str,
    rows: pa.Table,
    scores: dict[str, np.ndarray],
    output: Path,
) -> None:
    """Write the results, P(fake) of each image, a page and its figure.

    Args:
        found: the results.
        run: the run.
        dataset: its name.
        split: the split of the dataset.
        rows: the rows of the catalog.
        scores: float [n] by degradation, nan where an image cannot be read.
        output: folder to write into.
    """
    name = result_name(found)
    (output / "figures").mkdir(parents=True, exist_ok=True)
    (output / "figures" / f"{name}.png").unlink(missing_ok=True)
    write_json(output / f"{name}.json", found)
    columns = {"path": rows["path"], "label": rows["label"]}
    columns |= {name: pa.array(p, mask=np.isnan(p)) for name, p in scores.items()}
    prediction_tables.write_parquet(pa.table(columns), output / f"{name}.parquet")
    write_text(output / f"{name}.html", _page(found, run, dataset, split, output / "figures"))


def _page(found: RobustnessResult, run: Run, dataset: str, split: str, folder: Path) -> str:
    results = found["degradations"]
    key = accuracy_shown(found)
    accuracies = {name: numbers(each["metrics"][key])[0] for name, each in results.items()}
    budgets = ", ".join(f"{name} {budget}" for name, budget in _budgets(results).items())
    change, changes = change_words(found)
    worst = min(accuracies, key=lambda name: accuracies[name])
    curves = html.picture_of(
        robustness_curves(found),
        f"{capitalized(NAMES[key])}, recall and false positive rate over the strength of each "
        f"{change}",
        path=folder / f"{result_name(found)}.png",
    )
    return html.render_page(
        f"{run.name}: robustness to {changes}",
        [
            html.Section(f"Results by {change}", html.join(
                html.text("The verdict's threshold is that of the run. Changed verdicts are those "
                          "that differ from the verdict on the unchanged image. Brackets hold the "
                          "95% interval (Wilson's for fractions of images, else a bootstrap)."),
                html.table(*_rows(found)),
            )),
            html.Section("What was done to the images", _explained(results)),
            *([html.Section("Attacks", html.text(f"{_ATTACKS} Here: {budgets}."))]
              if budgets else []),
            html.Section("Metrics by strength", html.join(
                html.text("Where accuracy falls and the false positive rate rises, the detector "
                          "takes a degradation for a trace of a fake. Where accuracy falls with "
                          "recall, it needs traces that the degradation removes.")
                if "degradation" in change else None,
                html.figures([curves], "wide"),
            )),
        ],
        subtitle=f"{counted(found['count'], 'image')} of {split} of {dataset}"
                 + ("; authentic images and fakes are degraded alike."
                    if "degradation" in change else "."),
        notes=[html.note(text) for text in guesses(found)],
        cards=[
            html.Card(f"{accuracies[UNDEGRADED]:.1%}", f"{NAMES[key]} without {change}"),
            html.Card(f"{accuracies[worst]:.1%}", f"lowest {NAMES[key]}", _named(found, worst)),
            html.Card(f"{found['stable']:.1%}", "stable images",
                      f"the same verdict under every {change}"),
        ],
    )  # fmt: skip


def accuracy_shown(found: RobustnessResult) -> str:
    """Return which accuracy is shown: the balanced one, unless all images are of one class.

    Where there are as many of both classes, they are the same.
    """
    balanced = (each["metrics"].get("balanced_accuracy") for each in found["degradations"].values())
    known = all(value is not None and value["value"] is not None for value in balanced)
    return "balanced_accuracy" if known else "accuracy"


def guesses(found: RobustnessResult) -> list[str]:
    """Return on what the detector is not shown to be better than guessing, if on anything."""
    names = [
        name for name, each in found["degradations"].items()
        if "auc" in each["metrics"] and may_be_chance(each["metrics"]["auc"])
    ]  # fmt: skip
    if not names:
        return []
    named = listed(["unchanged images" if n == UNDEGRADED else n for n in names], len(names))
    return [
        "The detector is not shown to be better than guessing (the 95% interval of the AUC reaches "
        f"0.5 or less) on: {named}."
    ]


def _explained(results: dict[str, DegradationResult]) -> Markup:
    """Return a table of the degradations in words; nothing for attacks alone."""
    names = [name for name in results if name != UNDEGRADED and name not in _budgets(results)]
    if not names:
        return Markup("")
    rows = [[name, done_to(name)] for name in names]
    return html.join(
        html.text("Each image was changed in the ways below before the detector read it."),
        html.table(["degradation", "each image was"], rows),
    )


def change_words(found: RobustnessResult) -> tuple[str, str]:
    """Return the words for what was done to the images, in the singular and in the plural."""
    names, attacks = {*found["degradations"]} - {UNDEGRADED}, {*_budgets(found["degradations"])}
    kinds = [kind for kind, some in (("degradation", names - attacks), ("attack", attacks)) if some]
    kinds = kinds or ["degradation"]
    return " or ".join(kinds), " and ".join(f"{kind}s" for kind in kinds)


def _named(found: RobustnessResult, name: str) -> str:
    """Return the name of a result with its kind, such as "attack pgd:2/255"."""
    if name == UNDEGRADED:
        return "unchanged images"
    return f"{'attack' if name in _budgets(found['degradations']) else 'degradation'} {name}"


def format_robustness(found: RobustnessResult) -> str:
    """Return the results as a table for the terminal."""
    headers, rows = _rows(found)
    return "\n".join([
        console.format_table(rows, headers), "",
        f"{found['stable']:.1%} of {counted(found['count'], 'image')} keep their verdict under "
        "all of them",
        *(f"\nwarning: {text}" for text in guesses(found)),
    ])  # fmt: skip


def _rows(found: RobustnessResult) -> tuple[list[str], list[list[str]]]:
    rows, titles = [], NAMES | MAIN_MASK_NAMES
    hidden = {"accuracy", "balanced_accuracy"} - {accuracy_shown(found)}
    keys = [key for key in found["degradations"][UNDEGRADED]["metrics"] if key not in hidden]
    for name, result in found["degradations"].items():
        cells = [format_interval(result["metrics"][key], 3) for key in keys]
        rows.append([name, *cells, f"{result['flipped']:.1%}"])
    return [change_words(found)[0], *(titles[key] for key in keys), "changed verdicts"], rows


def _budgets(results: dict[str, DegradationResult]) -> dict[str, str]:
    """Return the budget of each attack among the results, in words."""
    return {
        name: f"{result['budget']} {attack_kinds.KINDS[_kind(name)].unit}"
        for name, result in results.items() if "budget" in result
    }  # fmt: skip


def _meaning(kind: str, budget: str | None) -> str:
    """Return what the strength of a degradation or attack means."""
    return f"{attack_kinds.KINDS[kind].text}, {budget}" if budget else KINDS[kind].text


def _kind(name: str) -> str:
    """Return the kind of a degradation or attack such as "jpeg:65"."""
    return name.partition(":")[0]


def robustness_curves(found: RobustnessResult) -> Figure:
    """Draw accuracy, recall, false positives and IoU over the strength, one axes for each kind."""
    results = found["degradations"]
    kinds: dict[str, list[str]] = {}
    for name in results:
        if name != UNDEGRADED:
            kinds.setdefault(_kind(name), []).append(name)
    columns = min(3, max(1, len(kinds)))
    lines = -(-max(1, len(kinds)) // columns)
    figure = Figure(figsize=(max(4.2, 3.2 * columns), 3.0 * lines + 0.3), layout="constrained")
    styles = {accuracy_shown(found): (BLUE, "-"), "recall": (GREEN, "-."), "fpr": (RED, "--")}
    if "iou" in results[UNDEGRADED]["metrics"]:
        styles["iou"] = GRAY, ":"
    handles: dict[str, Any] = {}
    budgets = _budgets(results)
    titles = NAMES | MAIN_MASK_NAMES
    for position, (kind, names) in enumerate(kinds.items(), 1):
        axes = figure.add_subplot(lines, columns, position)
        names = [UNDEGRADED, *names]
        at = np.arange(len(names))
        for key, (color, style) in styles.items():
            intervals = [results[name]["metrics"][key] for name in names]
            if any(value["value"] is None for value in intervals):
                continue
            value, low, high = np.array([numbers(i) for i in intervals]).T  # nan: no interval
            [handles[titles[key]]] = axes.plot(at, value, style, color=color, marker="o",
                                              markersize=3)  # fmt: skip
            axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_xticks(at, [n.partition(":")[2] or n for n in names], fontsize=8)
        axes.set(ylim=(-0.02, 1.02))
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel(_meaning(kind, budgets.get(names[-1])), fontsize=8, wrap=True)
        axes.grid(alpha=0.2)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4,
                      fontsize=9, frameon=False)  # fmt: skip
    return figure
