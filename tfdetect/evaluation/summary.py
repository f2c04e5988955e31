"""The few metrics that matter most, for the end of a training and the top of a report."""

from tfdetect.core.run_results import Metrics, SplitResults, ordered
from tfdetect.evaluation.class_balance import unequal_classes
from tfdetect.evaluation.intervals import format_interval
from tfdetect.evaluation.metrics import NAMES
from tfdetect.evaluation.result_tables import MASK_NAMES

LABEL_METRICS = ("accuracy", "class_accuracy", "auc", "tpr_at_fpr_1", "tpr_at_fpr_5", "ece")
ONE_CLASS_METRICS = ("fpr", "recall")
MASK_METRICS = ("iou_altered", "f1", "ap")


def summary(results: SplitResults, split: str | None = None) -> Metrics:
    """Return the metrics that matter most, each with its 95% interval.

    Args:
        results: the content of metrics.json.
        split: by default test, or else the first that there is.

    Returns:
        {name: value, low, high}: accuracy, AUC, recall at 1% and 5% false positives and ECE; where
        there are many more images of one class than of the other, first the balanced accuracy; of
        three or more classes also class_accuracy; the false positive rate of authentic images
        alone, and the recall of fakes alone; of detectors with masks also mask_iou, mask_f1 and
        mask_ap. Empty before the first evaluation.
    """
    if split is None:
        split = next(iter(ordered(results)), None)
    result = results.get(split or "", {})
    metrics = result.get("metrics", {})
    names = LABEL_METRICS if "auc" in metrics else ONE_CLASS_METRICS
    if "auc" in metrics and unequal_classes(result.get("confusion", [])):
        names = ("balanced_accuracy", *names)
    found = {name: metrics[name] for name in names if _defined(metrics, name)}
    masks = result.get("masks", {}).get("metrics", {})
    short = {"iou_altered": "mask_iou", "f1": "mask_f1", "ap": "mask_ap"}
    found |= {short[name]: masks[name] for name in MASK_METRICS if _defined(masks, name)}
    return found


def summary_rows(results: SplitResults) -> list[dict[str, str]]:
    """Return the `summary` of the test split as rows for a table, {"metric", "value"}: text."""
    return [
        {"metric": TITLES[name], "value": format_interval(value)}
        for name, value in summary(results, "test").items()
    ]


TITLES = NAMES | {
    "mask_iou": MASK_NAMES["iou_altered"],
    "mask_f1": MASK_NAMES["f1"],
    "mask_ap": MASK_NAMES["ap"],
}


def _defined(metrics: Metrics, name: str) -> bool:
    return metrics.get(name, {}).get("value") is not None
