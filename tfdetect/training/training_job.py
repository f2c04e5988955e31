"""`TrainingJob`: what a training trains, on which images and devices, and where it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan
from tfdetect.data.warm_start import Start, ancestor

if TYPE_CHECKING:
    from tfdetect.data.strata import Replay
    from tfdetect.training.devices import Devices


@dataclass(frozen=True)
class TrainingJob:
    """A training whose experiment, images and devices are resolved, before it begins.

    Attributes:
        plan: the experiment and the dataset spec.
        catalog: the images.
        devices: the devices that train; from `configure_devices`.
        path: the final folder of the run.
        progress: whether to log each epoch and, in a terminal, to show a progress bar.
        log: called with each line of progress.
        start: the run that the training starts from, and its dataset; None for a new detector.
    """

    plan: Plan
    catalog: Catalog
    devices: "Devices"
    path: Path
    progress: bool = True
    log: console.Log = console.log
    start: Start | None = None

    @property
    def parent(self) -> Run | None:
        """The run that the training starts from; None for a new detector."""
        return self.start.run if self.start else None

    @property
    def replay(self) -> "Replay | None":
        """What is drawn from the training images of the parent; None for nothing."""
        from tfdetect.data.strata import Replay

        experiment = self.plan.experiment
        if self.parent is None or not experiment.training.replay:
            return None
        datasets = ancestor(self.parent, experiment).datasets
        return Replay(frozenset(datasets), experiment.training.replay)

    def check(self) -> None:
        """Check the settings that a training would refuse later, without reading an image.

        Raises:
            UserError: a setting does not fit the dataset or the devices.
        """
        from tfdetect.training.check_training import check_training

        classes = len(self.plan.spec.class_names)
        check_training(self.plan.experiment, classes, self.catalog, self.devices, self.replay)
