"""Score the images of a dataset with all members of an ensemble in one pass."""

import numpy as np
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import view_dataset
from tfdetect.data.sources import image_source
from tfdetect.fusion.members import Members
from tfdetect.fusion.network import FusionNetwork
from tfdetect.fusion.scores import MemberScores
from tfdetect.imaging.facts import Facts
from tfdetect.models.inference import mean_of_windows, outputs_of_views


def score_members(
    network: FusionNetwork,
    members: Members,
    catalog: Catalog,
    batch_size: int,
) -> dict[str, MemberScores]:
    """Return the scores of the members for the readable images of validation and test.

    Args:
        network: the network of these members.
        members: the runs.
        catalog: the dataset.
        batch_size: images per step.

    Returns:
        The scores by split; a split without images is left out.

    Raises:
        UserError: no image of a split can be read, or the output of a member is NaN for all.
    """
    model = network.score_model()

    @tf.function(reduce_retracing=True, autograph=False)
    def predict(views: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = outputs_of_views(model, views)
        return tuple(mean_of_windows(outputs[key], views) for key in ("logits", "features"))

    scores = {}
    for split in ("validation", "test"):
        rows = catalog.split(split)
        if not rows.num_rows:
            continue
        indices, logits, features, facts = [], [], [], []
        stream = view_dataset(image_source(catalog, rows), members.views, batch_size, facts=True)
        with console.progress(rows.num_rows, f"scoring {split}", "images") as bar:
            for index, views, known in stream:
                batch = predict(views)
                indices.append(index.numpy())
                logits.append(batch[0].numpy())
                features.append(batch[1].numpy())
                facts.append(known.numpy())
                bar.advance(len(index))
        if not indices:
            raise UserError(f"No image of the {split} split of {catalog.name} can be read.")
        found = np.concatenate(logits).astype(np.float64)
        usable = _check_finite(found, split, members.names)
        table = rows.take(np.concatenate(indices)[usable])
        scores[split] = MemberScores(
            logits=found[usable],
            fake=table["label"].to_numpy() > 0,
            groups=np.array(table["group"].to_pylist(), object),
            datasets=np.array(table["dataset"].to_pylist(), object),
            features=np.concatenate(features)[usable],
            hashes=np.array(table["hash"].to_pylist(), str),
            copy_hashes=Facts(np.concatenate(facts)[usable]).hashes,
        )
    return scores


def _check_finite(logits: np.ndarray, split: str, names: list[str]) -> np.ndarray:
    """Return for which images every member answers in finite numbers, bool [n].

    The others are left out of the fit and of the comparison, with a warning.

    Args:
        logits: the logits of the M members, float [n, M].
        split: the name of the split.
        names: the names of the members.

    Raises:
        UserError: there is no such image.
    """
    finite = np.isfinite(logits)
    for name, own in zip(names, finite.T):
        if own.all():
            continue
        what = f"The output of {name} is NaN (not a number) or infinite for"
        if not own.any():
            raise UserError(
                f"{what} all of {counted(len(own), f'{split} image')}. Its training diverged, or "
                "its weights are damaged: leave it out, or train it again with a lower learning "
                "rate."
            )
        console.warn(f"{what} {(~own).sum():,} of {len(own):,} {split} images, which are left out.")
    usable = finite.all(axis=1)
    if not usable.any():
        raise UserError(
            f"For no {split} image do all members answer in numbers: fuse other members."
        )
    return usable
