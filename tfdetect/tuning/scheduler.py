"""Runs the trials of a search on this machine, several at once, until its budget is exhausted."""

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
_MAX_FAILURES = 3  # a search is ended if so many trials ran and all failed


def run_search(search: Search, budget: Budget, slots: list[Slot], progress: bool) -> None:
    """Run trials until the budget is exhausted; an interrupted search is continued.

    Args:
        search: the search.
        budget: its limits.
        slots: one for each trial that may run at once.
        progress: whether to show progress.

    Raises:
        UserError: the first trials all failed.
    """
    store = search.store
    running: dict[int, TrialProcess] = {}
    store.heartbeat()
    propose = proposer(search, budget)
    with _progress(search, budget, progress) as update:
        try:
            more, due = True, 0.0
            while more or running:
                for number in [n for n, process in running.items() if process.poll()]:
                    del running[number]
                    more, due = True, 0.0
                free = [number for number in range(len(slots)) if number not in running]
                while more and free:
                    if trial := store.claim(propose):
                        number = free.pop(0)
                        running[number] = TrialProcess(search, trial, slots[number])
                    else:
                        more = False
                if time.monotonic() >= due:
                    store.heartbeat()
                    update([process.trial.number for process in running.values()])
                    due = time.monotonic() + _REFRESH_SECONDS
                time.sleep(_POLL_SECONDS)
        finally:
            end_trials(running.values())
    check_progress(search, store.trials())


def proposer(search: Search, budget: Budget) -> Callable[[list[Trial]], NewTrial | None]:
    """Return a function from all trials so far to the next one; None if there is to be none."""

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
    """End a search whose trials all fail.

    Raises:
        UserError: at least three trials ended, and all failed.
    """
    ended = [trial for trial in trials if trial.state != RUNNING]
    if len(ended) >= _MAX_FAILURES and all(trial.state == FAILED for trial in ended):
        raise UserError(
            f"All of {len(ended)} trials failed. The last reason: {ended[-1].reason}\n"
            f"See {search.log_path(ended[-1].number)}."
        )


def best_trial(search: Search, trials: list[Trial]) -> Trial | None:
    """Return the trial with the best objective, the earliest of equals; None without any."""
    succeeded = [trial for trial in trials if trial.succeeded]
    return min(succeeded, key=lambda t: search.objective.loss(t.value), default=None)


@contextlib.contextmanager
def _progress(search: Search, budget: Budget, shown: bool) -> Iterator[Callable[[list[int]], None]]:
    """Show the number of trials, the best one so far and the running ones."""

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
