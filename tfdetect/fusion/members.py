"""Opens the runs that are to be fused, and refuses those that do not go together."""

from dataclasses import dataclass
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run, View, open_run


@dataclass(frozen=True)
class Members:
    """Runs that are to be fused.

    Attributes:
        names: of the runs, each once.
        views: what they see of an image, each once.
        place: of each member its view's index.
        classes: of the fusion: those of the members with most classes.
    """

    runs: list[Run]
    names: list[str]
    views: list[View]
    place: list[int]
    classes: list[str]

    @property
    def masked(self) -> list[int]:
        """The members that draw masks."""
        return [number for number, run in enumerate(self.runs) if run.predicts_masks]


def open_members(paths: list[Path], masks: bool = True) -> Members:
    """Opens the members.

    Args:
        masks: whether masks are to be fused too.

    Raises:
        UserError: fewer than two, one twice, one that is no run or is an ensemble, classes that
            contradict each other, or masks that cannot be fused.
    """
    if len(paths) < 2:
        raise UserError("An ensemble needs at least two runs.")
    runs = [open_run(path) for path in paths]
    resolved = [run.path.resolve() for run in runs]
    if twice := [path for path in resolved if resolved.count(path) > 1]:
        raise UserError(f"{twice[0]} is named twice.")
    for run in runs:
        if run.is_ensemble:
            raise UserError(f"{run.path} is an ensemble. Name its members instead.")
    classes = max((run.classes for run in runs), key=len)
    first = next(run for run in runs if run.classes == classes)
    for run in runs:
        same = len(run.classes) == len(classes) and len(classes) > 2
        if (same and run.classes != classes) or _upside_down(run.classes, classes):
            raise UserError(
                f"The classes of {run.path} ({', '.join(run.classes)}) contradict those of "
                f"{first.path} ({', '.join(classes)}); the first is the authentic one."
            )
    plain = [run.views for run in runs]
    views = list(dict.fromkeys(view for [view] in plain))
    members = Members(runs, _names(runs), views, [views.index(view) for [view] in plain], classes)
    if masks and members.masked and len(views) > 1:
        windows = [
            runs[n].name for n in range(len(runs)) if plain[n][0].policy.startswith("window")
        ]
        if windows:
            raise UserError(
                "Masks are fused with members that read the same view, or with none that cuts "
                f"windows; {', '.join(windows)} does. Fuse the labels alone with --no-masks."
            )
    return members


def _upside_down(one: list[str], other: list[str]) -> bool:
    return one[0] in other[1:] or other[0] in one[1:]


def _names(runs: list[Run]) -> list[str]:
    """Names of the runs; where two are the same, with their folders'."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{run.path.resolve().parent.name}/{name}"
        for run, name in zip(runs, names)
    ]
