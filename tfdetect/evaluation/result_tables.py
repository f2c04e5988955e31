"""The content of metrics.json as tables, for the report, the model card and the terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tfdetect.core import console
from tfdetect.core.run_info import MaskCoverage
from tfdetect.core.run_results import (
    Compared,
    MaskResult,
    PartResult,
    SplitResult,
    SplitResults,
    Transfer,
    VideoResult,
    ordered,
)
from tfdetect.core.text import counted, images_are
from tfdetect.data.masks import COVERAGE_EXPLANATION, coverage_rows
from tfdetect.data.splits import few_images
from tfdetect.evaluation.class_balance import in_order, unequal_classes
from tfdetect.evaluation.intervals import CHANCE, format_interval, may_be_chance, numbers
from tfdetect.evaluation.metrics import NAMES
from tfdetect.evaluation.operating_points import POINTS

MASK_NAMES = {
    "iou_altered": "IoU, mean of altered images", "iou": "IoU, mean of all images",
    "iou_data": "IoU of all pixels", "f1": "pixel F1, mean of altered images",
    "f1_data": "pixel F1 of all pixels", "ap": "pixel AP, mean of altered images",
    "ap_data": "pixel AP of all pixels", "auc": "pixel AUC, mean of altered images",
    "auc_data": "pixel AUC of all pixels", "mcc_data": "MCC of all pixels",
    "empty": "authentic images with an empty mask", "image_auc": "image AUC from the mask",
}  # fmt: skip
_PART_METRICS = (
    "accuracy", "balanced_accuracy", "recall", "fpr", "auc", "ap", "tpr_at_fpr_5", "ece",
)  # fmt: skip
_PART_MASK_METRICS = {"iou_altered": "IoU", "f1": "pixel F1", "ap": "pixel AP"}
LIKENESS = "Like and unlike the training images"  # title of a table
MAX_OUTSIDE = 0.05  # fraction of images outside of the domain, above which there is a warning
_VIDEO_METRICS = ("accuracy", "balanced_accuracy", "recall", "fpr", "auc", "ap", "eer")
_Rate = Literal["fpr", "tpr"]
_RATES: dict[_Rate, str] = {"fpr": "false positive rate", "tpr": "recall"}
_POINT_RATES: tuple[tuple[str, _Rate], ...] = (
    ("fpr_1", "tpr"), ("fpr_1", "fpr"), ("fpr_5", "tpr"), ("fpr_5", "fpr"),
)  # fmt: skip


@dataclass(frozen=True)
class ResultTable:
    """A table of results.

    Attributes:
        title: what it shows.
        headers: the headers of the columns.
        rows: rows of texts.
        explanation: how to read it.
    """

    title: str
    headers: list[str]
    rows: list[list[str]]
    explanation: str = ""


def transfer_tables(found: Transfer | None) -> list[ResultTable]:
    """Return gain and forgetting as tables, for the report, the model card and the terminal."""
    if found is None:
        return []
    parts = {"Gain on the new data": found["new"], "Forgetting of the old data": found["old"]}
    return [
        ResultTable(
            f"{title}, {part['dataset']}", ["metric", "before", "after", "change"],
            [*_changes(part, NAMES), *_changes(part.get("masks"), MASK_NAMES)],
            f"{counted(part['count'], 'image')} of {part['split']}, classified by both detectors; "
            "before: "
            f"{found['parent']}. Brackets: 95% intervals; that of the change is paired.",
        )
        for title, part in parts.items() if part is not None
    ]  # fmt: skip


def _changes(part: Compared | None, names: dict[str, str]) -> list[list[str]]:
    if part is None or not part["pairs"]:
        return []
    [pair], runs = part["pairs"], part["runs"]
    return [
        [names[key], format_interval(runs["before"][key]), format_interval(runs["after"][key]),
         format_interval(change, signed=True)]
        for key, change in pair["metrics"].items()
    ]  # fmt: skip


def metric_table(result: SplitResult) -> ResultTable:
    """Return all metrics of all images that are defined."""
    parts = _columns(result)
    rows = [
        [NAMES[key], *(_cell(part, key) for part in parts.values())]
        for key in in_order(NAMES, unequal_classes(result.get("confusion", [])))
        if any(_cell(part, key) != "-" for part in parts.values())
    ]
    notes = (_class_sentence(result), _prior_sentence(result))
    return ResultTable("Metrics", ["metric", *parts], rows, " ".join(filter(None, notes)))


def class_table(result: SplitResult) -> ResultTable | None:
    """Return recall and precision of each class, of three or more classes."""
    parts = {
        title: part["classes"] for title, part in _columns(result).items() if "classes" in part
    }
    if "classes" not in result:
        return None
    rows = [
        [name, f"{one['count']:,}",
         *(format_interval(each[name]["recall"]) for each in parts.values()),
         format_interval(one["precision"])]
        for name, one in result["classes"].items()
    ]  # fmt: skip
    recalls = ["recall", *(f"recall {title}" for title in list(parts)[1:])]
    return ResultTable(
        "Metrics by class", ["class", "images", *recalls, "precision"], rows,
        "Recall: which part of the images of a class gets a verdict that names it. Precision: "
        "which part of the verdicts that name it is right, where the classes are as frequent as "
        "among these images. The confusion matrix shows for what the others are taken.",
    )  # fmt: skip


def metadata_table(result: SplitResult) -> ResultTable | None:
    """Return what could be known of the labels without looking at a pixel."""
    baseline = result.get("metadata_baseline")
    if not baseline:
        return None
    found = {"balanced_accuracy": baseline["balanced_accuracy"], "auc": baseline["auc"]}
    rows = [
        [NAMES[name], format_interval(metric), format_interval(result["metrics"].get(name))]
        for name, metric in found.items()
    ]
    return ResultTable(
        "Format and size alone", ["metric", "format and size", "the detector"], rows,
        "How well a decision tree tells the classes of these images apart that sees file format, "
        "width and height and not a pixel, each group being classified by a tree fitted without "
        "it. Where it is good, the detector may have learned the files: train with data.equalize.",
    )  # fmt: skip


def operating_point_table(result: SplitResult) -> ResultTable | None:
    """Return what the verdict's threshold and each operating point give."""
    points = result.get("operating_points")
    if not points:
        return None
    mixed = all(point["fpr"] and point["tpr"] for point in points.values())
    priors = list(next(iter(points.values()))["precision"]) if mixed else []
    rates = [rate for rate in _RATES if all(point[rate] for point in points.values())]
    rows = [
        [_point_name(name), f"{point['threshold']:.4f}",
         *(format_interval(point[rate]) for rate in rates),
         *(format_interval(point["precision"][p], 3) for p in priors)]
        for name, point in points.items()
    ]  # fmt: skip
    headers = ["threshold chosen for", "P(fake)", *(_RATES[rate] for rate in rates),
               *(f"precision if 1 in {round(1 / float(p)):,} is fake" for p in priors)]  # fmt: skip
    return ResultTable(
        "Operating points", headers, rows,
        "Thresholds are chosen on validation; the rates are those of these images, with Wilson's "
        "95% interval."
        + (" The rates ignore the abstention band: they count every image as authentic or fake. "
           "Verdicts at another threshold (--at, --threshold) do not: the band stays where it is, "
           "and grows to a threshold that lies outside of it." if result.get("abstention") else "")
        + (" The precision is what is left where few images are fake; its bounds are those of the "
           "unfavorable and the favorable ends of both rates." if priors else ""),
    )  # fmt: skip


def abstention_table(result: SplitResult) -> ResultTable | None:
    """Return how many verdicts are inconclusive, and how good the others are."""
    band = result.get("abstention")
    if not band:
        return None
    return ResultTable(
        "Abstention",
        ["inconclusive from P(fake)", "up to", "images with a verdict", "accuracy of the verdicts"],
        [[f"{band['low']:.4f}", f"{band['high']:.4f}", format_interval(band["coverage"]),
          format_interval(band["accuracy"])]],
        "Inside the band a verdict would be wrong too often. It was chosen on "
        f"{band['chosen_on']}: outside of it at most {band['error_rate']:.0%} of each class were "
        "wrong there.",
    )  # fmt: skip


def domain_table(result: SplitResult) -> ResultTable | None:
    """Return how many images are like the training images, and how good the verdicts are there."""
    domain = result.get("domain")
    if not domain or "outside" not in domain:
        return None
    unequal = unequal_classes(result.get("confusion", []))
    keys = in_order(
        ("accuracy", *(["balanced_accuracy"] if unequal else []), "recall", "fpr", "auc"), unequal
    )
    parts = {"like the training images": domain.get("inside"), "unlike them": domain["outside"]}
    total = sum(part["count"] for part in parts.values() if part)
    shown = [k for k in keys if any(p and _cell(p, k) != "-" for p in parts.values())]
    rows = [
        [title, f"{part['count']:,}", f"{part['count'] / total:.1%}",
         *(_cell(part, key) for key in shown)]
        for title, part in parts.items() if part
    ]  # fmt: skip
    reasons = ", ".join(f"{count:,} by their {name}" for name, count in domain["reasons"].items())
    return ResultTable(
        LIKENESS, ["images", "number", "fraction", *(NAMES[key] for key in shown)], rows,
        "Images are compared with the training images by size, format and features"
        + (f"; unlike them: {reasons}." if reasons else ".")
        + (" An image may differ in several." if len(domain["reasons"]) > 1 else "")
        + " Fakes of an unseen generator are usually like them, too.",
    )  # fmt: skip


def calibration_table(result: SplitResult) -> ResultTable | None:
    """Return what the calibration changed."""
    again = "before" in result
    before = result["before"] if again else result.get("uncalibrated")
    if not before:
        return None
    unequal = unequal_classes(result.get("confusion", []))
    which = "Before is the run as it was until this calibration. " if again else ""
    rows = [
        [NAMES[key], f"{before[key]:.4f}", f"{result['metrics'][key]['value']:.4f}"]
        for key in in_order(before, unequal) if key in result["metrics"]
    ]  # fmt: skip
    which_before = "before the last calibration" if again else "before calibration"
    return ResultTable(
        "Calibration", ["metric", which_before, "after"], rows,
        f"{which}Of log-loss and calibration error, lower is better.",
    )  # fmt: skip


def mask_table(result: SplitResult) -> ResultTable | None:
    """Return the metrics of the masks."""
    if "masks" not in result:
        return None
    parts = _columns(result)
    masks = [part.get("masks") for part in parts.values()]
    rows = [
        [title, *(_cell(m, key) if m else "-" for m in masks)] for key, title in MASK_NAMES.items()
    ]
    rows.append(["IoU, mean of batches of 8 images",
                 *(f"{m['batch_iou']:.4f}" if m else "-" for m in masks)])  # fmt: skip
    best = [m.get("best") if m else None for m in masks]
    rows.append([
        "IoU of altered images at its best threshold (optimistic)",
        *(f"{b['iou_altered']:.4f} at {b['threshold']:.2f}" if b else "-" for b in best),
    ])  # fmt: skip
    return ResultTable(
        "Masks", ["metric", *parts], [row for row in rows if set(row[1:]) != {"-"}],
        "A pixel counts as altered from P(altered) 0.5 on, in images whose P(fake) reaches the "
        "run's mask threshold. The empty mask of an authentic image "
        "has IoU 1. The best threshold is chosen on these very images, so it is optimistic.",
    )  # fmt: skip


def coverage_table(result: SplitResult) -> ResultTable | None:
    """Return how much of the images the true masks cover, by class."""
    if "mask_coverage" not in result:
        return None
    found = {name: MaskCoverage(**c) for name, c in result["mask_coverage"].items()}
    return ResultTable("Mask coverage", *coverage_rows(found), COVERAGE_EXPLANATION)


def video_table(result: SplitResult) -> ResultTable | None:
    """Return the metrics of videos next to those of their frames."""
    videos = result.get("videos")
    if not videos:
        return None
    rows = [
        [NAMES[key], _cell(result, key), _cell(videos, key)]
        for key in in_order(_VIDEO_METRICS, unequal_classes(result.get("confusion", [])))
        if key in videos["metrics"]
    ]  # fmt: skip
    return ResultTable(
        "Videos", ["metric", "all images", counted(videos["count"], "video")], rows,
        f"{counted(videos['frames'], 'frame')} of videos. P(fake) of a video is the mean of that "
        "of its frames, and the threshold is that of images. Intervals of videos are over videos; "
        "those of images take frames as independent, so they are too narrow.",
    )  # fmt: skip


def part_tables(result: SplitResult, kind: str) -> list[ResultTable]:
    """Return the main metrics of each part.

    Args:
        kind: "dataset" or "generator".
    """
    found = result.get("generators") if kind == "generator" else result.get("datasets")
    parts = dict(found or {})
    if not parts:
        return []
    unseen = result.get("unseen_generators") if kind == "generator" else None
    if unseen:
        parts = {
            name + (" (unseen)" if name in unseen["generators"] else ""): part
            for name, part in parts.items()
        }
        if len(unseen["generators"]) > 1:
            parts[f"all {len(unseen['generators'])} unseen generators"] = unseen
    tables = [_part_metric_table(parts, kind)]
    rows = [
        [name, *(format_interval(part["operating_points"][p][rate]) for p, rate in _POINT_RATES)]
        for name, part in parts.items()
        if {"fpr_1", "fpr_5"} <= set(part.get("operating_points", {}))
    ]
    if rows:
        headers = [f"{_RATES[rate]} at {point}" for point, rate in _POINT_RATES]
        tables.append(ResultTable(
            f"Operating points by {kind}", [kind, *headers], rows,
            "At the thresholds that gave 1% and 5% false positives on validation.",
        ))  # fmt: skip
    rows = [
        [name, f"{part['masks']['altered']:,}",
         *(_cell(part["masks"], key) for key in _PART_MASK_METRICS)]
        for name, part in parts.items() if part.get("masks", {}).get("altered")
    ]  # fmt: skip
    if rows:
        headers = [kind, "altered images", *_PART_MASK_METRICS.values()]
        tables.append(ResultTable(f"Masks by {kind}", headers, rows))
    return tables


def _part_metric_table(parts: Mapping[str, PartResult], kind: str) -> ResultTable:
    # Where both classes count the same, accuracy is balanced already.
    unequal = any(
        unequal_classes(part.get("confusion", [])) and not part.get("balanced", False)
        for part in parts.values()
    )
    shown = [
        key for key in in_order(_PART_METRICS, unequal)
        if (unequal or key != "balanced_accuracy")
        and any(_cell(part, key) != "-" for part in parts.values())
    ]  # fmt: skip
    rows = [
        [name, f"{part['count']:,}", *(_cell(part, key) for key in shown)]
        for name, part in parts.items()
    ]
    explanation = (
        "Each generator's fakes with the authentic images that belong to it, or with all of them "
        "where none do; then both classes count the same, however few images the generator made. "
        "Unseen generators made no training image."
        if kind == "generator"
        else ""
    )
    headers = [kind, "images", *(NAMES[key] for key in shown)]
    return ResultTable(f"Metrics by {kind}", headers, rows, explanation)


def tables_of(result: SplitResult) -> list[ResultTable]:
    """Return every table of one split."""
    single = (metric_table(result), class_table(result), metadata_table(result),
              operating_point_table(result), abstention_table(result), domain_table(result),
              calibration_table(result),
              mask_table(result), video_table(result))  # fmt: skip
    return [
        *(table for table in single if table and table.rows),
        *part_tables(result, "dataset"),
        *part_tables(result, "generator"),
    ]


def format_results(results: SplitResults) -> str:
    """Return metrics.json as tables for the terminal, test before validation."""
    lines = []
    for split in ordered(results):
        result, first = results[split], guesses(results[split])
        lines.append(f"{split}: {counted(result['count'], 'image')} (brackets: 95% intervals)\n")
        lines += [f"warning: {split}: {warning}\n" for warning in first]
        for table in tables_of(result):
            lines += [console.format_table(table.rows, table.headers), ""]
        others = [each for each in warnings_of(split, result) if each not in first]
        lines += [f"warning: {split}: {warning}" for warning in others]
    return "\n".join(lines)


def warnings_of(split: str, result: SplitResult) -> list[str]:
    """Return what the reader of a split's figures must know."""
    counts = [sum(row) for row in result.get("confusion", ())]
    few = few_images(split, counts[0], sum(counts[1:])) if counts else ""
    found = [few] if few else []
    if "without_duplicates" in result:
        copies = result["count"] - result["without_duplicates"]["count"]
        found.append(
            f"{images_are(copies, result['count'])} known to the detector from its training "
            "or selection (the same or a copy): figures of all images say too little about "
            "new ones. The column 'without known images' leaves them out."
        )
    outside = result.get("domain", {}).get("outside")
    if outside and outside["count"] > MAX_OUTSIDE * result["count"]:
        found.append(
            f"{images_are(outside['count'], result['count'])} unlike those that the "
            f"detector was trained on; see the table '{LIKENESS}'."
        )
    return [*found, *guesses(result), *_constant_verdicts(result)]


def guesses(result: SplitResult) -> list[str]:
    """Return a warning where the detector does not tell fakes from authentic images."""
    part: PartResult = result.get("without_duplicates", result)
    auc = part.get("metrics", {}).get("auc")
    if auc is None or not may_be_chance(auc):
        return []
    found = f"AUC {format_interval(auc, 3)}"
    if numbers(auc)[2] < CHANCE:
        return [
            f"{found}: worse than guessing (0.5), since authentic images score higher than fakes; "
            "no threshold and no calibration make verdicts on such images right."
        ]
    return [
        f"{found}: not shown to be better than guessing (0.5). The detector does not tell such "
        "images apart, or there are too few of them to say."
    ]


def _constant_verdicts(result: SplitResult) -> list[str]:
    """Return a warning for each part in which every verdict is the same."""
    parts = {"all images": result, **result.get("datasets", {}), **result.get("generators", {})}
    return [f"{part['constant']} ({name})" for name, part in parts.items() if "constant" in part]


def _columns(result: SplitResult) -> dict[str, PartResult]:
    """Return the columns: all images, and those that are not known from training or selection."""
    parts: dict[str, PartResult] = {"all images": result}
    if "without_duplicates" in result:
        rest = result["without_duplicates"]
        parts[f"without known images ({rest['count']:,} left)"] = rest
    return parts


def _class_sentence(result: SplitResult) -> str:
    if "class_accuracy" not in result["metrics"]:
        return ""
    return (
        f"{NAMES['class_accuracy'].capitalize()} counts verdicts that name the right one of "
        f"{len(result['confusion'])} classes. All other metrics are of authentic against fake: "
        "there a fake that is taken for another kind of fake is right."
    )


def _prior_sentence(result: SplitResult) -> str:
    if "prior" not in result or "log_loss" not in result["metrics"]:
        return ""
    return (
        "Log-loss, Brier score and calibration error weight the classes so that "
        f"{result['prior']:.0%} of the images are fake, as P(fake) assumes. The other "
        "metrics count every image once."
    )


def _point_name(name: str) -> str:
    if name == "verdict":
        return "the verdict (default)"
    return f"{POINTS[name]} ({name})" if name in POINTS else name


def _cell(part: PartResult | MaskResult | VideoResult, key: str) -> str:
    return format_interval(part["metrics"].get(key))
