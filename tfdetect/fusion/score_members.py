"""Score the images of a dataset with all members of an ensemble in one pass."""

import numpy as np
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.errors import UserError
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
        UserError: no image of a split can be read.
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
        table = rows.take(np.concatenate(indices))
        scores[split] = MemberScores(
            logits=np.concatenate(logits).astype(np.float64),
            fake=table["label"].to_numpy() > 0,
            groups=np.array(table["group"].to_pylist(), object),
            datasets=np.array(table["dataset"].to_pylist(), object),
            features=np.concatenate(features),
            hashes=np.array(table["hash"].to_pylist(), str),
            copy_hashes=Facts(np.concatenate(facts)).hashes,
        )
    return scores
