"""What a fusion gains: members and fusions side by side, in JSON, HTML and for the terminal."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit
from tabulate import tabulate

from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template
from tfdetect.core.run import View
from tfdetect.evaluation.metrics import binary_metrics, with_intervals
from tfdetect.evaluation.paired import difference
from tfdetect.fusion.fusions import Fusion, Scores, cross_fit
from tfdetect.fusion.members import Members

_SHOWN = {"accuracy": "accuracy", "ap": "average precision", "auc": "AUC", "log_loss": "log-loss",
          "ece": "calibration error"}  # fmt: skip
_SMALLER = ("log_loss", "ece")
_RESAMPLES = 500

_PAGE = template(
    """<p>Fusion: {{ fusion }} of {{ members | join(", ") }}. Weights come from the validation
split of {{ dataset }}, where every dataset counts the same. On validation each image is scored by a
fusion that was fitted without its group (five folds); on test by the one fitted on all of it.
A member is shown with its temperature.</p>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
{% for title, table in tables %}
<h2>{{ title }}</h2>
{{ table }}
{% endfor %}
<h2>What the fusion gains</h2>
{{ gains }}
<small>{{ fusion }} minus the member that was best on validation, on the same resampled images
(paired bootstrap, 95%). A gain whose interval holds 0 is none.</small>
<h2>How alike the members are</h2>
{{ alike }}
<small>Of test, or validation where there is none.</small>
{{ figures(drawn) }}
<h2>What it costs</h2>
{{ cost }}
{% if shared %}<p>Computed once for several members: {{ shared }}.</p>{% endif %}
"""
)


@dataclass(frozen=True)
class Measured:
    """Log-odds of every member and every fusion on each split's images.

    Attributes:
        odds: by split, then by name: float [n].
        scores: by split.
        members: names of those of `odds` that are members.
        chosen: name of the fusion that was built.
    """

    odds: dict[str, dict[str, np.ndarray]]
    scores: dict[str, Scores]
    members: list[str]
    chosen: str


def measure(
    scores: dict[str, Scores], fusions: dict[str, Fusion], members: list[str], chosen: str
) -> Measured:
    """Scores of validation by fusions fitted without their group, of test by the fitted ones."""
    odds, temperatures = {}, fusions["mean"].temperatures
    for split, found in scores.items():
        odds[split] = {name: found.odds[:, n] / temperatures[n] for n, name in enumerate(members)}
        for name, fusion in fusions.items():
            odds[split][f"fusion: {name}"] = (
                cross_fit(name, found) if split == "validation" else fusion(found)
            )
    return Measured(odds, scores, members, f"fusion: {chosen}")


def results(measured: Measured) -> dict:
    """Metrics with intervals: {split: {dataset or "all": {name: metrics}}}, and the gains."""
    found = {"splits": {}, "gains": {}}
    for split, scores in measured.scores.items():
        parts = {"all": np.ones(len(scores.fake), bool)}
        datasets = np.unique(scores.datasets)
        if len(datasets) > 1:
            parts |= {str(name): scores.datasets == name for name in datasets}
        found["splits"][split] = {
            part: {name: _metrics(odds[rows], scores.fake[rows])
                   for name, odds in measured.odds[split].items()}
            for part, rows in parts.items()
        }  # fmt: skip
    validation = found["splits"]["validation"]["all"]
    best = min(measured.members, key=lambda name: validation[name]["log_loss"]["value"])
    found["best_member"] = best
    for split, scores in measured.scores.items():
        odds = measured.odds[split]
        found["gains"][split] = _gain(odds[measured.chosen], odds[best], scores.fake)
    last = "test" if "test" in measured.scores else "validation"
    found["alike"] = _alike(measured, last)
    return found


def _metrics(odds: np.ndarray, fake: np.ndarray) -> dict:
    known = ~np.isnan(odds)
    metrics = binary_metrics(fake[known], expit(odds[known]))
    return with_intervals(metrics, int(known.sum()), resamples=_RESAMPLES)


def _gain(one: np.ndarray, other: np.ndarray, fake: np.ndarray) -> dict:
    """The paired difference of metrics, with its interval."""
    known = ~np.isnan(one)
    first, second = (expit(odds[known]) for odds in (one, other))
    return difference(fake[known], first, second, list(_SHOWN), resamples=_RESAMPLES)


def _alike(measured: Measured, split: str) -> dict:
    """Of each pair of members: correlation of log-odds, differing verdicts, both wrong."""
    fake, odds = measured.scores[split].fake, measured.odds[split]
    found = {}
    for number, one in enumerate(measured.members):
        for other in measured.members[number + 1 :]:
            a, b = odds[one], odds[other]
            wrong = (a >= 0) != fake, (b >= 0) != fake
            found[f"{one} / {other}"] = {
                "correlation": float(np.corrcoef(a, b)[0, 1]),
                "disagreement": float(((a >= 0) != (b >= 0)).mean()),
                "both_wrong": float((wrong[0] & wrong[1]).mean()),
                "one_wrong": float((wrong[0] ^ wrong[1]).mean()),
            }
    return found


def cost(
    members: Members, parameters: list[int], detector, views: list[View], batch: int = 32,
    rounds: int = 3,
) -> dict:  # fmt: skip
    """Parameters and images a second of each member by itself and of the fused detector.

    Args:
        parameters: of each member.
        detector: the fused one, which sees these views.
    """
    from tfdetect.models.saving import load_detector

    found = {}
    for name, run, count in zip(members.names, members.runs, parameters):
        model = load_detector(run)
        found[name] = {"parameters": count,
                       "images_per_second": _speed(model, run.views, batch, rounds)}  # fmt: skip
    found["fused"] = {
        "parameters": detector.count_params(),
        "images_per_second": _speed(detector, views, batch, rounds),
    }
    return found


def _speed(model, views, batch: int, rounds: int) -> float:
    """Images a second of the network alone, by the best of some rounds."""
    import tensorflow as tf

    from tfdetect.models.inference import predict_views

    noise = np.random.default_rng(0)
    images = [
        tf.constant(noise.integers(0, 256, (batch, v.crops, *v.size, 3)), tf.float32) for v in views
    ]
    call = tf.function(lambda *parts: predict_views(model, parts))
    call(*images)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call(*images).numpy()
        times.append(time.perf_counter() - start)
    return round(batch / min(times), 1)


def write(
    folder: Path, found: dict, measured: Measured, spent: dict, warnings: list[str], dataset: str,
    shared: str,
) -> None:  # fmt: skip
    """Writes fusion.json, figures/fusion_correlation.png and fusion.html."""
    write_text(folder / "fusion.json", json.dumps({**found, "cost": spent}, indent=2))
    (folder / "figures").mkdir(exist_ok=True)
    split = "test" if "test" in measured.scores else "validation"
    figure = _correlation(measured, split)
    page = _PAGE.render(
        title=f"{folder.name.removesuffix('.partial')}: the fusion", dataset=dataset,
        fusion=measured.chosen.removeprefix("fusion: "), members=measured.members,
        warnings=warnings, shared=shared,
        tables=[
            (f"{split.capitalize()}, {part}", html_table(*_table(rows)))
            for split, parts in found["splits"].items() for part, rows in parts.items()
        ],
        gains=html_table(*_gains(found)), alike=html_table(*_pairs(found)),
        drawn=[("correlation", save_figure(figure, folder / "figures" / "fusion_correlation.png"))],
        cost=html_table(*_costs(spent)),
    )  # fmt: skip
    write_text(folder / "fusion.html", page)


def terminal(found: dict, spent: dict) -> str:
    """The tables that matter most."""
    split = "test" if "test" in found["splits"] else "validation"
    lines = []
    for part, rows in found["splits"][split].items():
        headers, table = _table(rows)
        lines += [f"{split}, {part}", tabulate(table, headers, disable_numparse=True), ""]
    lines += [f"gain over {found['best_member']}, the best member on validation",
              tabulate(_gains(found)[1], _gains(found)[0], disable_numparse=True), "",
              tabulate(_costs(spent)[1], _costs(spent)[0], disable_numparse=True)]  # fmt: skip
    return "\n".join(lines)


def _table(rows: dict) -> tuple[list[str], list[list[str]]]:
    return ["", *_SHOWN.values()], [
        [name, *(_cell(metrics[key]) for key in _SHOWN)] for name, metrics in rows.items()
    ]


def _gains(found: dict) -> tuple[list[str], list[list[str]]]:
    rows = []
    for split, gain in found["gains"].items():
        for key, title in _SHOWN.items():
            value = gain[key]
            if value["value"] is None:
                continue
            good = value["high"] < 0 if key in _SMALLER else value["low"] > 0
            bad = value["low"] > 0 if key in _SMALLER else value["high"] < 0
            verdict = "better" if good else "worse" if bad else "no difference shown"
            cell = f"{value['value']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
            rows.append([split, title, cell, verdict])
    return ["split", "metric", "difference", "so"], rows


def _pairs(found: dict) -> tuple[list[str], list[list[str]]]:
    return ["members", "correlation", "verdicts differ", "both wrong", "one wrong"], [
        [pair, f"{v['correlation']:.3f}",
         *(f"{v[key]:.2%}" for key in ("disagreement", "both_wrong", "one_wrong"))]
        for pair, v in found["alike"].items()
    ]  # fmt: skip


def _costs(spent: dict) -> tuple[list[str], list[list[str]]]:
    return ["network alone", "parameters", "images a second"], [
        [name, f"{v['parameters']:,}", f"{v['images_per_second']:,.0f}"]
        for name, v in spent.items()
    ]


def _cell(metric: dict) -> str:
    if metric["value"] is None:
        return "-"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def _correlation(measured: Measured, split: str) -> Figure:
    """Correlation of the members' log-odds."""
    names = measured.members
    table = np.corrcoef(np.stack([measured.odds[split][name] for name in names]))
    side = 2.6 + 0.5 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                  color="white" if abs(value) > 0.6 else "black")  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title("Correlation of log-odds", fontsize=10)
    figure.colorbar(image, shrink=0.8)
    return figure
