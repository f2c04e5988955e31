"""What a search found: trials.csv, report.html with figures, and a table for the terminal."""

import csv
import io
import math

import numpy as np
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from tabulate import tabulate

from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template
from tfdetect.tuning.scheduler import best_trial
from tfdetect.tuning.settings import Search
from tfdetect.tuning.space import Parameter, grid_value
from tfdetect.tuning.store import FAILED, STOPPED, Trial

_BLUE, _GRAY, _RED = "#2166ac", "#888888", "#b2182b"
_ENOUGH = 10  # trials for a forest that says anything
_RANKED = 10  # trials in the terminal's table

_PAGE = template(
    """<p>{{ trials }} trials of the space {{ search.space.name }} on the experiment
{{ search.experiment.name }} and the dataset {{ search.spec.name }};
objective: {{ objective }} of {{ where }}, {{ "highest" if maximized else "lowest" }} is best.
{{ stopped }} were stopped early (rule: {{ search.settings.prune }}), {{ failed }} failed.
Suggestions by {{ search.settings.algorithm }}, seed {{ search.settings.seed }}.</p>
{% if trial_set %}<p>In the trials alone: {{ trial_set }}.</p>{% endif %}
<p class="warning">The best of many trials looks better on validation than it is: its interval is
of the images, not of the choice. Judge the retrained run by its test split.</p>
<h2>Ranking</h2>
{{ ranking }}
<small>Brackets: {{ bracket }}. Above the line that says so, a trial's interval overlaps that of the
best: they cannot be told apart.</small>
<h2>What it looked like</h2>
{{ figures(drawn) }}
{% if importance %}<h2>What mattered</h2>
{{ importance }}
<small>How much a random forest's prediction of the objective suffers when a parameter is shuffled
(permutation importance, out of bag R2 {{ r2 }}). With few trials, or an R2 near 0, it says
little.</small>{% endif %}
{% if failures %}<h2>Failed trials</h2>
{{ failures }}{% endif %}
<h2>The best experiment</h2>
<pre>{{ yaml }}</pre>
"""
)


def summary(search: Search, trials: list[Trial]) -> str:
    """The best trials, what was changed, and what to do next."""
    headers, rows = _ranking(search, trials)
    lines = [tabulate(rows[:_RANKED], headers, disable_numparse=True)]
    failed = [t for t in trials if t.state == FAILED]
    if failed:
        lines.append(
            f"{len(failed)} failed; the last (trial {failed[-1].number}): {failed[-1].reason}"
        )
    best = best_trial(search, trials)
    lines += [
        f"\nbest: trial {best.number}, {_changes(search, best) if best.point else 'unchanged'}",
        f"report {search.folder / 'report.html'}",
        f"train it: python -m tfdetect.train --experiment {search.folder / 'best.yaml'}",
    ]
    return "\n".join(lines)


def write_report(search: Search, trials: list[Trial]) -> None:
    """Writes trials.csv, figures/ and report.html."""
    write_text(search.folder / "trials.csv", _csv(search, trials))
    folder = search.folder / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    done = [t for t in trials if t.ended_well]
    drawn = [("history", _history(search, trials)), ("curves", _curves(search, trials))]
    sampled = [t for t in done if t.point]
    if sampled:
        drawn += [("parallel_coordinates", _parallel(search, sampled)),
                  ("slices", _slices(search, sampled))]  # fmt: skip
    importance, r2 = _importance(search, sampled)
    failed = [t for t in trials if t.state == FAILED]
    page = _PAGE.render(
        title=search.folder.name, search=search, trials=len(trials),
        objective=search.settings.objective, maximized=search.objective.maximized,
        where="validation" if search.settings.folds == 1 else f"{search.settings.folds} folds",
        stopped=sum(t.state == STOPPED for t in trials), failed=len(failed),
        trial_set=", ".join(search.settings.for_trials),
        ranking=html_table(*_ranking(search, trials)),
        bracket="95% bootstrap interval over validation images" if search.settings.folds == 1
        else "95% interval of the mean over folds",
        drawn=[(name, save_figure(figure, folder / f"{name}.png")) for name, figure in drawn],
        importance=importance and html_table(["parameter", "importance"], importance),
        r2="-" if r2 is None else f"{r2:.2f}",
        failures=failed
        and html_table(["trial", "why"], [[str(t.number), t.reason] for t in failed]),
        yaml=(search.folder / "best.yaml").read_text(encoding="utf-8"),
    )  # fmt: skip
    write_text(search.folder / "report.html", page)


def _ranking(search: Search, trials: list[Trial]) -> tuple[list[str], list[list[str]]]:
    """The trials from the best on, a line below those that cannot be told from it."""
    done = sorted(
        (t for t in trials if t.ended_well), key=lambda t: search.objective.loss(t.objective)
    )
    rows, apart = [], False
    for trial in done:
        if not apart and _worse(search, trial, done[0]):
            rows.append(["", "worse than the best", "", "", ""])
            apart = True
        value = f"{trial.objective:.4f} [{trial.low:.4f}, {trial.high:.4f}]"
        text = _changes(search, trial) if trial.point else "the experiment unchanged"
        early = " (stopped)" if trial.state == STOPPED else ""
        rows.append([str(trial.number), value, f"{trial.epochs}{early}", f"{trial.seconds:.0f}",
                     text])  # fmt: skip
    return ["trial", search.settings.objective, "epochs", "seconds", "changed"], rows


def _changes(search: Search, trial: Trial) -> str:
    """What a trial changed, in short; best.yaml has it whole."""
    found = search.space.chosen(trial.point)
    return ", ".join(
        f"{key.rpartition('.')[2]} {value:.3g}" if isinstance(value, float)
        else f"{key.rpartition('.')[2]} {value}"
        for key, value in found
    )  # fmt: skip


def _worse(search: Search, trial: Trial, best: Trial) -> bool:
    if search.objective.maximized:
        return trial.high < best.low
    return trial.low > best.high


def _csv(search: Search, trials: list[Trial]) -> str:
    labels = search.space.labels()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", search.settings.objective, "low", "high", "epochs", "seconds",
                    *labels, "reason"])  # fmt: skip
    for t in trials:
        values = [_value(labels[label], t.point[label]) if t.point and label in t.point else ""
                  for label in labels]  # fmt: skip
        table.writerow([t.number, t.state, t.objective, t.low, t.high, t.epochs, t.seconds, *values,
                        t.reason])  # fmt: skip
    return text.getvalue()


def _value(parameter: Parameter, raw: float):
    """The value that the experiment gets."""
    if parameter.choice is not None:
        return parameter.choice[int(raw)].value
    return grid_value(parameter, raw)


def _history(search: Search, trials: list[Trial]) -> Figure:
    """Objective by trial, with the best so far."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    done = [t for t in trials if t.ended_well]
    for state, marker, color in (("complete", "o", _BLUE), (STOPPED, "x", _GRAY)):
        some = [t for t in done if t.state == state]
        if some:
            values = np.array([(t.objective, t.low, t.high) for t in some])
            numbers = [t.number for t in some]
            axes.vlines(numbers, values[:, 1], values[:, 2], color=color, alpha=0.3)
            axes.plot(numbers, values[:, 0], marker, color=color, markersize=4,
                      label="stopped early" if state == STOPPED else state)  # fmt: skip
    sign = 1 if search.objective.maximized else -1
    best = sign * np.maximum.accumulate([sign * t.objective for t in done])
    axes.step([t.number for t in done], best, where="post", color=_RED, label="best so far")
    if done and done[0].point is None:
        axes.axhline(done[0].objective, color=_GRAY, linestyle=":", label="unchanged")
    axes.set(xlabel="trial", ylabel=search.settings.objective, title="History")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.2)
    return figure


def _curves(search: Search, trials: list[Trial]) -> Figure:
    """The monitored value of validation, epoch by epoch."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    best, curves = best_trial(search, trials), search.store.curves()
    for trial in trials:
        curve = curves.get(trial.number, [])
        color = _RED if trial == best else _GRAY if trial.state == STOPPED else _BLUE
        axes.plot(range(1, len(curve) + 1), curve, color=color, zorder=2 if trial == best else 1,
                  alpha=1 if trial == best else 0.4, marker=".")  # fmt: skip
    axes.set(xlabel="epoch", ylabel=search.experiment.training.monitor,
             title="Validation; red: the best, gray: stopped early")  # fmt: skip
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.2)
    return figure


def _places(parameter: Parameter, raw: list[float | None]) -> np.ndarray:
    """Where values lie on their axis, 0 to 1; -0.1 where the parameter does not exist."""
    if parameter.choice is not None:
        most = max(1, len(parameter.choice) - 1)
        return np.array([-0.1 if v is None else v / most for v in raw])
    scale = math.log if parameter.log_uniform else float
    low, high = map(scale, parameter.range)
    return np.array(
        [-0.1 if v is None else (scale(grid_value(parameter, v)) - low) / (high - low) for v in raw]
    )


def _parallel(search: Search, trials: list[Trial]) -> Figure:
    """One line a trial through all its parameters; the better, the darker."""
    labels = search.space.labels()
    losses = np.array([search.objective.loss(t.objective) for t in trials])
    ranks = np.argsort(np.argsort(losses)) / max(1, len(trials) - 1)
    columns = [_places(p, [t.point.get(label) for t in trials]) for label, p in labels.items()]
    lines = np.stack([*columns, 1 - ranks], axis=1)
    figure = Figure(figsize=(max(6.4, 1.3 * lines.shape[1]), 4.4), layout="constrained")
    axes = figure.add_subplot()
    for place in np.argsort(-ranks):
        axes.plot(lines[place], color=_RED if ranks[place] == 0 else _BLUE,
                  alpha=1 if ranks[place] == 0 else 0.15 + 0.5 * (1 - ranks[place]))  # fmt: skip
    for place, parameter in enumerate(labels.values()):
        axes.axvline(place, color=_GRAY, linewidth=0.5)
        if parameter.choice is not None:
            most = max(1, len(parameter.choice) - 1)
            marks = [(n / most, str(o.value)[:14]) for n, o in enumerate(parameter.choice)]
        else:
            marks = [(0, f"{parameter.range[0]:g}"), (1, f"{parameter.range[1]:g}")]
        for height, text in marks:
            axes.annotate(
                text, (place, height), fontsize=6, xytext=(2, 2), textcoords="offset points"
            )
    names = [_short(label) for label in labels]
    axes.set_xticks(range(len(names) + 1), [*names, "rank"], rotation=35, ha="right", fontsize=7)
    axes.set_yticks([])
    axes.set_title("Parallel coordinates; red: the best", fontsize=10)
    return figure


def _slices(search: Search, trials: list[Trial]) -> Figure:
    """The objective over each parameter by itself."""
    labels = search.space.labels()
    columns = min(4, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.6 * lines), layout="constrained")
    for place, (label, parameter) in enumerate(labels.items(), 1):
        axes = figure.add_subplot(lines, columns, place)
        some = [t for t in trials if label in t.point]
        values = [t.objective for t in some]
        if parameter.choice is not None:
            axes.plot(
                [t.point[label] for t in some], values, "o", color=_BLUE, markersize=3, alpha=0.6
            )
            names = [str(option.value)[:10] for option in parameter.choice]
            axes.set_xticks(range(len(names)), names, fontsize=6, rotation=20)
            axes.set_xlim(-0.5, len(names) - 0.5)
        else:
            numbers = [grid_value(parameter, t.point[label]) for t in some]
            axes.plot(numbers, values, "o", color=_BLUE, markersize=3, alpha=0.6)
            if parameter.log_uniform:
                axes.set_xscale("log")
            axes.set_xlim(*parameter.range)
        axes.set_title(_short(label), fontsize=8)
        axes.tick_params(which="both", labelsize=6)
        axes.grid(alpha=0.2)
    return figure


def _short(label: str) -> str:
    """A label's last part, with the options it depends on."""
    *options, key = label.split("/")
    name = ".".join(key.split(".")[-2:])
    return f"{name} ({', '.join(o.rpartition('.')[2] for o in options)})" if options else name


def _importance(search: Search, trials: list[Trial]) -> tuple[list[list[str]], float | None]:
    """Parameters by their importance in a random forest, and how well it predicts."""
    if len(trials) < _ENOUGH:
        return [], None
    labels = search.space.labels()
    inputs = np.stack(
        [_places(p, [t.point.get(label) for t in trials]) for label, p in labels.items()], axis=1
    )
    values = np.array([t.objective for t in trials])
    forest = RandomForestRegressor(300, min_samples_leaf=2, oob_score=True, random_state=0)
    forest.fit(inputs, values)
    found = permutation_importance(forest, inputs, values, n_repeats=20, random_state=0)
    order = np.argsort(-found.importances_mean)
    rows = [
        [list(labels)[i], f"{found.importances_mean[i]:.3f} ± {found.importances_std[i]:.3f}"]
        for i in order
    ]
    return rows, float(forest.oob_score_)
