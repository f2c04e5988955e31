"""The run whose answers a training learns besides the labels."""

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import checksum
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_info import Teacher, View
from tfdetect.core.text import from_os


def open_teacher(experiment: Experiment) -> Run | None:
    """Open the run that `training.distill.teacher` names; None if it names none.

    Raises:
        UserError: there is no such run, or it has no Keras model.
    """
    name = experiment.training.distill.teacher
    if name is None:
        return None
    try:
        run = open_run(name)
    except UserError as error:
        raise UserError(
            f"training.distill.teacher, the run whose answers are learned: {error}"
        ) from error
    if not run.model_path.is_file():
        raise UserError(
            f"training.distill.teacher: {run.path} has no model.keras, only exports, which are not "
            "run in a training. Get the whole run."
        )
    return run


def with_teachers_path(experiment: Experiment, run: Run) -> Experiment:
    """Check that the views of a teacher fit; return the experiment with the path of the teacher.

    One that is asked at each step is given the detector's images.

    Args:
        experiment: the experiment of the training.
        run: its teacher, from `open_teacher`.

    Raises:
        UserError: the teacher sees images differently.
    """
    own, each_step = View.of(experiment.data), experiment.training.distill.asked == "each_step"
    if each_step and (len(run.views) > 1 or _seen(run.views[0]) != _seen(own)):
        theirs = " and ".join(_words(view) for view in run.views)
        raise UserError(
            f"training.distill.teacher: {run.name} sees {theirs}, the detector {_words(own)}. Both "
            "are given the same pixels: set data.image_size, data.resize and data.equalize alike, "
            "or choose another teacher. Or let it answer once, for each image as it is, before "
            "the training: training.distill.asked=once."
        )
    distill = experiment.training.distill.model_copy(
        update={"teacher": from_os(run.path.resolve())}
    )
    training = experiment.training.model_copy(update={"distill": distill})
    return experiment.model_copy(update={"training": training})


def teacher_info(experiment: Experiment) -> Teacher | None:
    """Return the facts about its teacher that a run records."""
    run, distill = open_teacher(experiment), experiment.training.distill
    if run is None:
        return None
    return Teacher(
        name=run.name, model=checksum(run.model_path)[:16], weight=distill.weight,
        temperature=distill.temperature, asked=distill.asked,
    )  # fmt: skip


def _seen(view: View) -> tuple:
    return view.size, view.policy, view.equalize


def _words(view: View) -> str:
    height, width = view.size
    equalized = ", equalized" if view.equalize is not None else ""
    return f"{width} x {height} pixels ({view.policy}{equalized})"
