"""`Budget`: the limits after which a search starts no more trials."""

from dataclasses import dataclass

from tfdetect.tuning.store import Store, Trial


@dataclass(frozen=True)
class Budget:
    """Limits of a search; None is no limit.

    Attributes:
        trials: number of trials.
        hours: hours in which at least one process worked on the search.
        epochs: number of epochs of all trials together.
    """

    trials: int | None = None
    hours: float | None = None
    epochs: int | None = None

    def is_exhausted(self, store: Store, trials: list[Trial]) -> bool:
        """Return whether a limit is reached.

        Args:
            store: the store of the search.
            trials: all trials so far.
        """
        return (
            (self.trials is not None and len(trials) >= self.trials)
            or (self.hours is not None and store.seconds() >= 3600 * self.hours)
            or (self.epochs is not None and sum(t.epochs for t in trials) >= self.epochs)
        )
