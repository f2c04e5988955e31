"""Malformed documents and flags, for the fuzz test and for the campaign."""

import copy
import json

import yaml

ODD = [
    None, True, -1, 0, 2**70, 1e308, -0.0, float("nan"), float("inf"), "", " ", "x" * 5000,
    "../x", "/etc/passwd", "a\0b", "a\u202eb\x1b[2J", "\u00b2", "1e999", ".nan", "~nouser/x", [],
    {}, [1], [[]], {"a": 1}, {"": {}}, ["x"] * 1000, {"name": "x"}, "(?P<class>((.+)+)+)!", "{0}",
    "{class:>99999999}", "2001-99-99",
]  # fmt: skip

SPEC = {
    "name": "odd", "title": "t", "source": {"kaggle": "a/b", "size": "1 MB"},
    "pattern": "(?:(?P<split>train|test)/)?(?P<class>real|fake)/(?P<stem>.+)\\.png",
    "group_separator": "_",
    "classes": [
        {"name": "real", "folders": ["real"]},
        {"name": "fake", "folders": ["fake"], "generator": "g"},
    ],
    "splits": {"train": "train", "test": "test"}, "default_split": "train",
    "generators": {"sd": "SD"}, "validation_fraction": 0.2, "test_fraction": 0.2,
    "expected_counts": {"train": {"real": 1}}, "max_unreadable_fraction": 0.1,
    "max_pixels": 1000000, "experiment": "small_images", "pretraining": False,
}  # fmt: skip
EXPERIMENT = {
    "name": "odd", "description": "d", "plugins": [], "seed": 1,
    "data": {"image_size": 32, "resize": "stretch", "test_crops": 1,
             "augment": [{"name": "flip"}], "cache": "auto", "balance": "none",
             "dataset_weights": {"a": 1.0}},
    "model": {"front_end": "pixels", "backbone": "small_resnet", "options": {"stem": 8},
              "weights": "none", "freeze": {"first": 0}, "head": "linear", "dropout": 0.1,
              "l2": 0.01, "mask_head": None},
    "training": {"epochs": 1, "batch_size": 4, "cache_features": 0, "steps_per_epoch": 2,
                 "optimizer": {"name": "adam", "learning_rate": 0.001, "clip_norm": 1.0},
                 "schedule": {"name": "cosine", "warmup_epochs": 0.5, "step_epochs": 3},
                 "stages": [{"epochs": 1, "freeze": {"fraction": 0.5}, "lr_multiplier": 0.1}],
                 "mask_loss": {"name": "bce", "alpha": 0.5, "gamma": 2}, "monitor": "accuracy",
                 "early_stopping": 3, "threshold": "balanced", "label_smoothing": 0.1, "ema": 0.0,
                 "precision": "float32", "checkpoint_minutes": 1},
}  # fmt: skip
SPACE = {
    "name": "odd", "experiment": "small_images",
    "parameters": {
        "training.optimizer.learning_rate": {"log_uniform": [0.0001, 0.01]},
        "model.dropout": {"uniform": [0.0, 0.5], "step": 0.1},
        "model.head": {"choice": ["linear", {"value": "hidden", "with": {
            "model.l2": {"uniform": [0.0, 0.1]}}}]},
    },
}  # fmt: skip
RUN = {
    "schema_version": 2, "status": "complete", "class_names": ["real", "fake"],
    "views": [{"size": [32, 32], "policy": "stretch", "crops": 1}], "threshold": 0.5,
    "prior": 0.5,
    "calibration": {"method": "platt", "scale": 1.0, "shift": 0.0, "images": 10,
                    "fake_fraction": 0.5, "log_loss": [0.5, 0.4]},
    "operating_points": {"fpr_5": {"threshold": 0.6, "fpr": 0.05, "tpr": 0.9}},
    "abstention_band": {"low": 0.4, "high": 0.6, "error_rate": 0.01, "coverage": 0.9},
    "dataset": {"name": "d", "fingerprint": "f", "roots": {"d": "/x"},
                "counts": {"train": {"real": 1}}, "skipped": 0, "warnings": [],
                "training_images": {"generators": ["g"], "formats": ["PNG"],
                                    "shorter_side": [1, 2, 3]}},
    "epochs": 1, "best": 0.9, "training_seconds": 3, "parameters": 10, "seed": 0, "devices": "CPU",
    "versions": {"keras": "3"}, "git_revision": None,
}  # fmt: skip
RAW = [
    b"", b"\0", b"\xff\xfe\x00", b"name: \xe9", b"- " * 3000, b"[" * 3000, b"{a: " * 200,
    b"a: &a [*a]", b"&a\nname: e\nmodel: {options: *a}", b"a: 1\na: 2", b"? [a, b]\n: 1", b"a: *b",
    b"a: !!python/object:os.system x", b"a: !!int abc", b"a: !!float abc", b"a: 0x_",
    b"a: 2001-99-99", b"a: !!binary x=", b"a: !!set [1]", b"--- a\n--- b", b"\t\tx: 1", b"a: 'x",
    b"a: |\n" + b" x" * 600_000, b"'': 1", b"1: 1", b"null: 1", b"a: " + b"9" * 5000, b"a: .inf",
    b"x0: &x0 [1, 1]\n" + b"".join(
        b"x%d: &x%d [*x%d, *x%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
    "name: [caf\u00e9".encode("utf-16"), "name: caf\u00e9".encode("utf-16-le"), b'"\xed\xa0\x80"',
    b"[1, 2", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"null", b"3", b'"text"',
]  # fmt: skip


def places(value, path=()):
    """Yield the path of every value in a document, the document itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def changed(document, path, value):
    """Return a copy of a document with another value at a path; the key is removed for `...`."""
    copied = copy.deepcopy(document)
    node = copied
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return copied


def dumped(document, kind):
    """Return a document as the text of its file; JSON for a run."""
    if kind == "run":
        return json.dumps(document)
    return yaml.safe_dump(document, sort_keys=False)
