"""What TensorBoard shows beside curves: read back from the event files and by its projector."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import fit_small, write_images
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig, projector_plugin

from tfdetect.core.data_settings import Data
from tfdetect.core.load_spec import load_spec
from tfdetect.core.training_settings import Training
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.validation_stream import validation_data
from tfdetect.evaluation.predictions import predict_files
from tfdetect.models.saving import load_detector
from tfdetect.training.tensorboard import ErrorImages, write_projector


def validation_of(root):
    spec, folders = load_spec(str(root))
    catalog = build_catalog(spec, folders, progress=False)
    rows = catalog.split("train")
    return validation_data(catalog, rows, Data(image_size=24), 2, 16), catalog.files(rows)


def images_in(folder):
    """Returns the images of the event files in a folder by tag and step, uint8 [n, H, W, 3]."""
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            width, height, *encoded = event.tensor_proto.string_val
            pictures = [tf.io.decode_png(each).numpy() for each in encoded]
            assert all(p.shape[:2] == (int(height), int(width)) for p in pictures)
            found[tag, event.step] = np.stack(pictures)
    return found


def test_errors_are_written_as_images(shared_run, tmp_path):
    run, _ = shared_run
    root = tmp_path / "swapped"  # the fakes of its "real" class are false alarms
    write_images(root / "real", 12, 1)
    write_images(root / "fake", 3, 0)
    validation, files = validation_of(root)
    detector = load_detector(run)
    errors = ErrorImages(detector, validation, tmp_path / "logs", 2, None)
    for epoch in range(4):
        errors.on_epoch_end(epoch)
    found = images_in(tmp_path / "logs/validation")
    assert {step for _, step in found} == {1, 3}
    # The wrong ones, and the surest first, by predictions of whole files.
    p_fake = {file: float(row["p_fake"]) for file, row in zip(files, rows_of(run, files))}
    alarms = sorted((f for f in files if "real" in f), key=lambda f: -p_fake[f])
    shown = found["errors/false alarms", 3]
    assert 0 < len(shown) <= 12
    np.testing.assert_array_equal(shown[0], np.asarray(Image.open(alarms[0])))


def rows_of(run, files):
    return predict_files(run, load_detector(run), files, progress=False).to_pylist()


def test_features_are_written_for_the_projector(shared_run, tmp_path, monkeypatch):
    run, pictures = shared_run
    validation, files = validation_of(pictures)
    monkeypatch.setattr("tfdetect.training.tensorboard.MAX_POINTS", 40)
    write_projector(load_detector(run), validation, tmp_path)
    folder = tmp_path / "validation"
    text = (folder / "projector_config.pbtxt").read_text()
    [embedding] = text_format.Parse(text, ProjectorConfig()).embeddings
    features = projector_plugin._read_tensor_tsv_file(str(folder / embedding.tensor_path))
    assert 20 < len(features) <= 40 and features.shape[1] == 16 and np.ptp(features) > 0
    head, *rows = (folder / embedding.metadata_path).read_text().splitlines()
    assert head.split("\t") == ["class", "P(fake)"] and len(rows) == len(features)
    step = -(-len(files) // len(features))
    kept = files[::step] if len(files[::step]) == len(features) else None
    assert kept is not None
    assert [row.split("\t")[0] == "fake" for row in rows] == ["/fake/" in file for file in kept]
    sprite = np.asarray(Image.open(folder / embedding.sprite.image_path))
    assert list(embedding.sprite.single_image_dim) == [24, 24]
    np.testing.assert_array_equal(sprite[:24, 24:48], np.asarray(Image.open(kept[1])))


@pytest.mark.slow
def test_a_training_writes_both(folder_dataset, tmp_path):
    settings = "training.tensorboard={histograms: true, images: true, embeddings: true}"
    fit_small(folder_dataset, tmp_path / "run", [settings, "training.ema=0.9"])
    logs = tmp_path / "run/logs/validation"
    assert (logs / "projector_config.pbtxt").is_file()
    events = EventAccumulator(str(tmp_path / "run/logs/train"), {"tensors": 0}).Reload()
    assert any("kernel/histogram" in tag for tag in events.Tags()["tensors"])
    events = EventAccumulator(str(logs), {"tensors": 0}).Reload()
    assert any("errors/" in tag for tag in events.Tags()["tensors"])


def test_settings_of_older_runs_are_understood():
    found = Training(tensorboard_histograms=2)
    assert found.tensorboard.histograms == 2 and found.tensorboard.images == 0
    assert Training(tensorboard={"images": True, "histograms": False}).tensorboard.images == 1
