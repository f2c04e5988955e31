"""Write the report of a search: trials.csv, report.html with figures, and a terminal summary."""

from pathlib import Path

from markupsafe import Markup

from tfdetect.core import console, html
from tfdetect.core.files import csv_text, merged, write_text
from tfdetect.core.text import counted
from tfdetect.training.monitor import monitor_of
from tfdetect.tuning import search_figures
from tfdetect.tuning.importance import parameter_importance
from tfdetect.tuning.parameter import describe_value
from tfdetect.tuning.scheduler import best_trial
from tfdetect.tuning.search_folder import Search
from tfdetect.tuning.store import FAILED, PRUNED, Trial

_TERMINAL_ROWS = 10
_CHANGED = "changed values"  # a column of the ranking


def format_summary(search: Search, trials: list[Trial]) -> str:
    """Return a text for the terminal: the best trials, what they changed, and what failed."""
    columns, rows = _ranking(search, trials)
    best = _best(search, trials)
    changed = _describe(search, best) if best.point else "the unchanged experiment"
    lines = [
        f"best: trial {best.number} ({changed}), {search.objective.title} {_interval(best)} on "
        f"{_validation(search)}",
        "",
        console.format_table(rows[:_TERMINAL_ROWS], columns, max_widths={_CHANGED: 60}),
    ]
    failed = [trial for trial in trials if trial.state == FAILED]
    if failed:
        last = failed[-1]
        lines += [
            "",
            f"{counted(len(failed), 'trial')} failed; the last one, trial {last.number}, with: "
            f"{last.reason}",
        ]
    return "\n".join(lines)


def write_report(search: Search, trials: list[Trial], best: str) -> None:
    """Write best.yaml, trials.csv, figures/ and report.html.

    Args:
        search: the search.
        trials: the trials of the search.
        best: the best experiment, the content of best.yaml.
    """
    with merged(search.folder) as new:
        (new / "figures").mkdir()
        write_text(new / "best.yaml", best)
        write_text(new / "trials.csv", _csv(search, trials))
        write_text(new / "report.html", _page(search, trials, best, new / "figures"))


def _page(search: Search, trials: list[Trial], document: str, figures: Path) -> str:
    """Return report.html.

    Args:
        search: the search.
        trials: its trials.
        document: the content of best.yaml.
        figures: the folder for the figures.
    """
    best, objective = _best(search, trials), search.objective
    failed = [trial for trial in trials if trial.state == FAILED]
    settings = search.settings
    baseline = next((t for t in trials if t.succeeded and not t.point), None)
    cards = [
        html.Card(f"{best.value:.4f}", f"best {objective.title}, {_validation(search)}",
                  f"95% interval {best.low:.4f} to {best.high:.4f}"),
        *([html.Card(f"{baseline.value:.4f}", f"{objective.title} of the unchanged experiment",
                     f"95% interval {baseline.low:.4f} to {baseline.high:.4f}")]
          if baseline else []),
        html.Card(f"{len(trials)}", "trials",
                  f"{sum(t.state == PRUNED for t in trials)} pruned, {len(failed)} failed"),
        html.Card(f"{sum(t.epochs for t in trials):,}", "epochs trained",
                  f"in {sum(t.seconds for t in trials) / 60:,.0f} minutes"),
    ]  # fmt: skip
    notes = [html.note(
        "The best of many trials looks better on validation than it is, because it was selected "
        "there: its interval covers the choice of images, not the choice of the trial. Train the "
        "best experiment, and judge the run by its results on the test split."
    )]  # fmt: skip
    if settings.trial_overrides:
        notes.append(html.note(
            f"Values of the trials only, which the best experiment does not contain: "
            f"{', '.join(settings.trial_overrides)}.", "neutral",
        ))  # fmt: skip
    direction = "highest" if objective.direction == "max" else "lowest"
    return html.render_page(
        f"Search {search.folder.name}",
        [
            html.Section("Ranking of trials", _ranking_section(search, trials)),
            html.Section("Best experiment", html.join(
                html.text(f"Train it with: {search.train_command}"),
                html.details("best.yaml", html.code(document)),
            )),
            html.Section("History and learning curves", _history(search, trials, figures)),
            html.Section("Influence of the parameters", _parameters(search, trials, figures)),
            html.Section("Failed trials", html.table(
                ["trial", "reason"], [[str(t.number), t.reason or ""] for t in failed]
            )),
        ],
        subtitle=f"Search space {search.space.name}, experiment {search.experiment.name}, dataset "
        f"{search.spec.name}; algorithm {settings.algorithm}, seed {settings.seed}, pruning rule "
        f"{settings.prune}",
        verdict=html.Verdict(
            f"Best: trial {best.number}, {objective.title} {best.value:.4f}",
            [_describe(search, best) if best.point else "The unchanged experiment.",
             f"The {direction} {objective.title} is the best. "
             f"{_significance(search, baseline, best)}"],
            "neutral",
        ),
        cards=cards,
        notes=notes,
        footer="Full data: trials.csv and search.sqlite.",
    )  # fmt: skip


def _best(search: Search, trials: list[Trial]) -> Trial:
    """Return the best trial of a search in which one succeeded."""
    best = best_trial(search, trials)
    assert best is not None
    return best


def _validation(search: Search) -> str:
    """Return the images that trials are measured on, in words."""
    folds = search.settings.folds
    return "validation" if folds == 1 else f"{folds} folds"


def _ranking_section(search: Search, trials: list[Trial]) -> Markup:
    """Return the table of trials with its explanation."""
    interval = (
        "95% intervals over validation images" if search.settings.folds == 1
        else "95% intervals of the mean over folds"
    )  # fmt: skip
    columns, rows = _ranking(search, trials)
    none_worse = "" if "worse than the best" in columns else "Here no trial is worse."
    return html.join(
        html.text(
            f"Brackets: {interval}. A trial is significantly worse than the best one if their "
            "intervals do not overlap; the other trials cannot be distinguished from the best one. "
            f"{none_worse}".rstrip()
        ),
        html.table(columns, rows),
    )


def _ranking(search: Search, trials: list[Trial]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the table of trials, the best trial first."""
    ranked = sorted(
        (t for t in trials if t.succeeded), key=lambda t: search.objective.loss(t.value)
    )
    rows, worse = [], [_is_worse(search, trial, ranked[0]) for trial in ranked]
    for trial, is_worse in zip(ranked, worse):
        changed = _describe(search, trial) if trial.point else "the unchanged experiment"
        pruned = " (pruned)" if trial.state == PRUNED else ""
        told = ["significantly" if is_worse else ""] if any(worse) else []
        rows.append([str(trial.number), _interval(trial), changed, *told,
                     f"{trial.epochs}{pruned}", f"{trial.seconds:.0f}"])  # fmt: skip
    told = ["worse than the best"] if any(worse) else []
    return ["trial", search.objective.title, _CHANGED, *told, "epochs", "seconds"], rows


def _interval(trial: Trial) -> str:
    """Return the objective of a trial and its interval as text."""
    return "{:.4f} [{:.4f}, {:.4f}]".format(*trial.interval)


def _describe(search: Search, trial: Trial) -> str:
    """Return the values that a trial changed, in short."""
    return ", ".join(
        f"{key.partition('.')[2] or key} {describe_value(value)}"
        for key, value in search.space.chosen(trial.point)
    )


def _significance(search: Search, baseline: Trial | None, best: Trial) -> str:
    """Return whether the best trial differs from the unchanged experiment."""
    if baseline is None or baseline == best:
        return ""
    if _is_worse(search, baseline, best):
        return "It is significantly better than the unchanged experiment."
    return "The difference from the unchanged experiment is not significant."


def _is_worse(search: Search, trial: Trial, best: Trial) -> bool:
    """Return whether a trial's interval lies on the worse side of that of the best trial."""
    (_, low, high), (_, best_low, best_high) = trial.interval, best.interval
    return high < best_low if search.objective.direction == "max" else low > best_high


def _history(search: Search, trials: list[Trial], folder: Path) -> Markup:
    """Return the figures of the objective by trial and of the learning curves.

    Trials of one epoch have no curves.
    """
    name = search.objective.title
    monitor = monitor_of(search.experiment.training).title
    pictures = [html.picture_of(
        search_figures.history(search, trials),
        f"Scatter plot of {name} by trial, with the best value so far.",
        "Objective by trial", path=folder / "history.png",
    )]  # fmt: skip
    if max(map(len, search.store.curves().values()), default=0) > 1:
        pictures.append(html.picture_of(
            search_figures.learning_curves(search, trials),
            f"Line chart of the validation {monitor} by epoch, one line per trial.",
            "Learning curves", "Red: the best trial. Gray: pruned trials.",
            path=folder / "curves.png",
        ))  # fmt: skip
        return html.figures(pictures)
    return html.join(
        html.figures(pictures),
        html.text("No trial trained more than one epoch, so there are no learning curves."),
    )


def _parameters(search: Search, trials: list[Trial], folder: Path) -> Markup:
    """Return figures and importance of the parameters; nothing if no trial varied them."""
    sampled = [trial for trial in trials if trial.succeeded and trial.point]
    if not sampled:
        return Markup("")
    name = search.objective.title
    slices = html.picture_of(
        search_figures.slices(search, sampled),
        f"Scatter plots of {name} over each parameter.",
        f"{name} by parameter",
        path=folder / "slices.png",
    )
    parallel = html.picture_of(
        search_figures.parallel_coordinates(search, sampled),
        "Parallel coordinates: one line per trial through the values of its parameters.",
        "Parallel coordinates", "Red: the best trial. The darker a line, the better the trial.",
        path=folder / "parallel_coordinates.png",
    )  # fmt: skip
    importance = parameter_importance(search, sampled)
    parts = [html.figures([slices, parallel], "wide")]
    if importance is not None:
        parts += [
            html.heading("Parameter importance"),
            html.table(["parameter", "importance", "standard deviation"], importance.rows),
            html.text(
                "Permutation importance: by how much the R2 of a random forest that predicts the "
                "objective decreases if the values of the parameter are shuffled. The out-of-bag "
                f"R2 of the forest is {importance.r2:.2f}. With few trials or an R2 near 0 the "
                "importance is unreliable.", small=True,
            ),
        ]  # fmt: skip
    return html.join(*parts)


def _csv(search: Search, trials: list[Trial]) -> str:
    """Return trials.csv, with the values of the experiment that each trial has."""
    labels = search.space.labels()
    columns = ["trial", "state", search.objective.name, "low", "high", "epochs", "seconds",
               *labels, "reason"]  # fmt: skip
    rows = []
    for t in trials:
        values = [parameter.experiment_value(t.point[label]) if label in t.point else ""
                  for label, parameter in labels.items()]  # fmt: skip
        rows.append([t.number, t.state, t.objective, t.low, t.high, t.epochs, t.seconds, *values,
                     t.reason])  # fmt: skip
    return csv_text(rows, columns)
