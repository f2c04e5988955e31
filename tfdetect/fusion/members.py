"""Open the runs of an ensemble, and check that they can be fused."""

from dataclasses import dataclass
from pathlib import Path

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_info import View


@dataclass(frozen=True)
class Members:
    """Runs that are to be fused.

    Attributes:
        runs: the runs.
        names: their names, made unique.
        views: the different views of an image that they take.
        view_index: for each member, the index of its view in `views`.
        class_names: the class names of the fused detector: those of the members with the most
            classes.
    """

    runs: list[Run]
    names: list[str]
    views: list[View]
    view_index: list[int]
    class_names: tuple[str, ...]

    @property
    def mask_members(self) -> list[int]:
        """Indices of the members that predict masks."""
        return [index for index, run in enumerate(self.runs) if run.predicts_masks]


def open_members(paths: list[Path], masks: bool = True) -> Members:
    """Open the members of an ensemble.

    Args:
        paths: directories of at least two runs.
        masks: whether to fuse their masks, too.

    Raises:
        UserError: fewer than two runs, one of them twice, a run that cannot be opened or is an
            ensemble, contradicting classes, or masks that cannot be fused.
    """
    if len(paths) < 2:
        raise UserError(f"An ensemble needs at least two runs. Received: {len(paths)}.")
    runs = [open_run(path) for path in paths]
    resolved = [run.path.resolve() for run in runs]
    if repeated := [path for path in resolved if resolved.count(path) > 1]:
        raise UserError(f"The run {repeated[0]} is given twice. Give each run once.")
    for run in runs:
        if run.is_ensemble:
            raise UserError(
                f"{run.path} is an ensemble, which cannot be a member of another one. Give its "
                f"members instead: {', '.join(run.info.members)}."
            )
    names = max((run.class_names for run in runs), key=len)
    reference = next(run for run in runs if run.class_names == names)
    for run in runs:
        same_count = len(run.class_names) == len(names) and len(names) > 2
        if (same_count and run.class_names != names) or _opposite(run.class_names, names):
            raise UserError(
                f"The classes of {run.path} ({', '.join(run.class_names)}) contradict those of "
                f"{reference.path} ({', '.join(names)}). The first class of each run must be the "
                "authentic one, and the same three or more classes must be in the same order."
            )
    # A member has one view. The verdict of an ensemble does not follow from the mean of the masks.
    own = [run.views[0].model_copy(update={"tile_pooling": "max"}) for run in runs]
    views = list(dict.fromkeys(own))
    members = Members(runs, _unique_names(runs), views, [views.index(view) for view in own], names)
    if masks and members.mask_members and len(views) > 1:
        windowed = [run.name for run, view in zip(runs, own) if cuts_windows(view.policy)]
        if windowed:
            raise UserError(
                "Masks cannot be fused if members take different views of an image and some of "
                f"them cut windows ({', '.join(windowed)}). To fuse only the labels: --no-masks."
            )
    return members


def _opposite(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether the authentic class of one is a fake class of the other."""
    return one[0] in other[1:] or other[0] in one[1:]


def _unique_names(runs: list[Run]) -> list[str]:
    """Return the runs' names; equal ones get the name of their parent directory as a prefix."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{run.path.resolve().parent.name}/{name}"
        for run, name in zip(runs, names)
    ]
