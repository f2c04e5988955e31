"""Freeze layers of a detector's backbone."""

import fnmatch

import keras

from tfdetect.core.errors import UserError
from tfdetect.core.model_settings import Freeze
from tfdetect.models.detector_parts import backbone_layers, backbone_of
from tfdetect.models.low_rank import adapted_layers, freeze_all_but_low_rank


def freeze(detector: keras.Model, rule: Freeze) -> None:
    """Freeze the layers of the backbone that a rule names, and unfreeze the others.

    If the backbone has low-rank matrices, only these are trained. Frozen batch normalization uses
    its moving averages. A compiled detector must be compiled again.

    Raises:
        UserError: a pattern matches no layer, or the backbone has fewer layers than the rule
            freezes.
    """
    backbone = backbone_of(detector)
    if adapted_layers(backbone):
        freeze_all_but_low_rank(backbone)
        return
    leaves = backbone_layers(backbone)
    for leaf in leaves:
        leaf.trainable = True
    if rule.names:
        for pattern in rule.names:
            chosen = [leaf for leaf in leaves if fnmatch.fnmatch(leaf.name, pattern)]
            if not chosen:
                raise UserError(
                    f"model.freeze.names: no layer matches {pattern!r}. The backbone's layers "
                    f"are {', '.join(leaf.name for leaf in leaves[:6])}, ..."
                )
            for leaf in chosen:
                leaf.trainable = False
        return
    count = rule.first if rule.first is not None else round((rule.fraction or 0) * len(leaves))
    if count > len(leaves):
        raise UserError(f"model.freeze.first: {count}, but there are {len(leaves)} layers.")
    for leaf in leaves[:count]:
        leaf.trainable = False
