"""What an experiment of a schema-1 run is called today."""

from typing import Any

_RENAMED = {  # old key: new key, wherever it stands in an experiment
    "data": {"weights": "dataset_weights"},
    "training": {"state_minutes": "checkpoint_minutes"},
    "schedule": {"every": "step_epochs", "least": "min_delta", "floor": "min_lr",
                 "stop_below": "stop_below_lr"},
    "stages": {"rate": "lr_multiplier"},
    "freeze": {"share": "fraction"},
}  # fmt: skip
_REMOVED = {"training": ("xla",), "mask_loss": ("edge_pixels", "aux_weight")}
_NAMES = {  # old name of something registered: new name, by the key that holds it
    "head": {"neighbours": "nearest_neighbors"},
    "name": {"colour": "color", "grey": "gray", "localiser": "localizer"},
}


def migrate_experiment(value: Any, key: str = "") -> Any:
    """Return the experiment of a schema-1 run with today's keys and names.

    Args:
        value: the experiment, or a part of it.
        key: of the part.
    """
    if isinstance(value, list):
        return [migrate_experiment(item, key) for item in value]
    if not isinstance(value, dict):
        return _NAMES.get(key, {}).get(value, value) if isinstance(value, str) else value
    renamed, removed = _RENAMED.get(key, {}), _REMOVED.get(key, ())
    return {
        renamed.get(name, name): migrate_experiment(item, name)
        for name, item in value.items()
        if name not in removed
    }
