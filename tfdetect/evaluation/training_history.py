"""The epochs of a run's training, and what it warns of: it diverged, or it learned nothing."""

import math

from tfdetect.core.errors import UserError
from tfdetect.core.parsing import read_rows
from tfdetect.core.run import Run
from tfdetect.core.run_results import SplitResults
from tfdetect.training.monitor import STEADIER, Monitor, monitor_of


def read_history(run: Run) -> list[dict[str, float]]:
    """Return the metrics of each epoch.

    Raises:
        UserError: the file is damaged.
    """
    path = run.path / "history.csv"
    if not path.is_file():
        return []
    metrics = [name for metric in ("log_loss", "accuracy") for name in (metric, f"val_{metric}")]
    rows = read_rows(path, ["epoch", *metrics])
    try:
        history = [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Copy the run again.") from None
    if not all(row.keys() >= {"epoch", *metrics} for row in history):
        raise UserError(f"{path} is damaged: a cell is empty. Copy the run again.")
    return history


def training_warnings(run: Run, results: SplitResults) -> list[str]:
    """Return what the reader of a run's figures must know of its training.

    Args:
        run: the run.
        results: the content of metrics.json.

    Raises:
        UserError: history.csv is damaged.
    """
    return [*_diverged(run), *not_learned(run, results)]


def _diverged(run: Run) -> list[str]:
    """Return a warning if the training diverged, else nothing."""
    if run.info.diverged is None:
        return []
    return [
        f"The training diverged in epoch {run.info.diverged}: its loss or its predictions became "
        "infinite or NaN (not a number). It ended there, and the detector is that of the best "
        f"epoch before. {STEADIER}"
    ]


def not_learned(run: Run, results: SplitResults) -> list[str]:
    """Return a warning if no epoch was better than a constant answer, else nothing.

    The constant answer is the fraction of each class in the validation split. A detector whose
    log-loss is higher because it is overconfident, but which ranks the images, has learned.

    Args:
        run: the run.
        results: the content of metrics.json.

    Raises:
        UserError: history.csv is damaged.
    """
    history = read_history(run)
    counts = [n for n in run.info.dataset.counts.get("validation", {}).values() if n]
    if not history or len(counts) < 2:
        return []
    constant = -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts)
    # Runs of earlier versions may have gone on where the log-loss was not a number.
    losses = [row["val_log_loss"] for row in history]
    lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
    auc = results.get("validation", {}).get("metrics", {}).get("auc", {}).get("low")
    if lowest < constant or (auc is not None and auc > 0.5):
        return []
    experiment = run.experiment()
    training, tries = experiment.training, ["another learning rate (training.optimizer)"]
    if run.info.status == "complete" and run.info.epochs == training.epochs:
        tries.insert(0, "more epochs (training.epochs)")
    if experiment.model.weights == "none":
        tries.append("pretrained weights (model.weights)")
    planned = training.total_epochs
    ended_early = run.info.status == "complete" and (run.info.epochs or planned) < planned
    if training.early_stopping is not None and ended_early and run.info.diverged is None:
        tries.append("more epochs without improvement (training.early_stopping)")
    if training.schedule.name == "plateau":
        tries.append("a schedule that lowers the rate later (training.schedule)")
    return [
        "The detector did not learn: its validation log-loss never fell below "
        f"{constant:.4f}, that of always answering the fraction of each class (epochs: "
        f"{run.info.epochs}, lowest: {lowest:.4f}{_kept(history, monitor_of(training))}). Try "
        f"{', '.join(tries)}, or more images."
    ]


def _kept(history: list[dict[str, float]], monitor: Monitor) -> str:
    """Return which epoch the detector is of, with its log-loss; "" if the history has no metric."""
    best, kept = None, None
    for row in history:
        value = row.get(monitor.name, math.nan)
        if monitor.is_better(value, best):
            best, kept = value, row
    if best is None or kept is None:
        return ""
    return (
        f"; the detector is of epoch {kept['epoch']:.0f}, by its {monitor.title} of {best:.4f}: "
        f"{kept['val_log_loss']:.4f}"
    )
