"""ONNX exports that read their weights from the Keras file beside them."""

import json
import shutil

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import run_at

from tfdetect import api
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.run_writer import write_info
from tfdetect.light.onnx_detector import LightDetector, light_detector
from tfdetect.models import exports
from tfdetect.models.saving import save_detector
from tfdetect.models.shared_weights import share_weights
from tfdetect.serving import web_export
from tfdetect.spark.run_tasks import ONNX, run_digest

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)


def write_dense(run, seed=0):
    """Write a network of dense layers, whose kernels are the same in Keras and in ONNX."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    images = keras.Input((24, 24, 3), name="images")
    x = layers.Flatten(name="flat")(layers.Rescaling(1 / 255, name="scaled")(images))
    logit = layers.Dense(1, name="label")(layers.Dense(32, "relu", name="hidden")(x))
    detector = keras.Model(images, {"label": logit}, name="dense")
    save_detector(detector, run.model_path)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A run with both ONNX exports."""
    run = run_at(tmp_path_factory.mktemp("runs") / "dense")
    run.path.mkdir()
    write_dense(run)
    write_info(run)
    (run.path / "ensemble.yaml").write_text("members: []\n")  # it has no experiment
    written = exports.write_exports(run, ["onnx", "onnx_shared"])
    assert [each.path for each in written] == ["exports/detector.onnx", "detector.onnx"]
    assert max(each.max_difference for each in written) < 1e-5
    return run


@pytest.fixture
def shared(dense, tmp_path):
    """A copy with the one that shares its weights alone."""
    folder = shutil.copytree(dense.path, tmp_path / "shared")
    (folder / "exports" / "detector.onnx").unlink()
    return open_run(folder)


def scores(run):
    return LightDetector(run).score([[image[None]] for image in IMAGES]).table


def test_the_weights_are_in_the_keras_file_alone(dense, shared):
    whole, small = dense.path / "exports/detector.onnx", shared.path / "detector.onnx"
    assert shared.onnx_path == small and dense.onnx_path == whole
    assert whole.stat().st_size > 220_000 > 30_000 > small.stat().st_size
    assert LightDetector(shared).shared_files == [shared.model_path]
    np.testing.assert_array_equal(scores(shared), scores(dense))
    [plain] = ort.InferenceSession(small).run(["probabilities_raw"], {"images": IMAGES})
    np.testing.assert_array_equal(plain, scores(dense))  # in ONNX Runtime alone
    onnx.checker.check_model(small)


def test_export_writes_it_again_and_lists_what_is_there(shared):
    listed = shared.path / "exports" / "exports.json"
    [entry] = [each.format for each in api.export(shared) if each.format != "saved_model"]
    assert entry == "onnx_shared"
    entries = {each["format"]: each for each in json.loads(listed.read_text())}
    assert entries.keys() == {"saved_model", "onnx_shared"}  # exports/detector.onnx was removed
    size = (shared.path / "detector.onnx").stat().st_size
    assert entries["onnx_shared"]["megabytes"] == round(size / 1e6, 2)


def test_another_or_a_damaged_keras_file_is_noticed(shared):
    content, digest = shared.model_path.read_bytes(), run_digest(shared, ONNX)
    write_dense(shared, seed=1)  # trained again; as long as before
    assert shared.model_path.stat().st_size == len(content)
    with pytest.raises(UserError, match=r"weights in model\.keras, .* --format onnx_shared"):
        LightDetector(shared)
    assert light_detector(shared) is None  # TensorFlow reads the file itself
    middle = len(content) // 2
    for damaged in (
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        content[:middle],
        b"",
    ):
        shared.model_path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"detector\.onnx (has weights in|cannot be read)"):
            LightDetector(shared)
    shared.model_path.write_bytes(content)
    assert np.isfinite(scores(shared)).all() and run_digest(shared, ONNX) == digest

    shared.model_path.unlink()
    with pytest.raises(UserError, match=r"has no ONNX export"):
        LightDetector(shared)
    with pytest.raises(UserError, match=r"model\.keras is missing"):
        open_run(shared.path)
    assert run_digest(shared, ONNX) != digest


def test_a_web_export_has_the_files_with_the_weights(shared, tmp_path, monkeypatch):
    """That a browser finds them there is tested in test_web_export.py, with photo_detector."""
    monkeypatch.setattr(web_export, "archives", lambda folder: {})  # of npm
    web_export.write_web(shared, tmp_path / "web")
    folder = tmp_path / "web" / "model"
    assert (folder / "model.keras.bin").read_bytes() == shared.model_path.read_bytes()
    assert json.loads((folder / "detector.json").read_text())["shared_files"] == ["model.keras"]
    shutil.move(folder / "model.keras.bin", folder / "model.keras")
    session = ort.InferenceSession(folder / "detector.onnx")
    [found] = session.run(["probabilities_raw"], {"images": IMAGES})
    np.testing.assert_array_equal(found, scores(shared))


def test_files_of_other_folders_are_refused(shared):
    model = onnx.load(shared.path / "detector.onnx", load_external_data=False)
    [entry] = [each for each in model.metadata_props if each.key == "tfdetect_files"]
    entry.value = json.dumps({"../other": "0"})
    (shared.path / "detector.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="files in other folders"):
        LightDetector(shared)


def test_networks_whose_weights_onnx_changes_are_refused(shared_run, tmp_path, capsys):
    run, _ = shared_run
    copy = open_run(shutil.copytree(run.path, tmp_path / "copy"))
    with pytest.raises(UserError, match=r"model\.keras has \d+% .* Choose the format onnx"):
        exports.write_exports(copy, ["onnx_shared"])
    exports.export_finished_run(copy, ["onnx_shared"])
    assert "as onnx_shared" in capsys.readouterr().err
    assert not (copy.path / "detector.onnx").exists() and copy.onnx_path == run.onnx_path


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_arrays_are_found_wherever_they_are_also_transposed(offset, tmp_path):
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(32, 16)).astype(np.float32) for _ in range(2))
    codes, bias = rng.permutation(256).astype(np.uint8), np.ones(32, np.float32)
    values = {"left": left, "right": right.T, "codes": codes, "bias": bias}
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 18]>
        network (float[256, 32] x) => (float[256, 32] y) {
          a = MatMul(x, left)
          b = MatMul(a, right)
          indices = Cast<to = 6>(codes)
          c = Gather(b, indices)
          y = Add(c, bias)
        }
    """)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(each, name) for name, each in values.items()
    )
    feed = {"x": rng.normal(size=(256, 32)).astype(np.float32)}
    expected = ort.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    files = [tmp_path / "archive", tmp_path / "matrix.npy", tmp_path / "unused.npy"]
    files[0].write_bytes(b"x" * offset + codes.tobytes() + left.tobytes() + bias.tobytes())
    np.save(files[1], right)
    np.save(files[2], rng.normal(size=100))
    assert share_weights(model, files) == pytest.approx(4352 / 4480)  # all but the bias
    onnx.save(model, tmp_path / "network.onnx")
    onnx.checker.check_model(tmp_path / "network.onnx")
    session = ort.InferenceSession(tmp_path / "network.onnx")
    np.testing.assert_array_equal(session.run(None, feed)[0], expected)
    digests = json.loads(session.get_modelmeta().custom_metadata_map["tfdetect_files"])
    assert digests.keys() == {"archive", "matrix.npy"}
