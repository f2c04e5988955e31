"""What a matrix or a study would train, for `--dry-run`."""

from pathlib import Path
from typing import TypedDict

from tfdetect.core import console
from tfdetect.core.provenance import command_line
from tfdetect.core.run import partial_path
from tfdetect.core.text import counted
from tfdetect.data.describe import describe_counts
from tfdetect.generalization.train_matrix import Trainings, finished_run, run_path

TO_DO = ("reused", "continued", "trained")


class PlannedTraining(TypedDict):
    """What is done for one training."""

    name: str
    images: str  # in words
    epochs: int
    drawn: int  # number of images that all epochs read
    run: Path
    what: str  # of `TO_DO`


class Planned(TypedDict):
    """What a matrix or a study would train."""

    experiment: str
    dataset: str
    trainings: list[PlannedTraining]


def plan_each(trainings: Trainings, folder: Path) -> Planned:
    """Return what `train_each` would do; nothing is started.

    Args:
        trainings: what is trained on what, by the training's name.
        folder: directory of the runs.

    Raises:
        UserError: the folder holds a run of other data or another experiment.
    """
    rows: list[PlannedTraining] = []
    for name, (plan, part) in trainings.items():
        path, training = run_path(folder, name), plan.experiment.training
        is_begun = path.is_dir() or partial_path(path).is_dir()
        is_finished = finished_run(path, plan, part) is not None
        epochs = training.total_epochs
        steps = training.steps_of_epoch(part.split("train").num_rows)
        rows.append({
            "name": name, "images": describe_counts(plan.spec, part), "epochs": epochs,
            "drawn": epochs * steps * training.batch_size, "run": path,
            "what": "reused" if is_finished else "continued" if is_begun else "trained",
        })  # fmt: skip
    plan, _ = next(iter(trainings.values()))
    return {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "trainings": rows
    }  # fmt: skip


def show_planned(values: Planned, command: str, as_json: bool) -> None:
    """Print the result of `plan_each`, with counts, and the command that does it."""
    if as_json:
        return console.print_json(values)
    trainings = values["trainings"]
    rows = [[row["name"], row["images"], str(row["epochs"]), row["what"]] for row in trainings]
    counts = (f"{sum(row['what'] == what for row in trainings)} {what}" for what in TO_DO)
    drawn = sum(row["drawn"] for row in trainings if row["what"] != "reused")
    console.result(f"Experiment {values['experiment']}, dataset {values['dataset']}\n")
    console.result(console.format_table(rows, ["training", "images", "epochs", "will be"]))
    console.result(
        f"\n{counted(len(rows), 'training')}: {', '.join(counts)}; they read at most "
        f"{counted(drawn, 'image')}"
    )
    console.result(f"next    {command_line(command, without=('--dry-run',))}")
