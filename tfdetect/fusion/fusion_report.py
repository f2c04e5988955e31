"""Write the report of a fusion: fusion.json, fusion.html and tables for the terminal."""

import textwrap
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect.core import console, html
from tfdetect.core.files import write_json, write_text
from tfdetect.core.run_results import Interval, Metrics
from tfdetect.core.text import listed
from tfdetect.evaluation.figures import heat_map
from tfdetect.evaluation.intervals import format_interval, may_be_chance, numbers, sign_of
from tfdetect.evaluation.metrics import NAMES
from tfdetect.fusion.comparison import METRICS, Comparison
from tfdetect.fusion.fusion_results import FILE, FusionPart, FusionResult, FusionsCompared

_LOWER_IS_BETTER = ("log_loss", "ece")
_GAIN_COLUMNS = ["split", "metric", "difference", "result"]
_BEST = "the best member (lowest log-loss on validation)"
_COST_COLUMNS = ["network", "parameters", "images per second"]


def write_report(folder: Path, values: FusionResult, comparison: Comparison) -> None:
    """Write fusion.json, fusion.html and figures/fusion_correlation.png.

    Args:
        folder: the folder of the run.
        values: the content of fusion.json.
        comparison: the predictions that were measured, for the figure.
    """
    write_json(folder / FILE, values)
    (folder / "figures").mkdir(exist_ok=True)
    write_text(folder / "fusion.html", _page(folder, values, comparison))


def format_comparison(values: FusionResult) -> str:
    """Return the tables that matter most as text for the terminal: results on test, gains, cost."""
    split = _last_split(values)
    found = _guessing(values, split)
    blocks = [textwrap.fill(f"{found.title}. {found.detail}", 100)] if found else []
    blocks += [
        console.format_table(
            _metric_rows(values, part), _metric_columns(), title=_part_title(split, name)
        )
        for name, part in values["splits"][split].items()
    ]
    blocks.append(textwrap.fill(_explanation(split, values), 100))
    blocks.append(textwrap.fill(mask_sentence(values), 100))
    blocks.append(console.format_table(
        _gain_rows(values), _GAIN_COLUMNS,
        title=f"{values['fusion']} fusion minus {values['best_member']}, {_BEST}",
    ))  # fmt: skip
    blocks.append(console.format_table(_cost_rows(values), _COST_COLUMNS, title="Inference cost"))
    return "\n\n".join(blocks)


def _page(folder: Path, values: FusionResult, comparison: Comparison) -> str:
    """Return fusion.html; see `write_report`."""
    split, name = _last_split(values), values["fusion"]
    optimistic = "" if values["cross_fitted"] else " (optimistic)"
    sections = []
    for each in sorted(values["splits"], key=lambda s: s != "test"):
        body = html.join(*(
            html.join(html.heading(f"Dataset {part}") if part != "all" else None,
                      html.table(_metric_columns(), _metric_rows(values, rows)))
            for part, rows in values["splits"][each].items()
        ))  # fmt: skip
        title = f"Results on {each}" + (optimistic if each == "validation" else "")
        sections.append(html.Section(title, html.join(html.text(_explanation(each, values)), body)))
    return html.render_page(
        f"Ensemble {folder.name.removesuffix('.partial')}",
        [
            html.Section("Gain over the best member", _gains(values)),
            *sections,
            html.Section("Masks", html.text(mask_sentence(values))),
            html.Section("Similarity of the members", _similarity(folder, values, comparison)),
            html.Section("Inference cost", _costs(values)),
        ],
        subtitle=f"{name.capitalize()} fusion of "
        f"{', '.join(values['splits'][split]['all']['members'])}, fitted on the validation split "
        f"of {values['dataset']}",
        verdict=_verdict(values, split),
        cards=_cards(values, split),
        notes=[html.note(warning) for warning in values["warnings"]],
        footer="Full data: fusion.json. The run's own report is report.html.",
    )


def _verdict(values: FusionResult, split: str) -> html.Verdict:
    """Return whether the fusion detects fakes and has a lower log-loss than the best member."""
    best, gain = values["best_member"], values["gains"][split]["log_loss"]
    if found := _guessing(values, split):
        return found
    if sign_of(gain) is None:
        return html.Verdict("The gain of the fusion could not be measured", "", "neutral")
    result = _result("log_loss", gain)
    titles: dict[str, tuple[str, html.Tone]] = {
        "better": (f"The fusion is better than its best member, {best}", "good"),
        "worse": (f"The fusion is worse than its best member, {best}", "bad"),
        "no significant difference": (
            f"No significant difference from the best member, {best}", "caution",
        ),
        "no difference": (f"No difference from the best member, {best}", "caution"),
    }  # fmt: skip
    title, tone = titles[result]
    detail = f"Difference of the log-loss on {split}: {_signed(gain)} (below 0 is better)."
    return html.Verdict(title, detail, tone)


def _guessing(values: FusionResult, split: str) -> html.Verdict | None:
    """Return the verdict that guesses may be as good as the fusion; None if its AUC says more."""
    auc = _compared(values, split)[0]["auc"]
    if not may_be_chance(auc):
        return None
    return html.Verdict(
        "The fusion is not shown to be better than guessing",
        f"Its AUC on {split} is {format_interval(auc)}; guesses have 0.5. Train better members "
        "first, or measure more images.", "bad",
    )  # fmt: skip


def _cards(values: FusionResult, split: str) -> list[html.Card]:
    """Return the cards at the top of the page: metrics of the fusion on a split, and its cost."""
    fused, member = _compared(values, split)
    cards = [
        html.Card(f"{fused[key]['value']:.4f}", f"{NAMES[key]}, {split}",
                  f"best member: {member[key]['value']:.4f}")
        for key in METRICS if fused[key]["value"] is not None
    ]  # fmt: skip
    cost = values["inference_cost"]["fused"]
    cards.append(html.Card(f"{cost['images_per_second']:,.0f}", "images per second",
                           f"{cost['parameters']:,} parameters"))  # fmt: skip
    return cards


def _explanation(split: str, values: FusionResult) -> str:
    """Return how to read the table of a split."""
    common = (
        "For this comparison every detector has the threshold that is best on validation, and "
        "every member the best temperature. This run is calibrated after the fusion. So balanced "
        "accuracy, log-loss and ECE may differ from those in the reports of the runs. Brackets: "
        "95% intervals."
    )
    if split == "test":
        return f"Fusions were fitted on the whole validation split. {common}"
    if values["cross_fitted"]:
        return (f"Each image was scored by fusions that were fitted without its group (five-fold "
                f"cross-fitting). {common}")  # fmt: skip
    return ("There are too few groups of images for cross-fitting: the fusions were fitted on "
            f"these images, so their figures are optimistic. {common}")  # fmt: skip


def _gains(values: FusionResult) -> Markup:
    """Return the table of gains over the best member, with its explanation."""
    return html.join(
        html.text(
            f"Metrics of the {values['fusion']} fusion minus those of {values['best_member']}, "
            f"{_BEST}, on the same images. Brackets: 95% intervals of a paired bootstrap. If the "
            "interval contains 0, the difference is not significant."
        ),
        html.table(_GAIN_COLUMNS, _gain_rows(values)),
    )


def _similarity(folder: Path, values: FusionResult, comparison: Comparison) -> Markup:
    """Return the table and the figure of the similarity of the members."""
    rows = [
        [" / ".join(pair["members"]),
         "-" if pair["correlation"] is None else f"{pair['correlation']:.3f}",
         *(f"{pair[key]:.2%}" for key in ("disagreement", "both_wrong", "one_wrong"))]
        for pair in values["similarity"]
    ]  # fmt: skip
    picture = html.picture_of(
        _correlation_figure(comparison),
        "Matrix of the correlations between the members' logits: " + "; ".join(
            f"{row[0]} {row[1]}" for row in rows
        ) + ".",
        "Correlation of logits", path=folder / "figures" / "fusion_correlation.png",
    )  # fmt: skip
    return html.join(
        html.text(
            f"Measured on {comparison.last_split}. A fusion gains most from members that are wrong "
            "on different images: a low correlation, and few images on which both are wrong."
        ),
        html.table(
            ["members", "correlation", "different verdicts", "both wrong", "one wrong"], rows
        ),
        html.figures([picture]),
    )


def _costs(values: FusionResult) -> Markup:
    """Return the table of the inference cost, with its explanation."""
    shared = "; ".join(" and ".join(pair) for pair in values["shared_backbones"])
    return html.join(
        html.text("Images per second of the networks alone, without reading and decoding images."),
        html.table(_COST_COLUMNS, _cost_rows(values)),
        html.text(f"Members that share a backbone, which is computed once: {shared}.")
        if shared else None,
    )  # fmt: skip


def mask_sentence(values: FusionResult) -> str:
    """Return in words which members the masks of the fusion come from; "" if it is not recorded."""
    masks = values.get("masks")
    if masks is None:
        return ""
    predicted_by, weights = masks["predicted_by"], masks["weights"]
    if not predicted_by:
        return "No member predicts masks, so the fusion predicts none."
    if not weights:
        return (
            f"The fusion predicts no masks: only the labels were fused, although "
            f"{listed(predicted_by)} "
            f"{'predicts' if len(predicted_by) == 1 else 'predict'} masks."
        )
    if len(weights) == 1:
        return f"The masks of the fusion are those of {next(iter(weights))}."
    parts = [f"{name} {weight:.0%}" for name, weight in weights.items()]
    return (
        f"The masks of the fusion are the mean of the members' mask logits, by weight: "
        f"{listed(parts, most=len(parts))}."
    )


def _last_split(values: FusionsCompared) -> str:
    """Return "test", or "validation" if there are no test images."""
    return "test" if "test" in values["splits"] else "validation"


def _compared(values: FusionsCompared, split: str) -> tuple[Metrics, Metrics]:
    """Return the metrics of the fusion and of the best member on a split."""
    part = values["splits"][split]["all"]
    return part["fusions"][values["fusion"]], part["members"][values["best_member"]]


def _part_title(split: str, part: str) -> str:
    return split if part == "all" else f"{split}, dataset {part}"


def _metric_columns() -> list[str]:
    """Return the columns of `_metric_rows`."""
    return ["detector", "threshold", *(NAMES[key] for key in METRICS)]


def _metric_rows(values: FusionResult, part: FusionPart) -> list[list[str]]:
    """Return the rows of a table: the chosen fusion, the members, the other fusions."""
    chosen, thresholds = values["fusion"], values["thresholds"]
    members, fusions = thresholds["members"], thresholds["fusions"]
    named = [(f"this run ({chosen} fusion)", fusions[chosen], part["fusions"][chosen])]
    named += [(f"member {name}", members[name], each) for name, each in part["members"].items()]
    named += [(f"{name} fusion", fusions[name], each) for name, each in part["fusions"].items()
              if name != chosen]  # fmt: skip
    return [
        [name, f"{threshold:.3f}", *(format_interval(metrics[key]) for key in METRICS)]
        for name, threshold, metrics in named
    ]


def _gain_rows(values: FusionResult) -> list[list[str]]:
    """Return the rows of the table of gains, test first."""
    return [
        [split, NAMES[key], _signed(gain[key]), _result(key, gain[key])]
        for split, gain in sorted(values["gains"].items(), key=lambda pair: pair[0] != "test")
        for key in METRICS if gain[key]["value"] is not None
    ]  # fmt: skip


def _signed(gain: Interval) -> str:
    return format_interval(gain, signed=True)


def _result(metric: str, gain: Interval) -> str:
    """Return in words whether a gain is significant, and in which direction."""
    sign = sign_of(gain)
    if sign is None:
        return "too few images"
    if sign == 0:
        return "no significant difference" if round(gain["value"] or 0.0, 4) else "no difference"
    return "better" if (sign > 0) != (metric in _LOWER_IS_BETTER) else "worse"


def worse_than_best_member(values: FusionsCompared) -> str:
    """Return a warning if the fusion is worse than its best member on a split, or else ""."""
    best = values["best_member"]
    for split in (each for each in ("validation", "test") if each in values["gains"]):
        gains = values["gains"][split]
        worse = [key for key in ("auc", "log_loss") if _result(key, gains[key]) == "worse"]
        if worse:
            break
    else:
        return ""
    fused, member = _compared(values, split)
    figures = ", ".join(
        f"{NAMES[key]} {fused[key]['value']:.4f} against {member[key]['value']:.4f}"
        for key in worse
    )
    fusions = values["splits"]["validation"]["all"]["fusions"]
    better = min(fusions, key=lambda name: numbers(fusions[name]["log_loss"])[0])
    instead = f", or --fusion {better}" if better != values["fusion"] else ""
    return (
        f"On {split} the fusion is worse than its best member, {best}: {figures}. Use {best} "
        f"alone{instead}."
    )


def _cost_rows(values: FusionResult) -> list[list[str]]:
    return [
        [name, f"{cost['parameters']:,}", f"{cost['images_per_second']:,.0f}"]
        for name, cost in values["inference_cost"].items()
    ]


def _correlation_figure(comparison: Comparison) -> Figure:
    """Draw the correlation of the members' logits as a matrix."""
    members = comparison.splits[comparison.last_split].members
    names = list(members)
    with np.errstate(invalid="ignore"):  # the correlation with a constant member is nan
        matrix = np.corrcoef(np.stack(list(members.values())))
    side = 2.6 + 0.6 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = heat_map(axes, matrix, names, names, colors="RdBu_r", limits=(-1, 1))
    figure.colorbar(image, shrink=0.8)
    return figure
