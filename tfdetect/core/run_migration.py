"""Migrate the documents of a schema-1 run: run.json, experiment, dataset spec and layers."""

from typing import Any

_RENAMED = {  # by the key that holds them: old key, new key
    "data": {"weights": "dataset_weights"},
    "training": {"state_minutes": "checkpoint_minutes"},
    "schedule": {"every": "step_epochs", "least": "min_delta", "floor": "min_lr",
                 "stop_below": "stop_below_lr"},
    "stages": {"rate": "lr_multiplier"},
    "freeze": {"share": "fraction"},
    "published": {"good_at": "use_case"},
    "head_options": {"known": "reference", "bank": "bank_size"},
}  # fmt: skip
_REMOVED = {"training": ("xla",), "mask_loss": ("edge_pixels", "aux_weight")}
_AUGMENTATIONS = {  # by the step: old parameter, new parameter
    "crop": {"lowest": "min_area", "ratio": "max_aspect_ratio"},
    "jpeg": {"lowest": "min_quality", "highest": "max_quality"},
    "webp": {"lowest": "min_quality", "highest": "max_quality"},
    "blur": {"highest": "max_sigma"},
    "noise": {"highest": "max_sigma"},
    "downsample": {"lowest": "min_scale"},
    "erasing": {"lowest": "min_area", "highest": "max_area"},
    "patches": {"patch": "patch_size", "highest": "max_fraction"},
    "forgery": {"lowest": "min_area", "highest": "max_area"},
    "amplitude_mix": {"highest": "max_weight"},
    "phase_mix": {"highest": "max_weight"},
    "bands": {"lowest": "min_gain", "highest": "max_gain", "width": "bandwidth"},
    "spectral_noise": {"highest": "max_sigma"},
    "flip": {"vertical": "vertical_probability"},
}
_NAMES = {  # by the key that holds them: old name of something registered, new name
    "head": {"neighbours": "nearest_neighbors"},
    "name": {"colour": "color", "grey": "gray", "localiser": "localizer"},
}
SPEC_KEYS = {
    "validation_share": "validation_fraction", "test_share": "test_fraction",
    "expected": "expected_counts", "max_bad_share": "max_unreadable_fraction",
    "link": "group_separator",
}  # fmt: skip
_LAYERS = {  # by the layer: old option, new option
    "TopPixels": {"share": "fraction"},
    "NearestNeighbors": {"bank": "bank_size", "known": "reference"},
}


def migrate_info(data: dict[str, Any], predicts_masks: bool) -> dict[str, Any]:
    """Return the content of a run.json of schema 1 as schema 2 has it.

    Args:
        predicts_masks: whether the run's experiment has a mask head; schema 1 says so for
            ensembles only.
    """
    views = data.get("views") or [
        {"size": data["image_size"], "policy": data["resize"], "crops": data.get("crops", 1)}
    ]
    dataset = dict(data["dataset"])
    dataset["training_images"] = dataset.pop("seen", None) or None
    calibration = data.get("calibration")
    if calibration:
        calibration = {key: value for key, value in calibration.items() if key != "fakes"}
        calibration["fake_fraction"] = data["calibration"]["fakes"]
    band = data.get("unsure")
    if band:
        band = {key: value for key, value in band.items() if key != "rate"}
        band["error_rate"] = data["unsure"]["rate"]
    same = ("status", "threshold", "fusion", "members", "epochs", "best", "training_seconds",
            "parameters", "precision", "stopped_early", "pretraining", "flips", "seed", "devices",
            "command", "created", "versions", "git_revision")  # fmt: skip
    return {
        "schema_version": 2,
        "class_names": data["classes"],
        "views": views,
        "predicts_masks": data.get("masks", predicts_masks),
        "dataset": dataset,
        "calibration": calibration,
        # Schema 1 reported probabilities for the fraction of fakes among the validation images.
        "prior": calibration["fake_fraction"] if calibration else None,
        "operating_points": data.get("points") or {},
        "abstention_band": band,
        **{name: data[name] for name in same if name in data},
    }


def migrate_experiment(value: Any, key: str = "") -> Any:
    """Return the experiment of a schema-1 run with today's keys and names.

    Args:
        value: the experiment, or a part of it.
        key: the key of the part.
    """
    if isinstance(value, list):
        return [migrate_experiment(item, key) for item in value]
    if not isinstance(value, dict):
        return _NAMES.get(key, {}).get(value, value) if isinstance(value, str) else value
    renamed, removed = _RENAMED.get(key, {}), _REMOVED.get(key, ())
    if key == "augment":
        renamed = _AUGMENTATIONS.get(value.get("name", ""), {})
    return {
        renamed.get(name, name): migrate_experiment(item, name)
        for name, item in value.items()
        if name not in removed
    }


def migrate_spec(value: dict[str, Any]) -> dict[str, Any]:
    """Return the dataset spec of a schema-1 run with today's keys and names."""
    spec = {SPEC_KEYS.get(key, key): item for key, item in value.items()}
    if spec.get("pattern"):
        spec["pattern"] = current_pattern(spec["pattern"].replace("(?P<klass>", "(?P<class>"))
    for part in spec.get("parts") or ():
        if isinstance(part, dict) and isinstance(part.get("spec"), dict):
            part["spec"] = migrate_spec(part["spec"])
    if spec.get("experiment") == "localiser":
        spec["experiment"] = "localizer"
    return _as_recorded(spec)


def _as_recorded(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a run's spec with the defaults of its time: the rule of the splits, and class 0."""
    return _with_authentic({"split_rule": 1, **spec})


def _with_authentic(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a run's spec with the name of its authentic class, which was class 0."""
    classes = spec.get("classes")
    if spec.get("authentic") is not None or not isinstance(classes, list) or not classes:
        return spec
    first = classes[0].get("name") if isinstance(classes[0], dict) else None
    return spec if first is None else {**spec, "authentic": first}


def current_spec(value: dict[str, Any]) -> dict[str, Any]:
    """Return the dataset spec of a run of this schema, with a pattern that is still supported."""
    parts = value.get("parts")
    value = _as_recorded(value)
    if isinstance(value.get("pattern"), str):
        value = {**value, "pattern": current_pattern(value["pattern"])}
    if isinstance(parts, list):
        value = {**value, "parts": [
            {**part, "spec": current_spec(part["spec"])}
            if isinstance(part, dict) and isinstance(part.get("spec"), dict) else part
            for part in parts
        ]}  # fmt: skip
    return value


def current_pattern(pattern: str) -> str:
    """Return the pattern of the dataset `inpainting`, which had a look-ahead, without it."""
    return pattern.replace(
        "(?=(?P<generator>realfake|fakefake)?)(?P<class>original|realfake|fakefake)",
        "(?P<class>original|(?P<generator>realfake|fakefake))",
    )


def migrate_layer(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a layer in a .keras file with today's options.

    Args:
        name: the name of the layer's class.
        config: what the layer's `get_config` returned when the file was written.
    """
    renamed = _LAYERS[name]
    return {renamed.get(option, option): value for option, value in config.items()}
