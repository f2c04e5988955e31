"""Augmentation layers of keras-cv: repeatable, resumable, and refused where they would do harm."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from conftest import fit_small

from tfdetect.core.data_settings import Augmentation, Data
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.load_spec import load_spec
from tfdetect.data.augmentation import augment, check_policy
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.training_data import training_data

SIZE = (24, 24)


def step(layer, probability=1.0, **options):
    params = {"layer": layer, "options": options, "probability": probability}
    return Augmentation(name="keras_cv", params=params)


POLICY = (
    step("GridMask", ratio_factor=[0.2, 0.5]),
    step("RandAugment", magnitude=0.3, augmentations_per_image=1),
    step("RandomHue", factor=0.3, probability=0.5),
)


def pictures(count=12):
    rng = np.random.default_rng(5)
    return tf.constant(rng.integers(0, 256, (count, *SIZE, 3), np.uint8))


def apply(policy, images, position=0, masks=None):
    return augment(images, policy, SIZE, 7, tf.constant(position, tf.int64), masks=masks)


def stream(root, **settings):
    spec, folders = load_spec(str(root))
    catalog = build_catalog(spec, folders, progress=False)
    data = Data(image_size=24, augment=POLICY, **settings)
    return training_data(catalog, catalog.split("train"), data, 2, 8, 1)


def test_a_stream_that_starts_later_gives_the_same_batches(folder_dataset):
    whole = [x.numpy() for x, _ in stream(folder_dataset).batches().take(9)]
    tf.random.set_seed(99)  # TensorFlow's own random state has no influence
    rest = [x.numpy() for x, _ in stream(folder_dataset, cache="none").batches(4).take(5)]
    assert all(np.array_equal(a, b) for a, b in zip(whole[4:], rest))
    plain = stream(folder_dataset)
    assert not np.array_equal(whole[0], whole[1]) and plain.count > 8


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(folder_dataset, tmp_path):
    overrides = [
        "data.augment=[{name: keras_cv, layer: GridMask, options: {ratio_factor: [0, 0.5]}}]",
        "training.schedule={name: constant}",
    ]
    whole, _ = fit_small(folder_dataset, tmp_path / "whole", [*overrides, "training.epochs=3"])
    fit_small(folder_dataset, tmp_path / "parts", [*overrides, "training.epochs=1"])
    resumed, state = fit_small(
        folder_dataset, tmp_path / "parts", [*overrides, "training.epochs=3"]
    )
    assert state.epoch == 3
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("layer", ["GridMask", "RandomCutout", "RandomZoom"])
def test_every_image_and_every_batch_is_changed_in_its_own_way(layer):
    options = {
        "RandomCutout": {"height_factor": 0.4, "width_factor": 0.4},
        "RandomZoom": {"height_factor": [-0.4, 0.4]},
    }.get(layer, {})
    same = tf.repeat(pictures(1), 8, axis=0)
    first, _, _ = apply((step(layer, **options),), same)
    second, _, _ = apply((step(layer, **options),), same, position=8)
    assert len({image.tobytes() for image in first.numpy()}) > 4
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_eager_and_graph_give_the_same_images():
    images = pictures()
    eager, _, _ = apply(POLICY, images)
    data = tf.data.Dataset.range(1).map(lambda number: apply(POLICY, images, 0)[0])
    assert np.array_equal(eager, next(iter(data)))


def test_probability_leaves_the_other_images_unchanged():
    images = pictures(64)
    changed, _, _ = apply((step("Solarization", 0.25, threshold_factor=0.5),), images)
    assert 4 < (changed.numpy() != images.numpy()).any(axis=(1, 2, 3)).sum() < 28
    assert np.array_equal(apply((step("GridMask", 0.0),), images)[0], images)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("RandomFlip", {"mode": "horizontal_and_vertical"}),
        ("RandomTranslation", {"height_factor": 0.3, "width_factor": 0.3}),
        ("RandomZoom", {"height_factor": [-0.4, -0.1]}),
        ("RandomShear", {"x_factor": 0.3}),
    ],
)
def test_masks_move_with_their_images(layer, options):
    masks = np.zeros((16, *SIZE, 1), np.uint8)
    masks[:, 3:14, 2:12] = 1
    images = np.repeat(np.where(masks, 220, 30), 3, axis=3).astype(np.uint8)
    policy = (step(layer, interpolation="nearest", **options) if layer != "RandomFlip"
              else step(layer, **options),)  # fmt: skip
    check_policy(policy, SIZE, with_masks=True)
    moved, _, after = apply(policy, tf.constant(images), masks=tf.constant(masks))
    assert after.dtype == tf.uint8 and not np.array_equal(after, masks)
    bright = moved.numpy().mean(axis=3) > 125
    assert (bright == (after.numpy()[..., 0] == 1)).mean() > 0.99


@pytest.mark.parametrize(
    ("layer", "options", "masks", "message"),
    [
        ("GridMsk", {}, False, "layer of keras_cv.layers 'GridMsk'. Did you mean 'GridMask'"),
        ("GridMask", {"ratio": 1}, False, "'ratio'. Did you mean 'ratio_factor'"),
        ("RandomHue", {}, False, "needs the option 'factor'"),
        ("GridMask", {"fill_value": 300}, False, r"fill_value should be in the range \[0, 255\]"),
        ("GridMask", {"value_range": [0, 1]}, False, "Unknown option"),
        ("CutMix", {}, False, "augmentation 'cutmix'"),
        ("MixUp", {}, False, "augmentation 'mixup'"),
        ("RandomApply", {}, False, "takes other layers"),
        ("Resizing", {"height": 8, "width": 8}, False, "data.image_size"),
        ("RandomCrop", {"height": 8, "width": 8}, False, r"changes images of shape \(24, 24, 3\)"),
        ("AugMix", {}, False, "do not follow from a seed"),
        ("RandomCrop", {"height": 24, "width": 24}, True, "cannot move masks"),
        ("RandomRotation", {"factor": 0.2, "segmentation_classes": 2}, True, "values of masks"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(layer, options, masks, message):
    with pytest.raises(UserError, match=message):
        check_policy((step(layer, **options),), SIZE, with_masks=masks)


def test_a_layer_must_be_named():
    with pytest.raises(UserError, match="keras_cv: the option 'layer' is missing"):
        check_policy((Augmentation(name="keras_cv"),), SIZE)


def test_without_keras_cv_the_install_command_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "tfdetect\[keras-cv\]"'):
        check_policy((step("GridMask"),), SIZE)


def test_layers_compute_in_float32_in_half_precision_too():
    import keras

    images, policy = pictures(), (POLICY[0], POLICY[2])
    expected, _, _ = apply(policy, images)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    assert np.array_equal(apply(policy, images)[0], expected)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_the_shipped_experiment_passes_the_check():
    data = load_experiment("small_images_gridmask").data
    check_policy(data.augment, data.image_size)
