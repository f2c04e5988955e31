"""Every registered backbone and head: builds, learns, saves; published counts."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import OPTIONS, run_at

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.registry import (
    AUGMENTATIONS,
    BACKBONES,
    FILLS,
    FRONT_ENDS,
    HEADS,
    LOSSES,
    MASK_HEADS,
    MASKS,
)
from tfdetect.models.backbones import build_backbone
from tfdetect.models.detector import build_detector
from tfdetect.models.detector_parts import backbone_of, describe
from tfdetect.models.inference import probabilities
from tfdetect.models.pyramid import with_maps
from tfdetect.models.saved_model import export_saved_model, run_signature
from tfdetect.models.saving import load_detector, save_detector

# One reduced model a family; the rest of the registry, at full size, is marked slow.
REDUCED = {
    "small_resnet": (16, {"widths": [8, 16], "blocks": [1, 1], "strides": [1, 2], "stem": 8}),
    "two_stream": (32, {"widths": [8, 16], "blocks": [1, 1], "strides": [2, 2], "stem": 8}),
    "resnet18": (32, {"stackwise_num_filters": [64, 16, 16, 16],
                      "stackwise_num_blocks": [1, 1, 1, 1]}),
    # Half a second a block, whatever its size.
    "swin_t": (224, {"patch_size": 16, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}),
    "deit_t": (32, {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}),
    "vit_b": (48, {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "mlp_dim": 32}),
    "mobilenetv3_small": (32, {"alpha": 0.35, "minimalistic": True}),
}  # fmt: skip
# Those of one published detector each are tested with it, in test_published.py.
NETWORKS = {name for name, entry in BACKBONES.items() if ".networks." in entry.module}
FULL = {name: BACKBONES[name].min_size for name in BACKBONES if name not in {*REDUCED, *NETWORKS}}
FULL.pop("trace_statistics")  # it has no weights, and no map for a mask head
HARNESS = [
    *(pytest.param(name, *case, id=name) for name, case in REDUCED.items()),
    *(pytest.param(name, size, {}, id=name, marks=pytest.mark.slow) for name, size in FULL.items()),
]  # fmt: skip


def detector(backbone, size, options=None, head="linear", classes=2, **model):
    experiment = load_experiment("demo", [
        f"model.backbone={backbone}", f"data.image_size={size}", f"model.options={options or {}}",
        f"model.head={head}", *(f"model.{k}={v}" for k, v in model.items()),
    ])  # fmt: skip
    return build_detector(experiment, classes)


def images(count, size):
    return tf.random.stateless_uniform([count, size, size, 3], [1, 2], 0, 255)


REGISTRIES = [FRONT_ENDS, BACKBONES, HEADS, MASK_HEADS, LOSSES, AUGMENTATIONS, MASKS, FILLS]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_registered_name_can_be_imported(registry):
    for name in registry:
        assert callable(registry.load(name))
    with pytest.raises(UserError, match=f"Unknown {registry.kind} 'nothing-like-it'"):
        registry.load("nothing-like-it")


def check(model, size, classes, tmp_path, export=True):
    """Finite logits, a gradient for every weight, and the same scores after saving and export."""
    x = images(2, size)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)["label"]
        loss = tf.reduce_mean(tf.square(logits - 1.0))
    assert logits.shape == (2, 1 if classes == 2 else classes)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    dead = [v.path for v, g in zip(model.trainable_variables, gradients) if g is None]
    assert dead == []
    names = ["real", "fake", "edited"][:classes]
    run = run_at(tmp_path, names, size, masks="mask" in model.output)
    save_detector(model, run.model_path)
    expected = probabilities(model(x, training=False)["label"])
    loaded = load_detector(run)
    again = probabilities(loaded(x, training=False)["label"])
    np.testing.assert_allclose(again, expected, atol=1e-6)
    if not export:
        return
    export_saved_model(run, detector=loaded)
    [answer] = run_signature(tmp_path / "saved_model", "serving_default", [x])
    stored = (tmp_path / "saved_model/variables/variables.data-00000-of-00001").stat().st_size
    assert stored < 4.1 * model.count_params() + 100_000  # each weight once
    # The detector sees whole levels of brightness.
    rounded = probabilities(model(tf.round(x), training=False)["label"])
    np.testing.assert_allclose(answer["probabilities"], rounded, atol=1e-5)


@pytest.mark.parametrize(("backbone", "size", "options"), HARNESS)
def test_builds_learns_and_saves(backbone, size, options, tmp_path):
    check(detector(backbone, size, options), size, 2, tmp_path)


# The linear head of two classes is that of the test before.
@pytest.mark.parametrize(("classes", "head"), [
    (classes, head) for classes in (2, 3) for head in HEADS if (classes, head) != (2, "linear")
])  # fmt: skip
def test_every_head_takes_two_and_three_classes(classes, head, tmp_path):
    size, options = REDUCED["small_resnet"]
    mask = {"mask_head": "decoder"} if head == "top_pixels" else {}
    model = detector("small_resnet", size, options, head, classes, **mask)
    # What a SavedModel makes of logits is the same for every head.
    check(model, size, classes, tmp_path, export=head == "linear")


def test_a_stem_may_have_a_stride(tmp_path):
    size, options = REDUCED["small_resnet"]
    options = {**options, "stem_size": 4, "stem_stride": 2}
    model = detector("small_resnet", size, options)
    assert backbone_of(model).output.shape == (None, size // 4, size // 4, 16)
    check(model, size, 2, tmp_path, export=False)
    with_mask = detector("small_resnet", size, options, mask_head="decoder")
    assert with_mask(images(1, size))["mask"].shape == (1, size, size, 1)


def test_weights_of_a_run_fit_where_a_front_end_adds_channels(tmp_path):
    size, options = REDUCED["small_resnet"]
    before = detector("small_resnet", size, options)
    before.save(tmp_path / "before.keras")
    after = detector("small_resnet", size, options, front_end="srm", with_pixels=True,
                     weights=tmp_path / "before.keras")  # fmt: skip
    x = images(3, size) / 127.5 - 1
    wide = tf.concat([x, tf.random.stateless_normal([3, size, size, 3], [5, 6])], axis=-1)
    features, expected = backbone_of(after)(wide), backbone_of(before)(x)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    with pytest.raises(UserError, match="no backbone of the same layers"):
        detector("small_resnet", size, {**options, "stem": 6}, front_end="srm", with_pixels=True,
                 weights=tmp_path / "before.keras")  # fmt: skip


# Of the whole models that end in a mask, the head that belongs to them.
MASK_HEAD_OF = {"resnet50_dilated": "fcn", "deeplabv3_resnet50": "linear", "segformer_b0": "linear"}


@pytest.mark.parametrize(("backbone", "size", "options"), HARNESS)
def test_every_backbone_predicts_masks(backbone, size, options, tmp_path):
    """A gradient for every weight, the backbone's own weights, the same mask after saving."""
    size = max(size, 64)
    plain = build_backbone(backbone, (size, size, 3), "none", options)
    shapes = [w.shape for w in with_maps(plain.model, plain.maps).weights]
    assert shapes == [w.shape for w in plain.model.weights]
    head = MASK_HEAD_OF.get(backbone, "decoder")
    model = detector(backbone, size, options, mask_head=head)
    x = images(2, size)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = tf.reduce_sum(logits["mask"] ** 2) + tf.reduce_sum(logits["label"])
    assert logits["mask"].shape == (2, size, size, 1) and logits["mask"].dtype == tf.float32
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert [v.path for v, g in zip(model.trainable_variables, gradients) if g is None] == []
    run = run_at(tmp_path, side=size, masks=True)
    save_detector(model, run.model_path)
    again = load_detector(run)(x)["mask"]  # not training is what a model does unasked
    np.testing.assert_allclose(again, model(x, training=False)["mask"], atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("backbone", "size", "options"), HARNESS)
def test_mixed_precision_is_finite_and_ends_in_float32(backbone, size, options, policy):
    keras.mixed_precision.set_global_policy(policy)
    logits = detector(backbone, size, options)(images(2, size), training=True)["label"]
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()


# Published counts of the backbones' trainable parameters; DeiT's are the distilled models'.
# Those that test_published.py counts together with a head are slow here.
COUNTS = {
    "resnet18": (224, 11_176_512),
    "resnet34": (224, 21_284_672),
    "xception": (299, 20_806_952),
    "densenet121": (224, 6_953_856),
    "efficientnet_lite0": (224, 4_652_008 - 1_281_000),  # published with the classifier
}
SLOW_COUNTS = {
    "densenet169": (224, 12_484_480),
    "densenet201": (224, 18_092_928),
    "efficientnetv2_b0": (224, 5_858_704),
    "efficientnetv2_s": (224, 20_177_488),
    "convnext_tiny": (224, 27_820_128),
    "mobilenetv3_small": (224, 927_008),
    "mobilenetv3_large": (224, 2_971_952),
    "resnet50": (224, 23_508_032),
    "resnet101": (224, 42_500_160),
    "resnet50_dilated": (224, 23_508_032),
    "swin_t": (224, 27_519_354),
    "swin_s": (224, 48_837_258),
    "swin_b": (224, 86_743_224),
    "deit_t": (224, 5_524_800),
    "deit_s": (224, 21_666_432),
    "deit_b": (224, 85_800_192),
    "vit_b": (224, 85_798_656),
    "efficientnet_lite1": (224, 5_416_680 - 1_281_000),
    "efficientnet_lite2": (224, 6_092_072 - 1_281_000),
}


@pytest.mark.usefixtures("zeros_everywhere")
@pytest.mark.parametrize(("backbone", "size", "expected"), [
    *((name, *case) for name, case in COUNTS.items()),
    *(pytest.param(name, *case, marks=pytest.mark.slow) for name, case in SLOW_COUNTS.items()),
])  # fmt: skip
def test_published_parameter_counts(backbone, size, expected):
    model = detector(backbone, size)
    nested = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    assert sum(int(tf.size(v.value)) for v in nested.trainable_variables) == expected
    logit = nested.output.shape[-1] + 1
    assert sum(int(tf.size(v.value)) for v in model.trainable_variables) == expected + logit


def test_two_streams_see_a_half_each():
    network = build_backbone("two_stream", (64, 32, 3), "none", REDUCED["two_stream"][1]).model
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 32, 3)).astype(np.float32)
    features = network(image).numpy()
    assert features.shape == (1, 16, 8, 16) and np.array_equal(features[:, :8], features[:, 8:])
    streams = keras.Model(network.inputs[0], network.get_layer("streams").output)
    upper = image.copy()
    upper[:, :32] = 0
    seen, changed = streams(image).numpy(), streams(upper).numpy()
    assert np.array_equal(seen[..., 16:], changed[..., 16:])  # of the lower half
    assert np.abs(seen[..., :16] - changed[..., :16]).max() > 0.01


def test_every_backbone_has_a_published_count():
    without = {
        "small_resnet",
        "two_stream",
        "trace_statistics",
        "deeplabv3_resnet50",
        "segformer_b0",
        *NETWORKS,
    }
    assert {*COUNTS, *SLOW_COUNTS} == set(BACKBONES) - without


PREPROCESSING = {
    "densenet121": keras.applications.densenet,
    "xception": keras.applications.xception,
}
# These have it inside the model, where it is left out here.
INSIDE = {
    "efficientnetv2_b0": keras.applications.EfficientNetV2B0,
    "efficientnetv2_s": keras.applications.EfficientNetV2S,
    "convnext_tiny": keras.applications.ConvNeXtTiny,
    "mobilenetv3_small": keras.applications.MobileNetV3Small,
    "mobilenetv3_large": keras.applications.MobileNetV3Large,
}


@pytest.mark.parametrize("backbone", [
    "mobilenetv3_small",
    *(pytest.param(name, marks=pytest.mark.slow) for name in INSIDE if "small" not in name),
])  # fmt: skip
def test_preprocessing_is_that_inside_the_model(backbone):
    ours = detector(backbone, 64)
    theirs = INSIDE[backbone](include_top=False, weights=None, input_shape=(64, 64, 3))
    nested = next(layer for layer in ours.layers if isinstance(layer, keras.Model))
    for target, source in zip(theirs.weights, nested.weights, strict=True):
        target.assign(source)
    x = images(2, 64)
    expected = theirs(x, training=False)
    features = nested(ours.get_layer("preprocess")(x), training=False)
    np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.usefixtures("zeros_everywhere")
@pytest.mark.parametrize("backbone", PREPROCESSING)
def test_preprocessing_is_that_of_the_weights(backbone):
    model = detector(backbone, 71)
    x = images(2, 71)
    ours = model.get_layer("preprocess")(x)
    theirs = PREPROCESSING[backbone].preprocess_input(x.numpy().copy())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("affine", [True, False])
def test_fused_normalization_is_keras_own(affine):
    from tfdetect.models.normalization import FusedBatchNormalization

    x = tf.random.stateless_normal([8, 5, 6, 4], [3, 4]) * 3 + 1
    ours, theirs = (
        FusedBatchNormalization(momentum=0.9, scale=affine, center=affine),
        keras.layers.BatchNormalization(momentum=0.9, scale=affine, center=affine),
    )
    for layer in (ours, theirs):
        layer.build(x.shape)
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, atol=1e-6)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, atol=1e-5)
    np.testing.assert_allclose(ours(x, training=False), theirs(x, training=False), atol=1e-5)


@pytest.mark.parametrize(("filters", "stride"), [(6, 1), (12, 2)])
def test_groups_of_one_channel_need_no_xla(filters, stride):
    from tfdetect.models.grouped_convolutions import run_groups_as_depthwise

    image = keras.Input((9, 8, 6))
    convolution = keras.layers.Conv2D(filters, 3, strides=stride, padding="same", groups=6)
    model = keras.Model(image, convolution(image))
    x = tf.random.stateless_normal([2, 9, 8, 6], [3, 4])
    expected = model(x)
    run_groups_as_depthwise(model)
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    graph = tf.function(model, autograph=False).get_concrete_function(x).graph
    assert not [op for op in graph.get_operations() if "PartitionedCall" in op.type]
    assert "tfdetect" not in model.to_json()


@pytest.mark.parametrize("filters", [4, 16])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_kernels_for_cpus_compute_what_keras_computes(precision, filters):
    from tfdetect.models.cpu_kernels import use_cpu_kernels

    keras.mixed_precision.set_global_policy(precision)

    def network():
        keras.utils.set_random_seed(0)
        image = x = keras.Input((8, 8, 3))
        for axis, stride, size, padding in (
            (-1, 2, 3, "same"), (3, 2, 3, "same"), (2, 2, 1, "same"), (-1, 1, 3, "same"),
        ):  # fmt: skip
            x = keras.layers.Conv2D(filters, size, strides=stride, padding=padding, use_bias=False)(
                x
            )
            x = keras.layers.BatchNormalization(axis=axis)(x)
        x = keras.layers.Conv2D(4, 1, padding="valid", dtype="float32")(x)
        return keras.Model(image, x)

    x = tf.random.stateless_normal([8, 8, 8, 3], [3, 4]) * 3 + 1
    plain, fast = network(), network()
    use_cpu_kernels(fast)
    found = []
    for model in (fast, plain):

        @tf.function(autograph=False)
        def step(x, model=model):
            with tf.GradientTape() as tape:
                y = model(x, training=True)
                loss = tf.reduce_sum(tf.sin(y))
            return y, tape.gradient(loss, [v.value for v in model.trainable_variables])

        found.append(step(x))
        kinds = [op.type for op in step.get_concrete_function(x).graph.get_operations()]
        normalizations = [
            op.inputs[0].dtype for op in step.get_concrete_function(x).graph.get_operations()
            if op.type == "FusedBatchNormV3"
        ]  # fmt: skip
        half = precision == "mixed_bfloat16" and filters == 16
        assert normalizations == [tf.bfloat16 if half else tf.float32] * (3 if model is fast else 0)
        assert kinds.count("ExtractImagePatches") == (1 if model is fast else 0)
        assert kinds.count("Conv2D") == (3 if model is fast else 5)
    tolerance = {"float32": 1e-4, "mixed_bfloat16": 0.1}[precision]
    largest = max(np.abs(each).max() for each in found[1][1])
    for ours, theirs in zip(*map(tf.nest.flatten, found), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance * largest)
    for ours, theirs in zip(fast.weights, plain.weights):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
    assert "tfdetect" not in fast.to_json()


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize(
    "side, size, stride, padding",
    [
        (16, 5, 1, "same"), (8, 5, 1, "same"), (7, 5, 1, "same"), (4, 5, 1, "same"),
        (2, 5, 1, "same"), (1, 5, 1, "same"), (8, 7, 1, "same"), (8, 4, 1, "same"),
        (8, 3, 1, "same"), (2, 3, 1, "same"), (8, 3, 2, "same"), (9, 5, 2, "same"),
        (8, 5, 2, "same"), (8, 5, 1, "valid"), (9, 5, 2, "valid"),
    ],
)  # fmt: skip
def test_gradients_of_depthwise_convolutions_are_those_of_keras(
    groups, precision, side, size, stride, padding
):
    from tfdetect.models.cpu_kernels import use_cpu_kernels

    options = {"strides": stride, "padding": padding, "activation": "tanh", "use_bias": False,
               "dtype": precision}  # fmt: skip
    images = tf.random.stateless_normal([3, side, side, 6], [3, 4])

    def gradients(layer, prepare=lambda model: None):
        model = keras.Sequential([keras.Input((side, side, 6)), layer])
        layer.set_weights([np.reshape(kernel, layer.kernel.shape)])
        prepare(model)
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images)
            loss = tf.reduce_sum(tf.sin(tf.cast(outputs, tf.float32)))
        found = outputs, *tape.gradient(loss, [images, *(v.value for v in layer.weights)])
        return [np.asarray(tf.cast(each, tf.float32)) for each in found]

    bound = np.sqrt(6 / (size * size * 7))
    kernel = np.random.default_rng(0).uniform(-bound, bound, (size, size, 6)).astype(np.float32)
    # Groups of one channel are the same convolution, which Keras would compile for each shape.
    plain = gradients(keras.layers.DepthwiseConv2D(size, **options))
    layer = keras.layers.DepthwiseConv2D(size, **options)
    if groups:
        layer = keras.layers.Conv2D(6, size, groups=6, **options)
    fast = gradients(layer, use_cpu_kernels)
    assert (layer.convolution_op if groups else layer.call).__name__ in (
        "_grouped_convolution", "_depthwise_call"
    )  # fmt: skip
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 0.03}[precision]
    for ours, theirs in zip(fast, plain, strict=True):
        theirs = theirs.reshape(ours.shape)
        np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Dense(4, dtype="mixed_bfloat16"),
        lambda: keras.layers.EinsumDense(
            "abcd,dhe->abche", (None, None, 2, 4), bias_axes="he", dtype="mixed_bfloat16"
        ),
        lambda: keras.layers.EinsumDense("abcd,de->abce", (32, 32, 4), dtype="mixed_bfloat16"),
        lambda: keras.layers.Conv2DTranspose(4, 3, padding="same", dtype="mixed_bfloat16"),
        lambda: keras.layers.DepthwiseConv2D(3, padding="same", dtype="mixed_bfloat16"),
    ],
    ids=["dense", "einsum", "einsum_without", "transpose", "depthwise"],
)
def test_a_bias_in_half_precision_learns_from_all_positions(make):
    from tfdetect.models.cpu_kernels import use_cpu_kernels

    layer = make()
    model = keras.Sequential([keras.Input((32, 32, 4)), layer])
    use_cpu_kernels(model)

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(model(tf.ones([4, 32, 32, 4])), tf.float32))
        return tape.gradient(loss, layer.bias.value)

    if layer.bias is not None:
        np.testing.assert_allclose(tf.cast(gradient(), tf.float32), 4 * 32 * 32, rtol=0.01)
    assert model(tf.ones([4, 32, 32, 4])).dtype == tf.bfloat16


@pytest.mark.slow
def test_kernels_for_cpus_with_those_of_onednn():
    """The other tests run without oneDNN, which trainings use."""
    names = "kernels_for_cpus_compute or gradients_of_depthwise or bias_in_half_precision"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", __file__, "-k", names],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


def test_freezing_by_number_fraction_and_name():
    options = REDUCED["small_resnet"][1]
    free = detector("small_resnet", 16, options)
    layers = len(next(m for m in free.layers if isinstance(m, keras.Model)).layers)
    first = detector("small_resnet", 16, options, freeze="{first: 5}")
    half = detector("small_resnet", 16, options, freeze="{fraction: 0.5}")
    stem = detector("small_resnet", 16, options, freeze="{names: [stem, stage1*]}")
    assert f"0 of {layers} backbone layers frozen" in describe(free, "b")
    assert describe(free, "small_resnet").startswith("small_resnet: ")
    assert f"5 of {layers} backbone layers frozen" in describe(first, "b")
    assert f"{round(layers / 2)} of {layers} backbone layers frozen" in describe(half, "b")
    trainable = {v.path for v in stem.trainable_variables}
    assert trainable and not any("stem" in p or "stage1" in p for p in trainable)
    assert len(free.trainable_variables) > len(first.trainable_variables)
    with pytest.raises(UserError, match="no layer matches 'stm'"):
        detector("small_resnet", 16, options, freeze="{names: [stm]}")
    with pytest.raises(UserError, match="there are"):
        detector("small_resnet", 16, options, freeze="{first: 5000}")


def test_weights_from_a_run_and_their_errors(shared_run, tmp_path):
    run, _ = shared_run
    model = detector("small_resnet", 48, OPTIONS, weights=run.path)
    source = keras.saving.load_model(run.model_path, compile=False)
    nested = [next(m for m in d.layers if isinstance(m, keras.Model)) for d in (model, source)]
    for ours, theirs in zip(nested[0].get_weights(), nested[1].get_weights()):
        assert np.array_equal(ours, theirs)
    with pytest.raises(UserError, match="no backbone of the same layers"):
        detector("small_resnet", 48, weights=run.path)
    with pytest.raises(UserError, match="no run and no .keras file"):
        detector("small_resnet", 48, weights=tmp_path / "none.keras")


@pytest.mark.parametrize("options", ["{width: 3}", "{widths: [8], blocks: [1, 1]}"])
def test_wrong_options_are_explained(options):
    with pytest.raises(UserError, match=r"model\.options"):
        detector("small_resnet", 16, options)


def test_weights_without_a_network_say_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    for backbone in ("mobilenetv3_small", "resnet18"):
        with pytest.raises(UserError, match="model.weights=none"):
            detector(backbone, 32, weights="imagenet")


def test_probabilities():
    two = probabilities(tf.constant([[0.0], [40.0], [-40.0]])).numpy()
    np.testing.assert_allclose(two, [[0.5, 0.5], [0, 1], [1, 0]], atol=1e-6)
    three = probabilities(tf.constant([[1.0, 2.0, 3.0]])).numpy()
    assert abs(three.sum() - 1) < 1e-6 and three.argmax() == 2
