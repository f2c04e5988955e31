"""Resolves and checks everything that a search needs before its first trial."""

from pathlib import Path
from typing import Any

from tfdetect.core import console
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import override
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.text import from_os
from tfdetect.data.catalog import Catalog, check_trainable, fold
from tfdetect.data.plan import Plan, experiment_of_dataset, find_data, make_plan
from tfdetect.tuning.objective import default_objective, objective_named
from tfdetect.tuning.search_folder import SearchPlan, SearchSettings
from tfdetect.tuning.space import Space, load_space
from tfdetect.tuning.suggest import suggest


def make_search(
    space: str,
    dataset: str | None,
    experiment: str | None,
    overrides: list[str],
    data_dir: Path | None,
    authentic: str | None,
    model: str | None,
    objective: str | None = None,
    **settings: Any,
) -> SearchPlan:
    """Resolve names and check that space, experiment and data fit together.

    Args:
        space: name or file of a search space.
        dataset, experiment, overrides, data_dir, authentic, model: see `make_plan`; by default
            the experiment is that of the space.
        objective: a metric of validation; by default what the experiment monitors.
        settings: the other fields of `SearchSettings`.

    Raises:
        UserError: an unknown name, or a space that does not fit the experiment.
    """
    found = load_space(space)
    plan = make_plan(
        dataset, experiment or (None if model else found.experiment), overrides, data_dir,
        authentic, model,
    )  # fmt: skip
    goal = objective_named(objective) if objective else default_objective(plan.experiment)
    if goal.is_of_masks and plan.experiment.model.mask_head is None:
        raise UserError(
            f"The objective {goal.name} is a metric of masks, but the experiment "
            f"{plan.experiment.name} has no model.mask_head."
        )
    trial_overrides = list(settings.get("trial_overrides", ()))
    override(plan.experiment, trial_overrides)  # refuses unknown keys before the space is checked
    both = {text.partition("=")[0] for text in trial_overrides} & {
        label.rpartition("/")[2] for label in found.labels()
    }
    if both:
        raise UserError(
            f"--trial-set {', '.join(sorted(both))}: the search space {found.name} varies this "
            "value. Remove it from one of the two."
        )
    found.check(plan.experiment)
    console.log(
        f"Experiment {plan.experiment.name} ({_choice(plan, found, experiment, model)}), dataset "
        f"{plan.spec.name}"
    )
    catalog = find_data(plan)
    _check(found, plan.with_settings(trial_overrides), catalog, settings.get("folds", 1))
    resolved = validate(
        SearchSettings,
        {
            **settings,
            "objective": goal.name,
            "roots": {name: from_os(root) for name, root in catalog.roots.items()},
            "fingerprint": catalog.fingerprint(),
        },
        "the settings of the search",
    )
    return SearchPlan(resolved, found, plan.experiment, plan.spec)


def _choice(plan: Plan, space: Space, experiment: str | None, model: str | None) -> str:
    """Return how the experiment was chosen, and which one `train` takes, where that is another.

    Args:
        plan: the plan with the experiment.
        space: the search space.
        experiment, model: what the user named.
    """
    if experiment or model or not space.experiment:
        return plan.chosen
    chosen = f"that of the space {space.name}"
    usual, _ = experiment_of_dataset(plan.spec, plan.folders, plan.data_dir)
    if usual == plan.experiment.name:
        return chosen
    return f"{chosen}; 'train' takes {usual} for these images: --experiment {usual}"


def _check(space: Space, plan: Plan, catalog: Catalog, folds: int) -> None:
    """Check that trials can be trained: as they are, and with what the space varies.

    Args:
        space: what varies.
        plan: the plan of the trials.
        catalog: the dataset.
        folds: the number of folds of the cross-validation.

    Raises:
        UserError: the training of a trial would be refused.
    """
    import_tensorflow()
    from tfdetect.data.training_stream import check_count
    from tfdetect.training.check_training import check_experiment, check_training

    classes = len(plan.spec.class_names)
    check_training(plan.experiment, classes, catalog)
    images = catalog.split("train").num_rows
    for number in range(folds if folds > 1 else 0):
        part = fold(catalog, folds, number)
        images = min(images, part.split("train").num_rows)
        try:
            check_trainable(plan.spec, part, plan.experiment.training.monitor)
        except UserError as error:
            raise UserError(
                f"--folds {folds} is too many for these data. Fold {number + 1}: {error}"
            ) from None

    def accept(varied: Experiment) -> None:
        check_experiment(varied, classes)
        check_count(images, varied.training.batch_size)

    accept(plan.experiment)
    space.check(plan.experiment, accept)


def example_overrides(plan: SearchPlan) -> list[list[str]]:
    """Return the overrides of five random points of a search's space."""
    objective, seed = objective_named(plan.settings.objective), plan.settings.seed
    points = (suggest(plan.space, objective, "random", seed + number, 0, []) for number in range(5))
    return [plan.space.overrides(point) for point in points]
