"""Check everything that a search needs, before its first trial."""

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import override
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.text import from_os
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import check_trainable
from tfdetect.data.folds import fold
from tfdetect.data.plan import Plan, experiment_of_dataset, find_data
from tfdetect.tuning.check_space import check_space
from tfdetect.tuning.objective import objective_named
from tfdetect.tuning.search_folder import SearchPlan, SearchSettings
from tfdetect.tuning.space import Space
from tfdetect.tuning.suggest import suggest


def make_search(space: Space, plan: Plan, settings: SearchSettings, by_space: bool) -> SearchPlan:
    """Return the plan of a search, after a check that space, experiment and data fit together.

    Args:
        space: what varies.
        plan: the experiment that is varied, and its dataset.
        settings: how the search works; `roots` and `fingerprint` are replaced by those of the data.
        by_space: whether the space names the experiment, not the user.

    Raises:
        UserError: the data cannot be found, or space, objective or settings do not fit the
            experiment or the data.
    """
    goal = objective_named(settings.objective)
    if goal.is_of_masks and plan.experiment.model.mask_head is None:
        raise UserError(
            f"The objective {goal.name} is a metric of masks, but the experiment "
            f"{plan.experiment.name} has no model.mask_head."
        )
    # Refuses unknown keys before the space is checked.
    override(plan.experiment, settings.trial_overrides)
    both = {text.partition("=")[0] for text in settings.trial_overrides} & {
        label.rpartition("/")[2] for label in space.labels()
    }
    if both:
        raise UserError(
            f"--trial-set {', '.join(sorted(both))}: the search space {space.name} varies this "
            "value, too. Remove it from --trial-set or from the space."
        )
    check_space(space, plan.experiment)
    chosen = _chosen_by_space(plan, space) if by_space else plan.chosen
    console.log(f"Experiment {plan.experiment.name} ({chosen}), dataset {plan.spec.name}")
    catalog = find_data(plan)
    _check_trials(space, plan.with_settings(settings.trial_overrides), catalog, settings.folds)
    settings = settings.model_copy(
        update={
            "objective": goal.name,
            "roots": {name: from_os(root) for name, root in catalog.roots.items()},
            "fingerprint": catalog.fingerprint(),
        }
    )
    return SearchPlan(settings, space, plan.experiment, plan.spec)


def _chosen_by_space(plan: Plan, space: Space) -> str:
    """Return who chose the experiment, and which one `train` would use if that is another one."""
    chosen = f"that of the space {space.name}"
    usual, _ = experiment_of_dataset(plan.spec, plan.folders, plan.data_dir)
    if usual == plan.experiment.name:
        return chosen
    return f"{chosen}; 'train' uses {usual} for these images: --experiment {usual}"


def _check_trials(space: Space, plan: Plan, catalog: Catalog, folds: int) -> None:
    """Check that trials can be trained: with the unchanged experiment, and with the varied ones.

    Args:
        space: what varies.
        plan: the plan of the trials.
        catalog: the dataset.
        folds: number of folds of the cross-validation; 1 for the validation split.

    Raises:
        UserError: the training of a trial would be refused.
    """
    import_tensorflow()
    from tfdetect.data.training_data import check_count
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
    check_space(space, plan.experiment, accept)


def example_overrides(plan: SearchPlan) -> list[list[str]]:
    """Return the overrides of five random points of a search's space."""
    objective, seed = objective_named(plan.settings.objective), plan.settings.seed
    points = (suggest(plan.space, objective, "random", seed + number, 0, []) for number in range(5))
    return [plan.space.overrides(point) for point in points]
