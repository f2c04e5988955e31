"""Fuse runs into one detector: score images, fit fusions, compare them, write a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tfdetect.core import console
from tfdetect.core.choices import FUSIONS
from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.run import Run
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.known_images import warn_of_known_images, warn_of_missing_hashes
from tfdetect.evaluation.cross_fitting import CrossFitting
from tfdetect.fusion.comparison import compare_fusions, measure_comparison
from tfdetect.fusion.fine_tune import fine_tune
from tfdetect.fusion.fused_run import FusedDetector, write_fused_run
from tfdetect.fusion.fusion_report import worse_than_best_member, write_report
from tfdetect.fusion.fusion_results import FusedNetwork, FusionResult
from tfdetect.fusion.fusions import Fusion, FusionSettings, fit_fusion
from tfdetect.fusion.inference_cost import measure_inference_cost
from tfdetect.fusion.members import Members, open_members
from tfdetect.fusion.network import FusionNetwork
from tfdetect.fusion.score_members import score_members
from tfdetect.fusion.scores import MemberScores

_MAX_GATED_MEMBERS = 4  # with more, a gate takes long and is fitted only if it is chosen
_MIN_DENSE_IMAGES = 10_000  # with fewer, ten epochs of the dense unit are too few steps
_MAX_COST = 0.01  # of log-loss on new images, from which `stacked` is warned of


def fuse(
    members: Members,
    settings: FusionSettings,
    spec: DatasetSpec,
    catalog: Catalog,
    path: Path,
    log: console.Log,
) -> Run:
    """Fuse runs into one, and compare it with its members and with other fusions.

    Args:
        members: the runs.
        settings: how they are fused.
        spec, catalog: the dataset; fusions are fitted on its validation split.
        path: directory of the new run.
        log: called with each message.

    Returns:
        The run; fusion.json and fusion.html in it contain the comparison.

    Raises:
        UserError: no image of a split can be read.
    """
    # 1. Score the images with all members; fit fusions of the scores, and compare them.
    chosen = settings.fusion
    network = FusionNetwork(members, settings.masks)
    scores = score_members(network, members, catalog, settings.batch_size)
    names = [name for name in FUSIONS if name == chosen or _is_cheap(name, members)]
    log(f"fitting and comparing {counted(len(names), 'fusion')}: {', '.join(names)}")
    fusions = {name: fit_fusion(name, scores["validation"]) for name in names}
    comparison = compare_fusions(scores, fusions, members.names, chosen)
    if not comparison.cross_fitted:
        log(
            "There are too few groups of validation images for cross-fitting. The fusions are "
            "measured on the images that they were fitted on, so their validation figures are "
            "optimistic."
        )
    measured = measure_comparison(comparison)

    # 2. Build the fused detector.
    fused = _build(members, network, fusions[chosen], path.name, settings.masks)
    if settings.epochs:
        fine_tune(fused, catalog, settings, log)
    if comparison.cross_fitted and not _scores_differ(fused, settings):
        crossed = comparison.splits["validation"].fusions[chosen]
        fused = replace(
            fused, cross_fitting=_cross_fitting(fused, members, scores["validation"], crossed)
        )

    # 3. Write the run and the comparison.
    log("measuring the inference cost of the members and of the fused detector")
    worse, known = worse_than_best_member(measured), _known_images(members, scores, catalog)
    warnings = _warnings(members, settings, spec, catalog, fused.members, comparison.cross_fitted)
    values: FusionResult = {
        **measured,
        "dataset": spec.name,
        **_describe_network(members, network, fused),
        "warnings": [*([worse] if worse else []), *known, *warnings],
    }
    return write_fused_run(
        path, fused, spec, catalog, lambda folder: write_report(folder, values, comparison), log,
        warnings=known,
    )  # fmt: skip


def _known_images(members: Members, scores: dict[str, MemberScores], catalog: Catalog) -> list[str]:
    """Return warnings of images that the members know from their training."""
    runs = dict(zip(members.names, members.runs))
    hashes = {split: found.copy_hashes for split, found in scores.items()}
    return [
        *warn_of_known_images(
            runs, hashes, " report.html has the fused detector's figures without known images."
        ),
        *warn_of_missing_hashes(runs, catalog, ", and the fused run does not recognize those"),
    ]


def _describe_network(
    members: Members, network: FusionNetwork, fused: FusedDetector
) -> FusedNetwork:
    """Return the cost of members and fused detector, and what the members share.

    Args:
        members: all members.
        network: their network.
        fused: the fused detector.
    """
    return {
        "inference_cost": measure_inference_cost(
            members, network, fused.model, fused.members.views
        ),
        "shared_backbones": [
            [members.names[one], members.names[other]] for one, other in network.shared_backbones
        ],
        "masks": {
            "predicted_by": [members.names[index] for index in members.mask_members],
            "weights": {name: round(weight, 6) for name, weight in fused.mask_weights.items()},
        },
    }


def _is_cheap(name: str, members: Members) -> bool:
    """Return whether a fusion that was not chosen is fitted for comparison."""
    if name == "gated":
        return len(members.runs) <= _MAX_GATED_MEMBERS
    return name != "dense"  # trained by gradient descent, six times with cross-fitting


def _scores_differ(fused: FusedDetector, settings: FusionSettings) -> bool:
    """Return whether the scores of the detector differ from those that the fusion was fitted on.

    They differ after fine-tuning, and if members that predict masks read whole images in tiles.
    """
    tiles = fused.mask_weights and any(cuts_windows(v.policy) for v in fused.members.views)
    return bool(settings.epochs or tiles)


def _cross_fitting(
    fused: FusedDetector, members: Members, scores: MemberScores, crossed: np.ndarray
) -> CrossFitting:
    """Return by how much the logit of each image changes if its group is left out of the fit.

    Args:
        fused: the detector; members with a weight close to 0 may have been removed.
        members: all members.
        scores: the scores of all members for the images that the fusion was fitted on.
        crossed: the cross-fitted logits of these images, float [n].
    """
    kept = [members.names.index(name) for name in fused.members.names]
    fitted = fused.fusion(replace(scores, logits=scores.logits[:, kept]))
    return CrossFitting.of(scores.hashes, crossed - fitted)


def _warnings(
    members: Members,
    settings: FusionSettings,
    spec: DatasetSpec,
    catalog: Catalog,
    kept: Members,
    cross_fitted: bool,
) -> list[str]:
    """Return warnings of what limits the comparison.

    Args:
        members: all members.
        settings: how they were fused.
        spec, catalog: the dataset.
        kept: the members of the fused detector.
        cross_fitted: see `Comparison`.
    """
    warnings = []
    datasets = {each.name for each in spec.datasets}
    selected = [
        name for name, run in zip(members.names, members.runs) if run.info.dataset.name in datasets
    ]
    if selected:
        warnings.append(
            f"The best epochs of {', '.join(selected)} were selected on this validation split, so "
            "its figures are optimistic, and the fusion may give these members too much weight."
        )
    if members.mask_members and any(cuts_windows(v.policy) for v in members.views):
        warnings.append(
            "Members read whole images in tiles, but the weights and these tables are based on "
            "the central window of each image; report.html has the figures for whole images, which "
            "are not cross-fitted."
        )
    if removed := [name for name in members.names if name not in kept.names]:
        warnings.append(
            f"Members removed because their weight is close to 0: {', '.join(removed)}."
        )
    if settings.fusion == "fisher":
        warnings.append(
            "Fisher's method is meant for kinds of fakes that this validation split lacks. These "
            "tables show what it loses on known kinds, but not what it gains on others: evaluate "
            "the run on a dataset with other kinds of fakes."
        )
    if settings.fusion == "dense" and catalog.split("validation").num_rows < _MIN_DENSE_IMAGES:
        warnings.append(
            "The dense unit was trained for 10 epochs from random weights. With fewer than "
            f"{_MIN_DENSE_IMAGES:,} validation images it does not converge. Use --fusion stacked, "
            "whose weights are the optimum."
        )
    if settings.fusion == "stacked":
        images = catalog.split("validation").num_rows
        warnings += few_images_for_stacked(len(members.runs), images)
    if settings.epochs:
        warnings.append(
            "The tables show the ensemble before it was fine-tuned "
            f"({counted(settings.epochs, 'epoch')}); report.html has the figures after it. "
            "Fine-tuning is not cross-fitted: validation figures, thresholds and calibration of "
            "the fine-tuned run are optimistic."
        )
    if not cross_fitted:
        warnings.append(
            "There are too few groups of validation images for cross-fitting: the fusions were "
            "fitted on the same images, so their validation figures are optimistic."
        )
    return warnings


def few_images_for_stacked(members: int, images: int) -> list[str]:
    """Return a warning if so few images fit the weights of `stacked` badly, or else [].

    Weights of maximum likelihood cost about half a number of theirs per image in log-loss on new
    images (Akaike, 1974).

    Args:
        members: the number of members.
        images: the number of images that the fusion is fitted on.
    """
    cost = (members + 1) / (2 * max(images, 1))
    if cost <= _MAX_COST:
        return []
    return [
        f"The {members + 1} weights of the fusion stacked, the bias included, have no penalty. "
        f"Fitted on {counted(images, 'validation image')}, they cost about {cost:.2f} of log-loss "
        "on new images, and a member that says nothing keeps some weight. Use --fusion logistic, "
        "whose penalty is chosen by cross-validation, or --fusion weighted."
    ]


def _build(
    members: Members, network: FusionNetwork, fusion: Fusion, name: str, masks: bool
) -> FusedDetector:
    """Build the fused detector, without members whose weight is close to 0.

    Args:
        members: all members.
        network: their network.
        fusion: the fusion of all members.
        name: the name of the model.
        masks: whether to fuse predicted masks.
    """
    used = fusion.used_members
    if 2 <= used.sum() < len(used):
        paths = [run.path for run, keep in zip(members.runs, used) if keep]
        members = open_members(paths, masks)
        fusion = replace(
            fusion, temperatures=fusion.temperatures[used], weights=fusion.weights[used]
        )
        network = FusionNetwork(members, masks)
    mask_weights = network.mask_weights(fusion, members.view_index)
    return FusedDetector(
        members,
        fusion,
        network.fused_model(fusion, name, members.view_index),
        {members.names[index]: weight for index, weight in mask_weights.items()},
    )
