"""Run the trials of a search on this machine, several at once, until its budget is exhausted."""

import contextlib
import time
from collections.abc import Callable, Iterator

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.tuning.budget import Budget
from tfdetect.tuning.resources import Slot
from tfdetect.tuning.search_folder import Search
from tfdetect.tuning.store import FAILED, RUNNING, NewTrial, Trial
from tfdetect.tuning.suggest import suggest
from tfdetect.tuning.trial_process import TrialProcess, end_trials

_POLL_SECONDS = 0.1
_REFRESH_SECONDS = 2.0  # between heartbeats and updates of the progress
_MAX_FAILURES = 3  # a search ends with an error if its first trials, so many, all fail

Proposer = Callable[[list[Trial]], NewTrial | None]


def run_search(search: Search, budget: Budget, slots: list[Slot], progress: bool) -> None:
    """Run trials until the budget is exhausted; an interrupted search is continued.

    Args:
        search: the search.
        budget: the limits of the search.
        slots: one for each trial that may run at once.
        progress: whether to show progress.

    Raises:
        UserError: the first trials all failed.
    """
    store = search.store
    running: dict[int, TrialProcess] = {}
    store.heartbeat()
    propose = proposer(search, budget)
    more, due = True, 0.0  # whether there may be more trials; when the progress is updated next
    with _progress(search, budget, progress) as update:
        try:
            while more or running:
                for number in [n for n, process in running.items() if process.poll()]:
                    del running[number]
                    more, due = True, 0.0
                more = more and _start_trials(search, propose, slots, running)
                if time.monotonic() >= due:
                    store.heartbeat()
                    update([process.trial.number for process in running.values()])
                    due = time.monotonic() + _REFRESH_SECONDS
                time.sleep(_POLL_SECONDS)
        finally:
            end_trials(running.values())
    check_progress(search, store.trials())


def _start_trials(
    search: Search, propose: Proposer, slots: list[Slot], running: dict[int, TrialProcess]
) -> bool:
    """Start a trial in each free slot; return False if there is none to start.

    Args:
        search: the search.
        propose: see `proposer`.
        slots: all slots.
        running: the running trials by index of their slot; the started ones are added.
    """
    for number in range(len(slots)):
        if number in running:
            continue
        trial = search.store.claim(propose)
        if trial is None:
            return False
        running[number] = TrialProcess(search, trial, slots[number])
    return True


def proposer(search: Search, budget: Budget) -> Proposer:
    """Return a function from all trials so far to the next one, None if the budget is exhausted.

    The function raises the `UserError` of `check_progress`.
    """

    def propose(trials: list[Trial]) -> NewTrial | None:
        check_progress(search, trials)
        if budget.is_exhausted(search.store, trials):
            return None
        settings = search.settings
        if settings.baseline and not trials:  # trial 0 is the unchanged experiment
            return NewTrial({}, [])
        point = suggest(search.space, search.objective, settings.algorithm, settings.seed,
                        settings.startup_trials, trials)  # fmt: skip
        return NewTrial(point, search.space.overrides(point))

    return propose


def check_progress(search: Search, trials: list[Trial]) -> None:
    """Check that not every trial fails.

    Raises:
        UserError: at least three trials have ended, and all of them failed.
    """
    ended = [trial for trial in trials if trial.state != RUNNING]
    if len(ended) >= _MAX_FAILURES and all(trial.state == FAILED for trial in ended):
        raise UserError(
            f"All {len(ended)} trials failed. The last one failed with: {ended[-1].reason}\n"
            f"Its log is {search.log_path(ended[-1].number)}."
        )


def best_trial(search: Search, trials: list[Trial]) -> Trial | None:
    """Return the trial with the best objective, the earliest of equals; None without any."""
    succeeded = [trial for trial in trials if trial.succeeded]
    return min(succeeded, key=lambda t: search.objective.loss(t.value), default=None)


@contextlib.contextmanager
def _progress(search: Search, budget: Budget, shown: bool) -> Iterator[Callable[[list[int]], None]]:
    """Show the number of trials, the best one so far and the running ones.

    Args:
        search: the search.
        budget: the limits of the search.
        shown: whether to show them.

    Yields:
        A function that updates the progress, called with the numbers of the running trials.
    """

    def count_ended(trials: list[Trial]) -> int:
        return sum(trial.state != RUNNING for trial in trials)

    with console.progress(budget.trials, "searching", "trials", shown=shown, delay=0,
                          initial=count_ended(search.store.trials())) as bar:  # fmt: skip

        def update(running: list[int]) -> None:
            trials = search.store.trials()
            best = best_trial(search, trials)
            failed = sum(trial.state == FAILED for trial in trials)
            bar.set_note(", ".join(filter(None, [
                f"best {search.objective.title} {best.value:.4f} (trial {best.number})"
                if best else "",
                f"{failed} failed" if failed else "",
                f"running: trial {', '.join(map(str, running))}" if running else "",
            ])))  # fmt: skip
            bar.set_done(count_ended(trials))

        yield update
