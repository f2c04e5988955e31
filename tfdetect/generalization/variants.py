"""Compares variants of an experiment: trained with the same seeds, measured on the same images."""

from collections.abc import Sequence

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan
from tfdetect.evaluation.intervals import bootstrap, may_be_chance
from tfdetect.evaluation.metrics import binary_metrics
from tfdetect.generalization.measure_matrix import test_scores
from tfdetect.generalization.study_remarks import variants_remarks
from tfdetect.generalization.study_results import VariantResult, VariantsResult

METRICS = ("balanced_accuracy", "auc", "accuracy")


def split_variants(vary: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings of each variant, by its name.

    Args:
        vary: one KEY=A,B,... for a variant for each value; or several texts, each the settings of
            one variant, KEY=VALUE joined by ";", with or without "NAME: " before them. Without it
            the settings are the name.

    Raises:
        UserError: there are fewer than two variants, or one is named twice.
    """
    if not vary:
        raise UserError(
            "There is nothing to compare: --vary is missing. It names a setting and its values, "
            "for example --vary model.front_end=dct,spectrum, or is given once for each variant: "
            '--vary "plain: data.augment=[]" --vary "JPEG: data.augment=[flip,jpeg]".'
        )
    if len(vary) == 1 and "=" in vary[0]:
        key, _, values = vary[0].partition("=")
        texts = [f"{key}={value.strip()}" for value in values.split(",")]
    else:
        texts = list(vary)
    found = {}
    for text in texts:
        name, colon, settings = text.partition(":")
        if not colon or "=" in name or not name.strip():
            name = settings = text
        found[name.strip()] = [part.strip() for part in settings.split(";")]
    if len(found) < 2 or len(found) < len(texts):
        raise UserError(
            "Give two variants or more, each once: --vary model.front_end=dct,spectrum, or --vary "
            f"several times. Received: {', '.join(vary)}."
        )
    return found


def plan_variants(
    plan: Plan, variants: dict[str, list[str]], seeds: Sequence[int]
) -> dict[str, tuple[str, int, Plan]]:
    """Return variant, seed and plan of each training, by its name.

    Raises:
        UserError: a setting is unknown or not allowed.
    """
    return {
        f"{name} seed {seed}": (
            name, seed,
            plan.with_settings([*settings, f"seed={seed}"]),
        )
        for name, settings in variants.items() for seed in seeds
    }  # fmt: skip


def measure_variants(
    plan: Plan,
    settings: dict[str, list[str]],
    trainings: dict[str, tuple[str, int, Plan]],
    runs: dict[str, Run],
    catalog: Catalog,
) -> VariantsResult:
    """Measure variants on the test split, and how they differ from the first one.

    Args:
        plan: the plan that the variants change.
        settings: the settings of each variant, from `split_variants`.
        trainings: the trainings from `plan_variants`.
        runs: the runs of the same names.
        catalog: the images.
    """
    scores = {name: test_scores(run, catalog) for name, run in runs.items()}
    readable = np.isfinite([p for p, _ in scores.values()]).all(axis=0)
    fake = catalog.split("test")["label"].to_numpy()[readable] > 0
    of_run = {}
    for name, run in runs.items():
        p, ranks = (values[readable] for values in scores[name])
        of_run[name] = binary_metrics(fake, p, run.threshold, ranks=ranks)
    names = list(settings)
    members = {name: [key for key, (own, _, _) in trainings.items() if own == name]
               for name in names}  # fmt: skip

    def means(weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        each = {key: metrics(weights) for key, metrics in of_run.items()}
        return {
            (name, metric): np.mean([each[key][metric] for key in members[name]], axis=0)
            for name in names for metric in METRICS
        }  # fmt: skip

    def differences(weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        found = means(weights)
        return {
            (name, metric): found[name, metric] - found[names[0], metric]
            for name in names[1:] for metric in METRICS
        }  # fmt: skip

    measured = bootstrap(means, len(fake))
    changes = bootstrap(differences, len(fake), bounded=False)
    alone = {key: metrics(np.ones(len(fake))) for key, metrics in of_run.items()}
    variants: list[VariantResult] = [
        {
            "name": name,
            "metrics": {metric: measured[name, metric] for metric in METRICS},
            "difference": {metric: changes[name, metric] for metric in METRICS}
            if name != names[0] else None,
            "may_be_chance": may_be_chance(measured[name, "auc"]),
            "runs": [
                {"seed": trainings[key][1],
                 "metrics": {metric: float(alone[key][metric]) for metric in METRICS}}
                for key in members[name]
            ],
        }
        for name in names
    ]  # fmt: skip
    return {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "settings": settings,
        "count": len(fake), "variants": variants, "remarks": variants_remarks(variants),
    }  # fmt: skip
