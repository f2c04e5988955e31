"""Draw the figures of the report of a search."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfdetect.training.monitor import monitor_of
from tfdetect.tuning.importance import MISSING, axis_positions
from tfdetect.tuning.parameter import Parameter, describe_value
from tfdetect.tuning.scheduler import best_trial
from tfdetect.tuning.search_folder import Search
from tfdetect.tuning.store import COMPLETE, PRUNED, Trial

_BLUE, _GRAY, _RED = "#2166ac", "#888888", "#b2182b"


def history(search: Search, trials: list[Trial]) -> Figure:
    """Draw the objective by trial, with the best value so far."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    done = [trial for trial in trials if trial.succeeded]
    for state, marker, color in ((COMPLETE, "o", _BLUE), (PRUNED, "x", _GRAY)):
        some = [trial for trial in done if trial.state == state]
        if some:
            values = np.array([t.interval for t in some], float)
            numbers = [t.number for t in some]
            axes.vlines(numbers, values[:, 1], values[:, 2], color=color, alpha=0.3)
            axes.plot(numbers, values[:, 0], marker, color=color, markersize=4, label=state)
    sign = 1 if search.objective.direction == "max" else -1
    best = sign * np.maximum.accumulate([sign * t.value for t in done])
    axes.step([t.number for t in done], best, where="post", color=_RED, label="best so far")
    if done and not done[0].point:
        axes.axhline(done[0].value, color=_GRAY, linestyle=":", label="unchanged experiment")
    axes.set(xlabel="trial", ylabel=search.objective.title)
    _whole_numbers(axes, [t.number for t in done])
    axes.grid(alpha=0.2)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def learning_curves(search: Search, trials: list[Trial]) -> Figure:
    """Draw the monitored validation metric by epoch, one line per trial."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    best, curves = best_trial(search, trials), search.store.curves()
    for trial in trials:
        curve = curves.get(trial.number, [])
        color = _RED if trial == best else _GRAY if trial.state == PRUNED else _BLUE
        axes.plot(range(1, len(curve) + 1), curve, color=color, zorder=2 if trial == best else 1,
                  alpha=1 if trial == best else 0.4, marker=".")  # fmt: skip
    axes.set(xlabel="epoch", ylabel=f"validation {monitor_of(search.experiment.training).title}")
    _whole_numbers(axes, [1, *map(len, curves.values())])
    axes.grid(alpha=0.2)
    return figure


def _whole_numbers(axes: Axes, values: list[int]) -> None:
    """Let the horizontal axis have ticks at whole numbers alone, also where there is one value."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(min(values) - 0.5, max(values) + 0.5)


def parallel_coordinates(search: Search, trials: list[Trial]) -> Figure:
    """Draw one line per trial through the values of all parameters; better trials are darker.

    Args:
        search: the search.
        trials: its trials that succeeded and have a point, which the unchanged experiment lacks.
    """
    labels = search.space.labels()
    losses = np.array([search.objective.loss(t.value) for t in trials])
    ranks = np.argsort(np.argsort(losses)) / max(1, len(trials) - 1)
    columns = [axis_positions(p, [t.point.get(label) for t in trials])
               for label, p in labels.items()]  # fmt: skip
    lines = np.stack([*columns, 1 - ranks], axis=1)
    figure = Figure(figsize=(max(6.4, 1.1 * lines.shape[1]), 5), layout="constrained")
    axes = figure.add_subplot()
    for row in np.argsort(-ranks):
        is_best = ranks[row] == 0
        axes.plot(lines[row], color=_RED if is_best else _BLUE,
                  alpha=1 if is_best else 0.15 + 0.5 * (1 - ranks[row]))  # fmt: skip
    for column, parameter in enumerate(labels.values()):
        axes.axvline(column, color=_GRAY, linewidth=0.5)
        for height, text in _ticks(parameter):
            axes.annotate(text, (column, height), fontsize=8, xytext=(3, 2),
                          textcoords="offset points",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    names = [_short_label(label) for label in labels]
    axes.set_xticks(range(len(names) + 1), [*names, "rank"], rotation=30, ha="right", fontsize=9)
    axes.set(yticks=[], ylim=(MISSING - 0.05, 1.1))
    return figure


def slices(search: Search, trials: list[Trial]) -> Figure:
    """Draw the objective over each parameter.

    Args:
        search: the search.
        trials: its trials that succeeded and have a point, which the unchanged experiment lacks.
    """
    labels = search.space.labels()
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.7 * rows), layout="constrained")
    for position, (label, parameter) in enumerate(labels.items(), 1):
        axes = figure.add_subplot(rows, columns, position)
        _slice(axes, parameter, label, [t for t in trials if label in t.point])
    return figure


def _slice(axes: Axes, parameter: Parameter, label: str, trials: list[Trial]) -> None:
    """Draw the objective of trials over one parameter."""
    if parameter.choice is not None:
        values = [t.point[label] for t in trials]
        names = [describe_value(option.value)[:12] for option in parameter.choice]
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=20)
        axes.set_xlim(-0.5, len(names) - 0.5)
    else:
        values = [parameter.grid_value(t.point[label]) for t in trials]
        if parameter.log_uniform:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(*parameter.range)
    axes.plot(values, [t.value for t in trials], "o", color=_BLUE, markersize=4, alpha=0.6)
    axes.set_title(_short_label(label), fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.2)


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    """Return the positions and texts of the ticks on the axis of a parameter."""
    if parameter.choice is None:
        return [(0, f"{parameter.range[0]:g}"), (1, f"{parameter.range[1]:g}")]
    last = max(1, len(parameter.choice) - 1)
    return [
        (n / last, describe_value(option.value)[:16]) for n, option in enumerate(parameter.choice)
    ]


def _short_label(label: str) -> str:
    """Return the last part of a label, with the options that it depends on."""
    *options, key = label.split("/")
    name = ".".join(key.split(".")[-2:])
    return f"{name} ({', '.join(o.rpartition('.')[2] for o in options)})" if options else name
