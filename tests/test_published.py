"""Every published detector: its size, its laws, and that it learns what is there to learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_at
from PIL import Image

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_model, override, published
from tfdetect.data.plan import make_plan
from tfdetect.explanation.maps import Explainer
from tfdetect.models.backbones import build_backbone
from tfdetect.models.convert_run import statistics_on
from tfdetect.models.detector import build_detector
from tfdetect.models.detector_parts import backbone_of, features_of, front_end_output
from tfdetect.models.inference import predicts_masks, probabilities
from tfdetect.models.networks.f3net import f3net, mix_block
from tfdetect.models.networks.gramnet import Gram
from tfdetect.models.networks.iidnet import SEARCHED
from tfdetect.models.saved_model import export_saved_model, run_signature
from tfdetect.models.saving import load_detector, save_detector
from tfdetect.models.standardize import learn_statistics
from tfdetect.training.devices import choose_precision
from tfdetect.training.mask_losses import MaskCriterion

NAMES = sorted(published())
# Sides that are quick, other than the native ones.
SMALL = {
    "swin_t": 224, "f3net": 142, "f3net_faces": 142, "f3net_faces_masks": 142, "ladeda": 32,
}  # fmt: skip
# What makes learning quick.
QUICK = {"ssp": ["model.front_end_options.output=64"]}


def build(name, size=None, classes=None, overrides=()):
    experiment = load_model(name)
    changes = [f"data.image_size={size}"] if size else []
    experiment = override(experiment, ["model.weights=none", *changes, *overrides])
    return build_detector(experiment, classes or max(2, experiment.published.logits))


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.usefixtures("zeros_everywhere")
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_listed(name):
    """With the published head, whose logits may be two where ours is one."""
    keras.config.set_dtype_policy("float32")
    model, facts = build(name), load_model(name).published
    head = model.get_layer("label")
    missing = facts.logits - model.output["label"].shape[-1]
    own = count(head) * missing // model.output["label"].shape[-1] if missing else 0
    assert count(model) + own == facts.parameters
    side = load_model(name).data.image_size[0]
    if predicts_masks(model):
        assert model.output["mask"].shape[1:] == (side, side, 1)


def test_frank_in_gray_and_with_five_classes():
    gray = ["model.front_end_options={color: false}"]
    assert count(build("frank_dct", overrides=gray)) == 38_831
    assert count(build("frank_dct", classes=5)) == 169_961


@pytest.mark.usefixtures("zeros_everywhere")
def test_f3net_mixes_after_any_block_that_is_kept():
    small = {"shape": (142, 142, 3), "weights": "none", "middle_blocks": 1}
    for mix_after, runs in (
        ((4, 13), {"fad_blocks1_4", "fad_blocks12_13", "fad_blocks14_14"}),
        ((2, 12), {"fad_blocks1_2", "fad_blocks3_4", "fad_blocks12_12", "fad_blocks13_14"}),
    ):
        model = f3net(**small, mix_after=mix_after).model
        assert {x.name for x in model.layers if x.name.startswith("fad_blocks")} == runs
    with pytest.raises(UserError, match="Received: 8. Take blocks up to 4 or from 12."):
        f3net(**small, mix_after=(8, 13))
    with pytest.raises(UserError, match="from 2 to 13 and rising. Received"):
        f3net(**small, mix_after=(1, 13))


@pytest.mark.slow
def test_nixnet_and_f3net_in_their_other_sizes():
    for size, parameters in ((40, 39_442_053), (85, 85_226_501)):
        assert count(build("nixnet", 64, overrides=[f"model.options.size={size}"])) == parameters
    # The thesis counts a layer of 6,147 that nothing uses in each Xception.
    for mode, parameters, unused in (("baseline", 14_363_342, 1), ("fad", 14_566_638, 1),
                                     ("lfs", 14_364_806, 1), ("both", 28_931_441, 2)):  # fmt: skip
        model = build("f3net_faces", classes=3, overrides=[f"model.options.mode={mode}"])
        assert count(model) == parameters - unused * 6_147
    assert published()["f3net_faces"].published.parameters == 33_188_789 - 2 * 6_147
    assert published()["f3net_faces_masks"].published.parameters == 35_167_502 - 2 * 6_147
    # Published as 3.14 million.
    assert round(published()["graftnet"].published.parameters / 1e6, 2) == 3.14


# --- laws


def test_mix_block_is_the_identity_at_first():
    shape = (6, 6, 4)
    pair = [keras.Input(shape), keras.Input(shape)]
    block = keras.Model(pair, mix_block(*pair, "mix", ["first", "second"]))
    x, y = (tf.random.stateless_normal((2, *shape), [1, s]) for s in (1, 2))
    for training in (True, False):
        first, second = block([x, y], training=training)
        np.testing.assert_array_equal(first, x)
        np.testing.assert_array_equal(second, y)
    assert count(block) == 4 * (4 * 4 + 4) + 2 * (2 * 4 + 2 * 4) + 2
    for gate in (layer for layer in block.layers if "gate" in layer.name):
        gate.gate.assign(1.0)
    assert np.abs(block([x, y], training=True)[0] - x).max() > 0.1


def test_gram_matrices():
    x = tf.random.stateless_normal((2, 6, 5, 4), [1, 2])
    gram = Gram()(x)[..., 0].numpy()
    np.testing.assert_allclose(gram, gram.transpose(0, 2, 1), atol=1e-6)
    assert np.linalg.eigvalsh(gram).min() > -1e-6
    shuffled = tf.random.shuffle(tf.reshape(x[0], (30, 4)), seed=0)
    again = Gram()(tf.reshape(shuffled, (1, 6, 5, 4)))[0, ..., 0]
    np.testing.assert_allclose(again, gram[0], atol=1e-6)
    c = np.array([1.0, 2.0, -1.0, 0.5], "float32")
    constant = Gram()(np.broadcast_to(c, (1, 6, 5, 4)))[0, ..., 0]
    np.testing.assert_allclose(constant, np.outer(c, c) / 4, rtol=1e-5)
    assert build("gramnet", 128).input_shape != build("gramnet", 256).input_shape


@pytest.mark.parametrize(("name", "side"), [
    ("tiny_ladeda", 5), pytest.param("ladeda", 9, marks=pytest.mark.slow),
])  # fmt: skip
def test_ladeda_sees_small_patches_and_grad_cam_shows_their_scores(name, side):
    network = build_backbone(name, (33, 33, 3), "none").model
    x = tf.random.stateless_normal([1, 33, 33, 3], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        patch = tf.reduce_sum(network(x)[:, 1, 1])
    seen = np.any(tape.gradient(patch, x)[0] != 0, axis=-1)
    step = 2 if name == "tiny_ladeda" else 8
    wanted = np.zeros((33, 33), bool)
    wanted[step : step + side, step : step + side] = True
    np.testing.assert_array_equal(seen, wanted)
    model = build(name, 33)
    images = np.random.default_rng(0).integers(0, 256, (1, 33, 33, 3)).astype("float32")
    features = keras.Model(model.input, features_of(model))(images)
    scores = features @ model.get_layer("label").kernel
    np.testing.assert_allclose(model(images)["label"][0], tf.reduce_mean(scores), rtol=1e-4)
    cam = Explainer(model).grad_cam([images])["Grad-CAM"] * scores.shape[1] * scores.shape[2]
    shown = tf.image.resize(scores, (33, 33))[0, ..., 0]
    np.testing.assert_allclose(cam, shown, rtol=1e-3, atol=1e-5)


def test_kept_statistics_are_compared_with_those_of_images(tmp_path):
    model = build("tiny_ladeda", 32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)
    paths = [str(tmp_path / f"{number}.png") for number in range(20)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    network = backbone_of(model)
    filtered = keras.Model(model.input, front_end_output(model))(images.astype("float32"))
    norm = network.get_layer("conv2_norm")
    x = keras.Model(network.input, norm.input)(filtered).numpy()
    norm.moving_mean.assign(x.mean((0, 1, 2)))
    norm.moving_variance.assign(x.var((0, 1, 2)))
    run = run_at(tmp_path, ["real", "fake"], 32)
    save_detector(model, run.model_path)
    first = statistics_on(run, paths)[0]
    equal = {"variance": 1, "spread": 0, "mean": 0}
    assert first == pytest.approx({"layer": "conv2_norm", **equal}, abs=1e-3)
    norm.moving_mean.assign_add(2 * norm.moving_variance**0.5)
    norm.moving_variance.assign(norm.moving_variance * ([4.0] * 4 + [1.0] * 4))
    save_detector(model, run.model_path)
    changed = {"variance": 0.5, "spread": np.log(4) / 2, "mean": 2.5**0.5}
    first = statistics_on(run, paths)[0]
    assert first == pytest.approx({"layer": "conv2_norm", **changed}, abs=1e-3)


def test_nixnet_reads_both_of_its_inputs():
    network = build_backbone("nixnet", (32, 32, 6), "none", {"size": 40}).model
    x = tf.random.stateless_normal((1, 32, 32, 6), [1, 2])
    swapped = tf.concat([x[..., 3:], x[..., :3]], axis=-1)
    assert np.abs(network(x) - network(swapped)).max() > 1e-3
    with pytest.raises(UserError, match="front_end"):
        build("nixnet", 64, overrides=["model.front_end=pixels", "model.with_pixels=false"])
    with pytest.raises(UserError, match="40, 60 or 85"):
        build("nixnet", 64, overrides=["model.options.size=50"])


def test_iidnet_has_the_searched_cells():
    assert len(SEARCHED) == 10
    network = build_backbone("iidnet", (64, 64, 3), "none").model
    assert network.get_layer("cell10_add").output.shape[1:] == (8, 8, 256)
    assert network.get_layer("attention").output.shape[-1] == 768
    differences = network.get_layer("differences").kernel.numpy()
    np.testing.assert_array_equal(differences.sum((0, 1)), 0)
    assert (differences[1, 1] == -1).all() and (differences[2, 1, :, ::3] == 1).all()
    cells = "[[128, 2, 1, [fixed, fixed, fixed]], [256, 4, 1, [identity, separable, fixed]]]"
    fewer = build("iidnet", 64, overrides=[f"model.options.cells={cells}"])
    assert count(fewer) < 5_781_142


@pytest.mark.slow
def test_nixnet_overfits_eight_images():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(choose_precision("auto", 0))
    model = build("nixnet", 32, 2, ["model.options.size=40"])
    x, label, where = planted(16, 32, True, 1)
    x, where = x[1::2], where[1::2]  # the altered ones
    losses = {"mask": MaskCriterion(load_model("nixnet").training.mask_loss)}
    model.compile(keras.optimizers.Adam(1e-3), losses)
    reached = 0.0
    for _ in range(15):
        model.fit(x, {"mask": where}, batch_size=8, epochs=20, verbose=0)
        drawn, altered = model.predict(x, verbose=0)["mask"] > 0, where > 0
        reached = (drawn & altered).sum() / (drawn | altered).sum()
        if reached > 0.95:
            break
    assert reached > 0.95


# --- the harness


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_native_size_on_any_image(name, policy):
    keras.config.set_dtype_policy(policy)
    model = build(name)
    side = model.input_shape[1]
    noise = tf.random.stateless_uniform([1, side, side, 3], [1, 2], 0, 255)
    for x in (noise, tf.zeros_like(noise), tf.fill(noise.shape, 255.0)):
        for logits in model(x, training=False).values():
            assert logits.dtype == tf.float32
            assert np.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_round_trips_at_another_size(name, tmp_path):
    keras.config.set_dtype_policy("float32")
    side = SMALL.get(name, 96)
    model = build(name, side)
    x = tf.round(tf.random.stateless_uniform([2, side, side, 3], [1, 2], 0, 255))
    learn_statistics(model, lambda: [x])
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(y**2) for y in model(x, training=True).values())
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert [v.path for v, g in zip(model.trainable_variables, gradients) if g is None] == []
    classes = max(2, model.output["label"].shape[-1])
    run = run_at(tmp_path, list("abc")[:classes], side, masks="mask" in model.output)
    save_detector(model, run.model_path)
    again = load_detector(run)
    export_saved_model(run)
    [answer] = run_signature(tmp_path / "saved_model", "serving_default", [x])
    expected = model(x, training=False)
    # Whoever calls a model without saying so does not train it.
    for name, logits in model(x).items():
        np.testing.assert_array_equal(logits, expected[name])
    for name, logits in again(x, training=False).items():
        np.testing.assert_allclose(tf.sigmoid(logits), tf.sigmoid(expected[name]), atol=1e-5)
    table = probabilities(expected["label"])
    np.testing.assert_allclose(answer["probabilities"], table, atol=1e-5)


def planted(number, side, masks, seed):
    """Smooth noise; in fakes some or all pixels are enlarged by nearest, with a checkerboard."""
    rng = np.random.default_rng([seed, number])
    coarse = rng.uniform(60, 190, (number, 8, 8, 3)).astype("float32")
    x = tf.image.resize(coarse, (side, side), "bicubic").numpy()
    x += rng.normal(0, 4, x.shape)
    blocks = np.repeat(np.repeat(x[:, ::2, ::2], 2, axis=1), 2, axis=2)
    blocks = blocks[:, :side, :side] + 12 * (np.indices((side, side)).sum(0) % 2 * 2 - 1)[..., None]
    label = (np.arange(number) % 2).astype("float32")
    where = np.zeros((number, side, side, 1), "float32")
    for i in np.flatnonzero(label):
        height, width = rng.integers(side // 3, side // 2, 2) if masks else (side, side)
        top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
        where[i, top : top + height, left : left + width] = 1
    return np.clip(x + where * (blocks - x), 0, 255), label[:, None], where


# That shuffled labels teach nothing is a matter of the images here more than of the detector.
PLANTED = [*((name, False) for name in NAMES), ("npr", True), ("graftnet", True)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shuffled"), PLANTED)
def test_learns_what_is_planted_and_nothing_from_shuffled_labels(name, shuffled):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(choose_precision("auto", 0))  # it is long
    experiment = load_model(name)
    side = 32 if name == "nixnet" else SMALL.get(name, 64)
    masks = experiment.model.mask_head is not None
    # The sizes, regularization and rates of long trainings are not what is tested.
    model = build(name, side, 2, ["model.dropout=0", *QUICK.get(name, [])])
    x, label, where = planted(96, side, masks, 1)
    held_x, held_label, held_where = planted(64, side, masks, 2)
    if shuffled:
        order = np.random.default_rng(3).permutation(len(x))
        label, where = label[order], where[order]
    learn_statistics(model, lambda: [x])
    losses = {"label": keras.losses.BinaryCrossentropy(from_logits=True)}
    targets, weights = {"label": label}, {"label": 1.0}
    if masks:
        losses["mask"], targets["mask"] = MaskCriterion(experiment.training.mask_loss), where
        weights["mask"] = 10.0
    transformer = name in ("deit_s", "swin_t")
    model.compile(keras.optimizers.Adam(1e-4 if transformer else 1e-3), losses, weights)

    def measure():
        logits = model.predict(held_x, batch_size=16, verbose=0)
        answer, truth = ("mask", held_where) if masks else ("label", held_label)
        # Balanced, of pixels or of images, so that chance is a half for both.
        right = (logits[answer] > 0) == (truth > 0)
        return (right[truth > 0].mean() + right[truth == 0].mean()) / 2

    reached = 0.0
    for _ in range(10):
        model.fit(x, targets, batch_size=16, epochs=2 if shuffled else 3, verbose=0)
        reached = measure()
        if shuffled or reached > 0.9:
            break
    assert (reached < 0.75) if shuffled else (reached > 0.9), reached


# --- train --model


def test_model_alone_brings_its_recipe_and_with_an_experiment_takes_that_one():
    plan = make_plan("cifake", None, [], None, None, "npr")
    assert plan.experiment.training == load_model("npr").training
    assert plan.experiment.data.image_size == (224, 224)
    plan = make_plan("cifake", "cifake_small_resnet", ["data.image_size=32"], None, None, "npr")
    assert plan.experiment.name == "npr"
    assert plan.experiment.model.front_end == "npr"
    assert plan.experiment.training.batch_size == 256
    assert plan.experiment.data.image_size == (32, 32)
    assert [step.name for step in plan.experiment.data.augment] == ["flip", "shift"]
    with pytest.raises(UserError, match="Unknown detector 'nrp'.*npr"):
        make_plan("cifake", None, [], None, None, "nrp")
    with pytest.raises(UserError, match="Unknown detector 'demo'"):
        make_plan("cifake", None, [], None, None, "demo")


def test_models_lists_them_without_tensorflow(capsys):
    import subprocess
    import sys

    from tfdetect.__main__ import main

    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NAMES)
    code = ("import sys; from tfdetect.__main__ import main; main(['models', '--json']); "
            "sys.exit('tensorflow' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
