"""Exports to other runtimes give the Keras model's verdicts."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tensorflow as tf
from conftest import run_at

from tfdetect.core.choices import EXPORT_FORMATS
from tfdetect.core.errors import UserError
from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.model_hubs import check_keras_files
from tfdetect.core.open_run import open_run
from tfdetect.models import exports
from tfdetect.models.feature_outputs import with_features
from tfdetect.models.inference import calibrated, predict_views, score_views
from tfdetect.models.onnx_graph import fuse_scale_and_offset, to_onnx
from tfdetect.models.plain_operations import plain_operations
from tfdetect.models.saving import load_detector


@pytest.fixture
def copied_run(shared_run, tmp_path):
    run, _ = shared_run
    return open_run(shutil.copytree(run.path, tmp_path / "copy"))


def test_every_format_that_commands_accept_can_be_written():
    assert tuple(exports.FORMATS) == EXPORT_FORMATS


def test_onnx_is_the_same_detector_and_says_what_it_is(copied_run):
    run = copied_run.with_threshold(0.25)
    written = exports.write_exports(run, ["onnx", "onnx_float16"])
    assert [e.path for e in written] == ["exports/detector.onnx", "exports/detector_float16.onnx"]
    assert written[0].max_difference < 1e-5 < written[1].max_difference < 0.05
    listed = json.loads((run.path / "exports/exports.json").read_text())
    assert {"onnx", "onnx_float16"} <= {e["format"] for e in listed}

    images = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)
    session = ort.InferenceSession(run.path / "exports/detector.onnx")
    names = [output.name for output in session.get_outputs()]
    out = dict(zip(names, session.run(None, {"images": images})))
    raw = predict_views(load_detector(run), [tf.constant(images[:, None])])
    table = calibrated(raw, run.calibration).numpy()
    np.testing.assert_allclose(out["probabilities_raw"], raw, atol=1e-5)
    np.testing.assert_allclose(out["probabilities"], table, atol=1e-5)
    np.testing.assert_array_equal(out["label"], table[:, 1] >= 0.25)
    assert out["inconclusive"].dtype == bool and out["p_fake"].shape == (5,)
    check_domain(run, out, images)
    assert session.run(["p_fake"], {"images": images[:0]})[0].shape == (0,)
    # ONNX Runtime's own sigmoid is 0 below a logit of -18.
    types = [node.op_type for node in onnx.load(run.path / "exports/detector.onnx").graph.node]
    assert "Softmax" in types and "Sigmoid" not in types

    written = onnx.load(run.path / "exports/detector.onnx")
    assert "BatchNormalization" in {node.op_type for node in written.graph.node}
    [entry] = written.metadata_props
    said = json.loads(entry.value)
    assert entry.key == "tfdetect" and said["info"]["class_names"] == ["real", "fake"]
    assert said["info"]["dataset"]["roots"] == {} and str(run.path) not in entry.value


def test_the_keras_file_has_the_verdicts_inside(copied_run):
    run = copied_run.with_threshold(0.25)
    [written] = exports.write_exports(run, ["keras"])
    assert written.path == "exports/detector.keras" and written.max_difference < 1e-5
    check_keras_files(run.path, run.name)  # it may be pushed
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)
    model = keras.saving.load_model(run.path / written.path, compile=False)
    out = model.predict(images, verbose=0)
    raw = predict_views(load_detector(run), [tf.constant(images[:, None])])
    table = calibrated(raw, run.calibration).numpy()
    np.testing.assert_allclose(out["probabilities_raw"], raw, atol=1e-5)
    np.testing.assert_allclose(out["probabilities"], table, atol=1e-5)
    np.testing.assert_array_equal(out["label"], table[:, 1] >= 0.25)
    low, high = run.abstention_band
    np.testing.assert_array_equal(out["inconclusive"], (table[:, 1] >= low) & (table[:, 1] < high))
    check_domain(run, out, images)
    assert {value.shape[0] for value in model(images[:0]).values()} == {0}


def test_scales_and_offsets_become_batch_normalizations():
    constants = {"scale": (3, 1, 1), "offset": (1, 3, 1, 1), "one": (1, 1, 1), "row": (1, 1, 1, 3)}
    rng = np.random.default_rng(0)
    values = [onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
              for name, shape in constants.items()]  # fmt: skip
    nodes = [
        ("Mul", "scale", "x", "a"), ("Add", "a", "offset", "b"),  # replaced
        ("Mul", "b", "one", "c"), ("Add", "c", "offset", "d"),
        ("Mul", "d", "scale", "e"), ("Add", "e", "row", "f"),
        ("Mul", "f", "scale", "g"), ("Add", "g", "offset", "h"), ("Add", "g", "h", "y"),
    ]  # fmt: skip
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3, 4, 3])
               for name in ("x", "y")]  # fmt: skip
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, [left, right], [to]) for kind, left, right, to in nodes],
        "graph", tensors[:1], tensors[1:], values,
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)],
                                   ir_version=8)  # fmt: skip
    feed = {"x": rng.normal(size=(2, 3, 4, 3)).astype(np.float32)}
    before = ort.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    assert fuse_scale_and_offset(model) == 1
    onnx.checker.check_model(model)
    after = ort.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in model.graph.node].count("Mul") == 3


def test_gelu_and_captured_tensors_are_expressed_in_onnx():
    shift = tf.constant([1.0, 0.5, 0.0, 2.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
    def twice(x):
        return {"y": tf.nn.gelu(tf.nn.gelu(x) - shift)}

    model = to_onnx(twice)
    onnx.checker.check_model(model)
    x = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
    [found] = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_allclose(found, twice(x)["y"], atol=1e-6)


def test_plain_operations_compute_the_same():
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 10)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    expected = np.fft.fft2(x + 1j * y)

    @tf.function(autograph=False)
    def traced(x, y):
        with plain_operations():
            real, imaginary = keras.ops.fft2((x, y))
            rolled = [keras.ops.roll(x, *how) for how in ((2, 1), ((-1, 3), (2, 3)), (0, 0))]
        return real, imaginary, rolled

    real, imaginary, rolled = traced(x, y)
    np.testing.assert_allclose(real, expected.real, atol=1e-4)
    np.testing.assert_allclose(imaginary, expected.imag, atol=1e-4)
    for found, how in zip(rolled, ((2, 1), ((-1, 3), (2, 3)), (0, 0))):
        np.testing.assert_array_equal(found, np.roll(x, *how))
    kinds = {each.type for each in traced.get_concrete_function(x, y).graph.get_operations()}
    assert not kinds & {"Roll", "FFT2D", "Complex"}
    assert "Roll" in {each.op.type for each in [_in_graph(lambda: keras.ops.roll(x, 1, 0))]}


def _in_graph(function):
    with tf.Graph().as_default():
        return function()


def test_one_number_is_added_to_a_convolution_in_onnx():
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(3, 3, *sides)) for sides in ((2, 4), (4, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None, 6, 6, 2], tf.float32, "x")])
    def hard_swish(x):
        y = tf.nn.conv2d(x, tf.constant(first, tf.float32), 1, "SAME") + 3.0
        y = tf.nn.relu6(y) / 6
        return {"y": tf.nn.conv2d(y, tf.constant(second, tf.float32), 1, "SAME")}

    model = to_onnx(hard_swish)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node].count("Transpose") <= 2
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype(np.float32)
    [found] = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_allclose(found, hard_swish(x)["y"], atol=1e-4)


def test_a_reshape_copies_lengths_of_its_own_input():
    """Attention with one head over an unknown number of positions, as in SegFormer."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, 6], tf.float32, "x")])
    def keys(x):
        flat = tf.matmul(tf.reshape(x, [-1, 6]), tf.eye(6))
        split = tf.reshape(flat, [tf.shape(x)[0], -1, 1, 6])
        return {"y": tf.matmul(tf.transpose(split, [0, 2, 1, 3]), tf.eye(6))}

    model = to_onnx(keys)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    [found] = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_allclose(found, x[:, None], atol=1e-6)


def test_images_are_resized_in_half_precision():
    from onnxruntime.transformers.float16 import convert_float_to_float16

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2], tf.float32, "x")])
    def enlarged(x):
        return {"y": tf.image.resize(x, [8, 8])}

    model = convert_float_to_float16(to_onnx(enlarged), keep_io_types=True)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    [found] = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_allclose(found, enlarged(x)["y"], atol=0.01)


def test_slices_leave_whole_axes_alone():
    @tf.function(input_signature=[tf.TensorSpec([None, 5, 6], tf.float32, "x")])
    def sliced(x):
        return {"y": x[:, ::2, 1:] + x[:, None][:, 0, :1, :1]}

    model = to_onnx(sliced)
    onnx.checker.check_model(model)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    axes = [constants[node.input[3]] for node in model.graph.node if node.op_type == "Slice"]
    assert axes and not any(0 in each for each in axes)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    [found] = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_array_equal(found, sliced(x)["y"])


def check_domain(run, out, images):
    """Compare distances and `in_domain` with those of the Keras model; noise lies outside."""
    domain = run.info.domain
    scores = score_views(with_features(load_detector(run)), [tf.constant(images[:, None])])
    expected = FeatureDistance.load(run.path, domain.rest)(scores.features.numpy())
    np.testing.assert_allclose(out["feature_distance"], expected, rtol=1e-3)
    assert out["in_domain"].tolist() == (expected <= domain.limit).tolist()
    assert not out["in_domain"].all()


def test_an_export_that_differs_is_refused_and_removed(copied_run, monkeypatch):
    monkeypatch.setitem(exports.FORMATS, "onnx", replace(exports.FORMATS["onnx"], tolerance=-1.0))
    with pytest.raises(UserError, match="differs by .* from that of the Keras model"):
        exports.write_exports(copied_run, ["onnx"])
    assert not (copied_run.path / "exports/detector.onnx").exists()


def test_a_detector_that_a_format_cannot_express_is_told(tmp_path):
    pixels = keras.Input((8, 8, 3))

    def in_python(x):
        mean = tf.numpy_function(
            lambda y: y.mean((1, 2, 3), keepdims=True)[..., 0, 0], [x], tf.float32
        )
        return tf.ensure_shape(mean, [None, 1])

    strange = keras.layers.Lambda(in_python, output_shape=(1,))
    model = keras.Model(pixels, {"label": strange(pixels)})
    run = run_at(tmp_path, side=8)
    with pytest.raises(UserError, match="Cannot export .* as onnx: "):
        exports.write_exports(run, ["onnx"], detector=model)


def test_unknown_formats_and_missing_packages_are_told_at_once(copied_run, monkeypatch):
    from tfdetect import api

    with pytest.raises(UserError, match="Unknown export format 'onx'. Did you mean 'onnx'?"):
        api.export(copied_run, ["onx"])
    monkeypatch.setitem(
        exports.FORMATS,
        "openvino",
        replace(exports.FORMATS["openvino"], modules=("not_there_at_all",)),
    )
    with pytest.raises(UserError, match="needs not_there_at_all, which is not installed"):
        api.export(copied_run, ["openvino"])


def test_export_writes_the_formats_that_a_run_has(copied_run):
    from tfdetect import api

    shutil.rmtree(copied_run.path / "exports", ignore_errors=True)
    assert exports.exported_formats(copied_run) == ["saved_model"]
    shutil.rmtree(copied_run.path / "saved_model")
    assert exports.exported_formats(copied_run) == []
    exports.write_exports(copied_run, ["onnx"])
    written = [each.format for each in api.export(copied_run)]
    assert written == exports.exported_formats(copied_run) == ["saved_model", "onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert", "litert_float16", "litert_int8", "openvino"])
def test_formats_of_optional_packages(copied_run, name, capfd):
    for module in exports.FORMATS[name].modules:
        pytest.importorskip(module)
    [written] = exports.write_exports(copied_run, [name])
    assert written.max_difference < 0.01 and (copied_run.path / written.path).exists()
    assert "XNNPACK" not in capfd.readouterr().err
    if name == "litert":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(copied_run.path / written.path)).get_signature_runner()
        images = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), np.uint8)
        check_domain(copied_run, runner(images=images), images)
