"""Parts that are registered from outside the package, and options checked before building."""

import os
import shlex
import subprocess
import sys
from typing import Annotated, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import OPTIONS, fit_small
from keras import layers
from pydantic import Field

from tfdetect.core import plugins, register, registry
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.open_run import open_run
from tfdetect.core.options import check_options
from tfdetect.models.detector import build_detector

PLUGIN = """
import keras
import tensorflow as tf
from keras import layers
import tfdetect


@keras.saving.register_keras_serializable("mine")
class Twice(layers.Layer):
    def call(self, x):
        return 2 * x


@tfdetect.register_front_end("mine_half", output_side=lambda side, options: side // 2)
def half(images):
    return layers.AveragePooling2D(2, dtype="float32", name="half")(images)


@tfdetect.register_backbone("mine_cnn", min_size=8, multiple=2, scale=1 / 255, offset=0.0)
def cnn(shape, weights, width: int = 8):
    inputs = keras.Input(shape)
    x = layers.Conv2D(width, 3, 2, padding="same", activation="relu", name="first")(inputs)
    return keras.Model(inputs, x, name="mine_cnn")


@tfdetect.register_head("mine_twice")
def twice(features, outputs, dropout, l2):
    x = layers.GlobalMaxPooling2D(name="pool")(features)
    return layers.Dense(outputs, dtype="float32", name="label")(Twice(name="twice")(x))


@tfdetect.register_mask_head("mine_mask")
def mask(image, features, maps, width: int = 4):
    x = layers.Conv2DTranspose(width, 2, 2, activation="relu", name="up")(features)
    return {"mask": layers.Conv2D(1, 1, dtype="float32", name="mask")(x)}


@tfdetect.register_loss("mine_squared")
def squared(classes, label_smoothing, factor: float = 1.0):
    class Squared(keras.losses.Loss):
        def call(self, y_true, y_pred):
            error = keras.ops.sigmoid(y_pred) - keras.ops.cast(y_true, "float32")
            return factor * keras.ops.mean(error**2, axis=-1)

    return Squared()


@tfdetect.register_augmentation("mine_invert")
def invert(images, seed, probability: float = 0.5):
    chosen = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < probability
    if tf.reduce_any(chosen):  # Python, which AutoGraph translates
        images = tf.where(chosen, 255 - images, images)
    return images
"""
EXPERIMENT = """
name: mine
plugins: [{plugin}]
data:
  image_size: 24
  augment: [flip, {{name: mine_invert, probability: 0.1}}]
model: {{backbone: mine_cnn, options: {{width: 6}}, head: mine_twice}}
training:
  epochs: 1
  batch_size: 12
  loss: mine_squared
  loss_options: {{factor: 2.0}}
  export: []
"""
SCRIPT = """
import json, sys
import tfdetect
assert "tensorflow" not in sys.modules
folder, experiment, output = sys.argv[1:]
run = tfdetect.train(folder, experiment, output=output, progress=False)
detector = tfdetect.load(run)
[row] = detector.predict([f"{folder}/test/fake/000.png"])
print(json.dumps([str(run.path), row["p_fake"], detector.keras_model.get_layer("twice").name]))
"""


def test_a_separate_script_trains_saves_loads_and_predicts(folder_dataset, tmp_path, registries):
    """All six kinds at once, in a process of its own; then a process without the plug-in."""
    plugin, script = tmp_path / "my_layers.py", tmp_path / "script.py"
    plugin.write_text(PLUGIN)
    script.write_text(SCRIPT)
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(EXPERIMENT.format(plugin=plugin))
    done = subprocess.run(
        [sys.executable, script, folder_dataset, experiment, tmp_path / "runs"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path, p_fake, layer = eval(done.stdout.splitlines()[-1])
    assert 0 <= p_fake <= 1 and layer == "twice"
    # A run may be a stranger's: its plug-in is executed only if the user asks for it.
    run = open_run(path)
    with pytest.raises(UserError, match=f"needed and not loaded.*{plugins.VARIABLE}={plugin}"):
        run.experiment()
    os.environ[plugins.VARIABLE] = str(plugin)
    assert run.experiment().training.loss == "mine_squared"


def test_all_parts_work_together_and_facts_are_checked(folder_dataset, tmp_path, registries):
    plugin = tmp_path / "my_layers.py"
    plugin.write_text(PLUGIN)
    chosen = [
        f"plugins=[{plugin}]", "model.backbone=mine_cnn", "model.front_end=mine_half",
        "model.head=mine_twice", "model.mask_head=mine_mask",
    ]  # fmt: skip
    experiment = load_experiment("demo", [*chosen, "data.image_size=32"])
    detector = build_detector(experiment, 2)
    assert detector.get_layer("mine_cnn").input_shape == (None, 16, 16, 3)
    assert detector.output["mask"].shape == (None, 16, 16, 1)
    scaled = [*chosen[:2], "data.image_size=32"]
    rescaling = build_detector(load_experiment("demo", scaled), 2).get_layer("preprocess")
    assert (rescaling.scale, rescaling.offset) == (1 / 255, 0.0)
    with pytest.raises(UserError, match="mine_cnn does not take images of 15 pixels"):
        load_experiment("demo", [*chosen, "data.image_size=30"])
    with pytest.raises(UserError, match="model.options: unknown option 'widht'.*'width'"):
        build_detector(load_experiment("demo", [*scaled, "model.options={widht: 3}"]), 2)
    with pytest.raises(UserError, match="There is no plug-in file"):
        load_experiment("demo", [f"plugins=[{tmp_path / 'none.py'}]"])
    with pytest.raises(UserError, match="There is no plug-in module 'no_such_module'"):
        load_experiment("demo", ["plugins=[no_such_module]"])


def test_all_plugins_of_a_run_are_named_at_once(tmp_path, monkeypatch, registries):
    """With those that are set already, so that setting what is said loads everything."""
    monkeypatch.chdir(tmp_path)
    files = [str(tmp_path / name) for name in ("first.py", "second.py", "third one.py")]
    for file in files:
        open(file, "w").close()
    with pytest.raises(UserError) as raised:
        plugins.check_loaded(files[:2])
    assert f"plug-ins '{files[0]}', '{files[1]}' are needed" in str(raised.value)
    assert f"set {plugins.VARIABLE}={os.pathsep.join(files[:2])}, or" in str(raised.value)
    monkeypatch.setenv(plugins.VARIABLE, "first.py")
    with pytest.raises(UserError, match=r"'.*second\.py', '.*third one\.py' are") as raised:
        plugins.check_loaded(files)
    said = str(raised.value).split(f"{plugins.VARIABLE}=")[1].split(", or in a program")[0]
    assert shlex.split(said) == [os.pathsep.join(files)]
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join(files))
    plugins.check_loaded(files)


def test_an_installed_package_offers_a_backbone(tmp_path, monkeypatch, registries):
    """As an entry point, found without importing it."""
    info = tmp_path / "outside_backbones-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-backbones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tfdetect.backbones]\noutside_plain = outside_module:plain\n"
        "outside_cnn = outside_module:cnn\n"
    )
    (tmp_path / "outside_module.py").write_text(
        PLUGIN.replace("mine_", "outside_").replace('"mine"', '"outside"')
        + "\n\ndef plain(shape, weights):\n    return cnn(shape, weights, 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert {"outside_plain", "outside_cnn"} <= set(registry.BACKBONES)
    assert "outside_module" not in sys.modules
    facts = registry.BACKBONES["outside_cnn"]
    assert (facts.min_size, facts.multiple) == (8, 2)  # of its decorator
    assert registry.BACKBONES["outside_plain"].min_size == 1  # by default
    chosen = load_experiment("demo", ["model.backbone=outside_plain", "data.image_size=32"])
    assert build_detector(chosen, 2).get_layer("outside_cnn").output_shape[-1] == 4


def test_names_are_registered_once(registries):
    def build(shape, weights):
        return None

    register.register_backbone("mine")(build)
    register.register_backbone("mine", min_size=9)(build)  # the same again, as in a notebook
    assert registry.BACKBONES["mine"].min_size == 9
    for name in ("mine", "resnet50"):
        with pytest.raises(UserError, match=f"backbone '{name}' is already registered"):
            register.register_backbone(name)(lambda shape, weights: None)


def test_a_fault_of_the_package_is_no_fault_of_a_plug_in(monkeypatch, registries):
    def faulty(shape, weights, **options):
        raise ValueError("a bug")

    monkeypatch.setitem(
        registry.BACKBONES._entries, "small_resnet", registry.BACKBONES.entry_type(faulty)
    )
    with pytest.raises(ValueError, match="a bug"):
        build_detector(load_experiment("demo", ["model.options={}"]), 2)


@pytest.mark.parametrize(("text", "said"), [
    ("import keras\nx = 1 +\n", r"SyntaxError: invalid syntax \(.*parts\.py, line 2\)"),
    ("x = 1\n\n\nraise ValueError('broken')\n", r"ValueError: broken \(.*parts\.py, line 4\)"),
    ("def load():\n    return {}['k']\nload()\n", r"KeyError: 'k' \(.*parts\.py, line 2, in load"),
    ("import no_such_thing.at_all\n", r"imports 'no_such_thing', which is not .*py, line 1"),
    ("from keras import no_such\n", r"ImportError: cannot import name 'no_such'.*py, line 1"),
    ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*parts\.py, line 2\)"),
    ("import tfdetect\n@tfdetect.register_head\ndef mine(x):\n    pass\n", "a name is text"),
])  # fmt: skip
def test_a_plug_in_that_cannot_be_imported_is_named(text, said, tmp_path, monkeypatch, registries):
    """As a file and as a module; what it raised is the cause, and nothing of it stays."""
    (tmp_path / "outside_parts.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for source in (str(tmp_path / "outside_parts.py"), "outside_parts"):
        with pytest.raises(UserError, match=said) as raised:
            load_experiment("demo", [f"plugins=[{source}]"])
        if "name is text" not in said:
            assert f"The plug-in {source!r}" in str(raised.value)
            assert raised.value.__cause__ is not None
        assert not plugins.is_loaded(source)


def test_an_entry_point_that_cannot_be_imported_is_named(tmp_path, monkeypatch, registries):
    info = tmp_path / "outside_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-heads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tfdetect.heads]\nlost = outside_heads:lost\nfew = outside_heads:few\n"
    )
    (tmp_path / "outside_heads.py").write_text("def few(features):\n    return features\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="'lost', which the package outside-heads offers.*Attrib"):
        registry.HEADS.load("lost")
    with pytest.raises(
        UserError, match="function few, .*outside_heads.py, line 1.*takes .features"
    ):
        registry.HEADS.load("few")


@pytest.mark.parametrize("kind", [
    "backbone", "front_end", "head", "mask_head", "loss", "augmentation",
])  # fmt: skip
def test_functions_take_the_arguments_of_their_kind(kind, registries):
    """And the contract that a message states is that of the decorator's documentation."""
    decorator = getattr(register, f"register_{kind}")
    known = {
        "backbone": registry.BACKBONES, "front_end": registry.FRONT_ENDS, "head": registry.HEADS,
        "mask_head": registry.MASK_HEADS, "loss": registry.LOSSES,
        "augmentation": registry.AUGMENTATIONS,
    }[kind]  # fmt: skip
    assert decorator.__doc__.splitlines()[0].split(": ", 1)[1] == f"{known.contract.text}."
    with pytest.raises(UserError) as raised:
        decorator("few")(lambda *, width=3: None)
    assert "takes (width=3). It is called with (" in str(raised.value)
    assert f"{known.kind} is {known.contract.text}." in str(raised.value)
    assert __file__ in str(raised.value) and "few" not in known


def pooled(features, outputs):
    return layers.Dense(outputs)(layers.GlobalMaxPooling2D()(features))


def convolution(shape, filters=4):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Conv2D(filters, 3, 2, padding="same")(inputs))


class Unbuilt(keras.Model):
    def call(self, x):
        return x


class Failing(layers.Layer):
    def call(self, x):
        raise ValueError("of a layer")


RETURNED = {
    "backbone": [
        (lambda shape, weights: None, "returned None"),
        (lambda shape, weights: Unbuilt(), "returned <Unbuilt.* functional keras.Model"),
        (lambda shape, weights: convolution((8, 8, 3)), r"from float32 \[B, 8, 8, 3\] to"),
        (lambda shape, weights: keras.Sequential(), "returned <Sequential.* functional"),
        (lambda shape, weights: keras.Model(x := keras.Input(shape), layers.Flatten()(x)),
         r"to float32 \[B, 3072\]. It must .*\[B, h, w, c\]"),
        (lambda shape, weights: keras.Model(x := keras.Input(shape), [x, x]), "to 2 tensors"),
        (lambda shape, weights: convolution(shape, -1), "raised ValueError.*test_plugins.py, line"),
        (lambda shape, weights, *, width: None, "'width' is missing, which has no default"),
    ],
    "front_end": [
        (lambda images: None, r"returned NoneType None. It must return float32 \[B, 32, 32, c\]"),
        (lambda images: images[:, ::2, ::2], r"float32 \[B, 16, 16, 3\].*\[B, 32, 32, c\]"),
        (lambda images: images[..., 0], r"returned float32 \[B, 32, 32\]"),
        (lambda images: keras.ops.cast(images, "int32"), r"returned int32 \[B, 32, 32, 3\]"),
        (lambda images: Failing()(images), "raised ValueError: of a layer .*in call"),
    ],
    "head": [
        (lambda features, outputs, dropout, l2: features, r"returned float32 \[B, .*\[B, 1\] here"),
        (lambda features, outputs, dropout, l2: pooled(features, 2), r"returned float32 \[B, 2\]"),
        (lambda features, outputs, dropout, l2: [pooled(features, outputs)], "returned list"),
        (lambda features, outputs, dropout, l2: 1 / 0, "raised ZeroDivisionError: division by z"),
    ],
    "mask_head": [
        (lambda image, features, maps: image, r"float32 \[B, 32, 32, 3\].*return {\"mask\""),
        (lambda image, features, maps: {"masks": image[..., :1]}, r"returned {'masks': float32"),
        (lambda image, features, maps: {"mask": image[:, ::2, ::2, :1]}, r"\[B, 16, 16, 1\]}"),
        (lambda image, features, maps: {"mask": image}, r"{'mask': float32 \[B, 32, 32, 3\]}"),
        (lambda image, features, maps: maps[99], "raised IndexError"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, n) for kind, cases in RETURNED.items() for n in range(len(cases))]
)
def test_parts_of_a_detector_that_return_the_wrong_thing_are_named(kind, number, registries):
    function, said = RETURNED[kind][number]
    getattr(register, f"register_{kind}")("wrong")(function)
    chosen = [f"model.{kind}=wrong", "data.image_size=32"]
    with pytest.raises(UserError, match=said) as raised:
        build_detector(load_experiment("demo", chosen), 2)
    if "missing" not in said:
        assert f"{kind.replace('front_end', 'front-end').replace('_', ' ')} 'wrong'" in str(
            raised.value
        )
    if "raised" in said:
        assert "TFDETECT_TRACEBACK=1" in str(raised.value)
        assert type(raised.value.__cause__).__name__ in str(raised.value)


def test_a_front_ends_sides_are_those_that_it_says(registries):
    def halved(side, options):
        return side / 2

    register.register_front_end("wrong", output_side=halved)(lambda images: images[:, ::2, ::2])
    experiment = load_experiment("demo", ["model.front_end=wrong", "data.image_size=32"])
    with pytest.raises(UserError, match=r"\[B, 16\.0, 16\.0, c\]"):
        build_detector(experiment, 2)
    register.register_front_end("failing", output_side=lambda side: side)(lambda images: images)
    with pytest.raises(UserError, match="front-end 'failing' .*raised TypeError.*2 were given"):
        load_experiment("demo", ["model.front_end=failing"])


class Broken(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return y_pred.no_such_method()


class Several(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return y_pred


@pytest.mark.parametrize(("build", "said"), [
    (lambda classes, label_smoothing: None, "loss 'wrong' .*returned None.*keras.losses.Loss"),
    (lambda classes, label_smoothing: keras.losses.Loss, "returned <class"),
    (lambda classes, label_smoothing: 1 / 0, "raised ZeroDivisionError"),
    (lambda n, smoothing: Broken(), r"raised AttributeError.*no_such_method.*in call\)"),
    (lambda n, smoothing: Several(), r"returned a loss that returns float32 \[B?2?, 1\]"),
    (lambda n, smoothing, *, gamma: Several(), "loss_options: the option 'gamma' is missing"),
])  # fmt: skip
def test_losses_that_are_none_are_named(build, said, registries):
    from tfdetect.training.losses import losses_of, try_loss

    register.register_loss("wrong")(build)
    training = load_experiment("demo", ["training.loss=wrong"]).training
    with pytest.raises(UserError, match=said):
        try_loss(training, 2, losses_of(training, 2, ["label"])[0]["label"])


def one_pixel_less(images, seed):
    if tf.reduce_any(images > 0):  # Python, which AutoGraph translates
        images = images[:, 1:]
    return images


def undefined(images, seed):
    if tf.reduce_any(images > 0):
        images = tf.no_such_function(images)
    return images


@pytest.mark.parametrize(("function", "with_masks", "said"), [
    (lambda images, seed: None, False, "returned NoneType None"),
    (lambda images, seed: images[:, 1:], False, r"uint8 \[4, 7, 8, 3\].*images uint8 \[4, 8, 8, 3"),
    (one_pixel_less, False, r"returned uint8 \[4, 7, 8, 3\]"),
    (lambda images, seed: images[1:], False, r"returned uint8 \[3, 8, 8, 3\]"),
    (lambda images, seed: tf.cast(images, tf.float32), False, r"returned float32 \[4, 8, 8, 3\]"),
    (lambda images, seed: (images, images), False, r"uint8 \[4, 8, 8, 3\], uint8 \[4, 8, 8, 3\]"),
    (lambda images, seed, masks: images, True, r"masks uint8 \[4, 8, 8, 1\] here"),
    (lambda images, seed, masks: (images, images), True, r"masks uint8 \[4, 8, 8, 1\] here"),
    (lambda images, seed, targets: images, False, r"targets float32 \[4, 1\] here"),
    (undefined, False, r"raised AttributeError.*no_such_function.*py, line \d+, in undefined\)"),
    (lambda images, seed: tf.gather(images, [9, 1, 2, 3]), False, "raised InvalidArgumentError"),
    (lambda x, rng, share: x, False, "data.augment, wrong: the option 'share' is missing"),
])  # fmt: skip
def test_augmentations_that_return_the_wrong_thing_are_named(
    function, with_masks, said, registries
):
    from tfdetect.data.augmentation import check_policy, try_policy

    register.register_augmentation("wrong")(function)
    policy = load_experiment("demo", ["data.augment=[wrong]"]).data.augment
    with pytest.raises(UserError, match=said):
        policy = check_policy(policy, (8, 8), with_masks)
        try_policy(policy, (8, 8), (8, 8), 4, 2, with_masks)


def test_augmentations_that_take_a_size_return_it(registries):
    from tfdetect.data.augmentation import check_policy, try_policy

    @register.register_augmentation("smaller")
    def smaller(x, rng, size, masks):
        return [x[:, : size[0], : size[1]], None if masks is None else masks[:, :6, :6]]

    policy = load_experiment("demo", ["data.augment=[smaller]"]).data.augment
    for with_masks in (False, True):
        checked = check_policy(policy, (6, 6), with_masks)
        try_policy(checked, (8, 8), (6, 6), 4, 2, with_masks)


def test_a_command_shows_the_traceback_of_a_plug_in_if_asked(
    tmp_path, monkeypatch, capsys, registries
):
    from tfdetect.core.run_command import run_command

    plugin = tmp_path / "broken.py"
    plugin.write_text("def f():\n    raise ValueError('broken')\n\n\nf()\n")

    def command(argv):
        plugins.load_plugin(plugin)

    for variable, shown in (("0", False), ("1", True)):
        monkeypatch.setenv("TFDETECT_TRACEBACK", variable)
        assert run_command(command, []) == 2
        said = capsys.readouterr().err
        assert "line 2, in f). Correct it. TFDETECT_TRACEBACK=1" in said
        assert ("Traceback (most recent call last)" in said) == shown
        assert ("direct cause" in said) == shown


def test_a_loss_of_the_users_own_is_what_is_trained(folder_dataset, tmp_path, registries):
    @register.register_loss("constant")
    def constant(classes, label_smoothing, value: float = 1.0):
        class Constant(keras.losses.Loss):
            def call(self, y_true, y_pred):
                return 0 * y_pred[:, 0] + value

        return Constant()

    chosen = ["training.loss=constant", "training.loss_options={value: 3}", "training.epochs=1"]
    _, state = fit_small(folder_dataset, tmp_path / "fit", chosen)
    np.testing.assert_allclose(state.history[0]["loss"], 3.0, rtol=1e-6)
    with pytest.raises(UserError, match="training.loss_options: unknown option 'valeu'"):
        fit_small(folder_dataset, tmp_path / "x", [*chosen, "training.loss_options={valeu: 3}"])
    with pytest.raises(UserError, match="Did you mean 'cross_entropy'"):
        load_experiment("demo", ["training.loss=crossentropy"])


def test_a_callback_that_stops_ends_all_stages(folder_dataset, tmp_path):
    """Also after a resume; early stopping ends its own stage only."""
    from tfdetect.training.callbacks import Pruner
    from tfdetect.training.monitor import Monitor

    seen = []

    def should_stop(epoch, value):
        seen.append((epoch, value))
        return epoch == 2

    stages = ["training.stages=[{epochs: 3}, {epochs: 2}]"]
    pruner = Pruner(Monitor("val_auc", title="AUC"), should_stop)
    _, state = fit_small(folder_dataset, tmp_path / "fit", stages, callbacks=[pruner])
    assert state.ended and [epoch for epoch, _ in seen] == [1, 2]
    assert [value for _, value in seen] == [row["val_auc"] for row in state.history]
    _, again = fit_small(folder_dataset, tmp_path / "fit", stages)
    assert again.ended and again.epoch == 2
    stopping = [
        *stages, "training.early_stopping=0", "training.optimizer.learning_rate=1e-12",
        f"model.options={OPTIONS}",
    ]  # fmt: skip
    _, state = fit_small(folder_dataset, tmp_path / "early", stopping)
    assert not state.ended and state.stage == 1 and state.epoch < 5


def options(number: int = 1, part: float = 0.5, names: list[str] = (), flag: bool = False,
            kind: Literal["a", "b"] = "a", positive: Annotated[int, Field(gt=0)] = 1,
            plain=1.0):  # fmt: skip
    """Every kind of option."""


def test_options_are_converted_where_nothing_is_lost():
    given = {"number": 2.0, "part": 1, "names": ("x",), "flag": True, "kind": "b", "plain": 2}
    expected = {"number": 2, "part": 1.0, "names": ["x"], "flag": True, "kind": "b", "plain": 2.0}
    assert check_options(options, given, "key") == expected


@pytest.mark.parametrize(("given", "message"), [
    ({"nubmer": 1}, "key: unknown option 'nubmer'. Did you mean 'number'"),
    ({"number": 1.5}, "key.number.*Received: 1.5"),
    ({"number": "many"}, "key.number.*Received: 'many'"),
    ({"number": True}, "key.number: takes a number"),
    ({"names": 3}, "key.names.*Received: 3"),
    ({"kind": "c"}, "key.kind.*'a' or 'b'.*Received: 'c'"),
    ({"positive": 0}, "key.positive.*greater than 0"),
    ({"plain": "x"}, "key.plain.*Received: 'x'"),
])  # fmt: skip
def test_mistaken_options_are_explained(given, message):
    with pytest.raises(UserError, match=message):
        check_options(options, given, "key")
