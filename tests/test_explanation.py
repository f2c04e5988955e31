"""Explanations: the laws of the maps, what files say of themselves, the pages."""

import html
import io
import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_at
from PIL import ExifTags, Image, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

import tfdetect
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import FailedWrites
from tfdetect.core.open_run import open_run
from tfdetect.core.probability import add_to_logit, logit
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import View
from tfdetect.core.run_writer import write_info
from tfdetect.evaluation.prediction_columns import uncalibrated as uncalibrated_of
from tfdetect.evaluation.predictions import CompiledDetector
from tfdetect.evaluation.stability import (
    FEW_REENCODINGS,
    REENCODINGS,
    changed_by,
    reencoding,
    reencodings_of,
    stability_sentences,
)
from tfdetect.evaluation.verdict_words import percent, verdict_words, what_is_read
from tfdetect.explain import main as explain_command
from tfdetect.explanation import image_page, maps, wording
from tfdetect.explanation.examination import Examiner
from tfdetect.explanation.feature_maps import FRONT_END, feature_maps
from tfdetect.explanation.maps import Effort, Explainer, shuffled
from tfdetect.explanation.patches import flattened, patch_grid
from tfdetect.forensics.file_metadata import read_metadata
from tfdetect.models.detector import build_detector
from tfdetect.models.saving import load_detector, write_model
from tfdetect.predict import main as predict_command

SMALL = {
    "backbone": "small_resnet",
    "options": {"widths": [8, 16], "blocks": [1, 1], "strides": [1, 2], "stem": 8},
}


def detector_of(model: dict, size: int, classes: int = 2) -> keras.Model:
    experiment = Experiment.model_validate({"name": "x", "data": {"image_size": size},
                                            "model": model})  # fmt: skip
    return build_detector(experiment, classes)


def image_of(size: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (6, 6, 3), np.uint8))
    image = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return np.clip(image + draw.normal(0, 8, image.shape), 0, 255).astype(np.float32)[None]


def linear(weights: np.ndarray, bias: float = 0.3) -> keras.Model:
    """A detector whose logit is linear in its pixels."""
    images = keras.Input(weights.shape, name="image")
    x = keras.layers.Flatten()(images)
    dense = keras.layers.Dense(1, name="logits")
    model = keras.Model(images, {"label": dense(x)})
    dense.set_weights([weights.reshape(-1, 1), np.array([bias])])
    return model


def test_integrated_gradients_of_a_linear_detector_are_weight_times_difference():
    weights = np.random.default_rng(1).normal(0, 0.01, (12, 16, 3)).astype(np.float32)
    image = image_of(16)[:, :12]
    found_map, missed = Explainer(linear(weights)).integrated_gradients([image])
    expected = (weights * (image[0] - image[0].mean((0, 1)))).sum(-1)
    np.testing.assert_allclose(found_map, expected, atol=1e-4)
    assert missed < 1e-4


def test_integrated_gradients_sum_to_the_difference_of_scores():
    explainer = Explainer(detector_of(SMALL, 32))
    _, missed = explainer.integrated_gradients([image_of(32)], steps=200)
    assert missed < 0.02


def test_occlusion_finds_the_only_region_that_counts():
    weights = np.zeros((32, 32, 3), np.float32)
    weights[8:12, 20:24] = np.random.default_rng(2).normal(0, 1, (4, 4, 3))
    image = image_of(32)
    found_map = Explainer(linear(weights)).occlusion([image])
    y, x = np.unravel_index(np.abs(found_map).argmax(), found_map.shape)
    assert 7 <= y <= 12 and 19 <= x <= 24
    assert np.abs(found_map[16:]).max() < 1e-4


def test_patches_that_change_a_score_by_no_more_than_rounding_change_nothing():
    weights = np.full((32, 32, 3), 1e-7, np.float32)
    weights[8:12, 20:24] = np.random.default_rng(2).normal(0, 1, (4, 4, 3))
    image = image_of(32)
    found_map = Explainer(linear(weights, bias=1000.0)).occlusion([image])
    assert (found_map[16:] == 0).all() and np.abs(found_map[8:12, 20:24]).min() > 0.1


def test_maps_do_not_depend_on_how_many_images_go_through_the_network_at_once(monkeypatch):
    explainer, image = Explainer(detector_of(SMALL, 32)), image_of(32)
    whole = explainer.maps([image], effort=Effort(6, overlap=False))
    passes = []
    monkeypatch.setattr(maps, "FORWARD_PIXELS", 2 * 32 * 32)
    monkeypatch.setattr(maps, "GRADIENT_PIXELS", 2 * 32 * 32)
    monkeypatch.setattr(
        explainer, "score",
        lambda views, own=explainer.score: passes.append(len(views[0])) or own(views),
    )  # fmt: skip
    for name, values in explainer.maps([image], effort=Effort(6, overlap=False)).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-5)
    assert max(passes) == 2


def test_large_networks_get_fewer_steps_and_patches_without_overlap(monkeypatch):
    image, name = [image_of(32)], "tfdetect.explanation.maps.LARGE"
    explainer = Explainer(detector_of(SMALL, 32))
    fine = explainer.maps(image)["occlusion"]
    monkeypatch.setattr(name, explainer.detector.count_params() - 1)
    large = Explainer(explainer.detector)
    found = large.maps(image)
    np.testing.assert_array_equal(
        found["integrated gradients"], explainer.integrated_gradients(image, steps=8)[0]
    )
    np.testing.assert_array_equal(found["occlusion"], explainer.occlusion(image, overlap=False))
    assert (found["occlusion"] != fine).any()
    assert all(-1 <= value <= 1 for value in large.sanity(image, found).values())


def test_patches_that_change_nothing_have_the_same_rank_however_many_go_at_once(monkeypatch):
    """Of a network whose score is large, as that of a shuffled one is."""
    explainer, image = Explainer(detector_of(SMALL, 32)), [image_of(32)]
    dense = [x for x in explainer.detector.layers if isinstance(x, keras.layers.Dense)][-1]
    kernel, bias = dense.get_weights()
    dense.set_weights([kernel * 1e-4, bias + 1000])
    found = []
    for pixels in (32 * 32, 32 * 32 * 32):
        monkeypatch.setattr(maps, "FORWARD_PIXELS", pixels)
        found.append(explainer.occlusion(image))
    assert not found[0].any() and not found[1].any()


def test_occlusion_of_every_third_patch_is_known_there_and_nowhere_else():
    explainer, image = Explainer(detector_of(SMALL, 32)), [image_of(32)]
    every, third = (explainer.occlusion(image, overlap=False, every=n) for n in (1, 3))
    known = ~np.isnan(third)
    assert known.mean() == pytest.approx(22 / 64)
    np.testing.assert_allclose(third[known], every[known], atol=1e-6)


def test_patches_cover_all_and_flattening_keeps_the_mean():
    covered = np.zeros((37, 50), int)
    for patch in patch_grid(37, 50, overlap=True):
        covered[patch] += 1
    assert covered.min() >= 1
    image = image_of(40)
    patch = next(iter(patch_grid(40, 40)))
    flat = flattened(image, [patch])
    assert np.ptp(flat[0, 0:5, 0:5, 0]) == 0 and not np.array_equal(flat, image)
    assert flat.mean() == pytest.approx(image.mean(), rel=1e-5)


def test_grad_cam_is_the_paper_s_without_its_relu():
    """Against the formula, with the gradient by finite differences of a linear head."""
    detector = detector_of(SMALL, 32)
    explainer, image = Explainer(detector), image_of(32)
    found_map = explainer.grad_cam([image])["Grad-CAM"]
    [features] = feature_maps(detector)(image).values()
    dense = [layer for layer in detector.layers if isinstance(layer, keras.layers.Dense)][-1]
    kernel = dense.get_weights()[0][:, 0]  # the mean over places is the head's pooling
    small = (features[0] * kernel / features[0][..., 0].size).sum(-1)
    big = np.asarray(keras.ops.image.resize(small[None, ..., None], (32, 32)))[0, ..., 0]
    np.testing.assert_allclose(found_map, big, atol=1e-5)


def test_shuffled_weights_destroy_the_maps_and_come_back(shared_run):
    run = open_run(shared_run[0].path)
    detector = load_detector(run)
    before = [w.copy() for w in detector.get_weights()]
    with shuffled(detector):
        changed = detector.get_weights()
        assert any(not np.array_equal(a, b) for a, b in zip(before, changed))
        assert all(sorted(a.ravel()) == sorted(b.ravel()) for a, b in zip(before, changed))
    assert all(np.array_equal(a, b) for a, b in zip(before, detector.get_weights()))
    explainer = Explainer(detector)
    found = []
    for seed in range(4):
        views = [image_of(run.views[0].size[0], seed)]
        found.append(explainer.sanity(views, explainer.maps(views)))
    for name in ("Grad-CAM", "occlusion"):
        assert np.median([f[name] for f in found]) < 0.6, name
    with pytest.raises(RuntimeError), shuffled(detector):
        raise RuntimeError
    assert all(np.array_equal(a, b) for a, b in zip(before, detector.get_weights()))


@pytest.mark.parametrize("backbone, size", [("deit_t", 64), ("vit_b", 64), ("swin_t", 224),
                                            ("segformer_b0", 64)])  # fmt: skip
def test_attention_of_transformers(backbone, size):
    options = {
        "swin_t": {"patch_size": 16, "depths": [1, 1], "num_heads": [3, 6]},
        "segformer_b0": {"layerwise_depths": [1, 1, 1, 1]},
    }.get(backbone, {"num_layers": 2})
    detector = detector_of({"backbone": backbone, "options": options}, size)
    explainer, image = Explainer(detector), image_of(size)
    before = explainer.score([image])
    found_map = explainer.attention([image])["attention"]
    assert found_map.shape == (size, size) and found_map.min() >= 0
    assert found_map.mean() == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(explainer.score([image]), before, atol=1e-6)  # nothing is left
    if backbone in ("deit_t", "vit_b"):
        assert not explainer.grad_cam([image])  # class tokens have no position


def test_attention_rollout_is_the_product_of_the_mixed_layers():
    """A transformer whose attention is even looks everywhere alike."""
    detector = detector_of({"backbone": "deit_t", "options": {"num_layers": 2}}, 64)
    for layer in detector._flatten_layers():
        if isinstance(layer, keras.layers.MultiHeadAttention):
            for dense in (layer.query_dense, layer.key_dense):
                dense.set_weights([np.zeros_like(w) for w in dense.get_weights()])
    found_map = Explainer(detector).attention([image_of(64)])["attention"]
    np.testing.assert_allclose(found_map, 1, atol=1e-5)


def test_convolutional_networks_have_no_attention():
    explainer = Explainer(detector_of(SMALL, 32))
    assert set(explainer.maps([image_of(32)])) == {"Grad-CAM", "integrated gradients", "occlusion"}


def test_front_ends_are_shown_and_those_that_move_places_have_no_grad_cam():
    detector = detector_of({**SMALL, "front_end": "srm", "with_pixels": True}, 32)
    found = feature_maps(detector)(image_of(32))
    assert found[FRONT_END].shape == (1, 32, 32, 3) and np.abs(found[FRONT_END]).max() <= 1
    assert "Grad-CAM" in Explainer(detector).maps([image_of(32)])
    moved = detector_of({**SMALL, "front_end": "spectrum"}, 32)
    assert "Grad-CAM" not in Explainer(moved).maps([image_of(32)])
    plain = feature_maps(detector_of(SMALL, 32))(image_of(32))
    assert list(plain) == ["backbone"]


def run_with_front_end(path, front_end, trained=None):
    """A run of 16 pixels with a front-end; `trained` changes the new network's weights."""
    run = run_at(path, side=16)
    path.mkdir()
    model = {"backbone": "small_resnet", "front_end": front_end,
             "options": {"widths": [4], "blocks": [1], "strides": [1], "stem": 4}}  # fmt: skip
    (path / "experiment.yaml").write_text(Experiment.model_validate(
        {"name": "x", "data": {"image_size": 16}, "model": model}
    ).to_yaml())  # fmt: skip
    write_info(run)
    keras.utils.set_random_seed(run.info.seed)
    detector = detector_of(model, 16)
    if trained is not None:
        trained(detector)
    write_model(detector, path / "model.keras")
    return open_run(path)


def test_a_learned_front_end_is_shown_before_and_after_training(tmp_path, capsys):
    Image.fromarray(image_of(40)[0].astype(np.uint8)).save(tmp_path / "a.png")
    run = run_with_front_end(tmp_path / "new", "bayar")
    arguments = [str(run.path), "--front-end", str(tmp_path / "a.png"), "--json"]
    assert run_command(explain_command, arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [16, 16] and set(found["front_ends"]) == {
        "residual", "srm", "bayar", "npr", "dct",
    }  # fmt: skip
    assert found["learned"]["name"] == "bayar" and found["learned"]["change"] == 0

    def double(detector):
        for weight in detector.trainable_weights:
            if weight.path.startswith("bayar"):
                weight.assign(weight * np.where(np.arange(weight.shape[-1]) == 1, 2.0, 1.0))

    run = run_with_front_end(tmp_path / "trained", "bayar", double)
    results = tfdetect.show_front_ends(run.path, tmp_path / "a.png", output=tmp_path / "shown")
    assert results.values["learned"]["change"] > 0.1
    page = results.report.read_text()
    assert "Mean absolute weight of each kernel" in page and "after training" in page
    assert page.count("<img") == 9 and "http://" not in page


def test_front_ends_without_weights_or_of_no_image(tmp_path, capsys):
    Image.fromarray(image_of(40)[0].astype(np.uint8)).save(tmp_path / "a.png")
    run = run_with_front_end(tmp_path / "fixed", "srm")
    image = ["--front-end", str(tmp_path / "a.png")]
    assert run_command(explain_command, [str(run.path), *image]) == 0
    out = capsys.readouterr().out
    assert "front-end is srm, which has no weights to learn" in out
    assert (run.path / "evaluations" / "front_ends-a" / "front_ends.html").is_file()
    pixels = run_with_front_end(tmp_path / "pixels", "pixels")
    assert run_command(explain_command, [str(pixels.path), *image]) == 0
    assert "its network reads pixels" in capsys.readouterr().out
    (tmp_path / "b.png").write_bytes(b"no image")
    for name, message in (("b.png", "Cannot read"), ("c.png", "There is no image")):
        broken = [str(run.path), "--front-end", str(tmp_path / name)]
        assert run_command(explain_command, broken) == 2
        assert message in capsys.readouterr().err


def test_scores_of_three_classes_are_the_logit_of_any_fake():
    detector = detector_of(SMALL, 32, classes=3)
    image = image_of(32)
    logits = detector(image, training=False)["label"].numpy()[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    expected = np.log(shares[1:].sum() / shares[0])
    assert Explainer(detector).score([image])[0] == pytest.approx(expected, abs=1e-5)


# ---- what files say of themselves


def kinds(facts) -> set:
    return {f.kind for f in facts} - {""}


def test_notes_of_generators_in_png(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler a, Model: sd15")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=notes)
    [fact] = [f for f in read_metadata(tmp_path / "a.png") if f.kind]
    assert fact.kind == "generated" and "Stable Diffusion" in fact.meaning
    assert "Steps: 20" in fact.value
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert not kinds(read_metadata(tmp_path / "b.png"))


def test_exif_of_cameras_editors_and_generators(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Canon", "EOS 5D"
    exif[ExifTags.Base.Software] = "Adobe Photoshop 25.0"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = IFDRational(10, 150)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] = IFDRational(28, 10)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif, quality=83)
    facts = read_metadata(tmp_path / "a.jpg")
    assert kinds(facts) == {"camera", "edited"}
    [camera] = [fact.value for fact in facts if fact.name == "camera (EXIF)"]
    assert "ExposureTime 1/15, FNumber 2.8" in camera
    assert any(
        f.name == "JPEG quality" and f.value.startswith("83 (tables of libjpeg") for f in facts
    )
    exif[ExifTags.Base.Software] = "Midjourney v6"
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", exif=exif)
    assert "generated" in kinds(read_metadata(tmp_path / "b.jpg"))


def test_xmp_that_declares_a_trained_generator(tmp_path):
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:CreatorTool="DALL-E" '
        b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
        b'trainedAlgorithmicMedia"/></x:xmpmeta>'
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", xmp=packet)
    found = [f for f in read_metadata(tmp_path / "a.jpg") if f.kind == "generated"]
    assert {f.value for f in found} == {"DALL-E", "trainedAlgorithmicMedia"}


def test_damaged_metadata_is_reported_not_raised(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "JPEG", exif=b"Exif\0\0" + b"MM\0*" + b"\xff" * 60)
    (tmp_path / "a.jpg").write_bytes(data.getvalue())
    assert read_metadata(tmp_path / "a.jpg")[0].name == "format"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate for signing, and the authority that vouches for it, made by openssl."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "leaf.cnf").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=emailProtection\nsubjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
    )

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "leaf"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.raw")
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{name}.raw", "-out", f"{name}.key")
    openssl("req", "-x509", "-new", "-key", "ca.key", "-days", "30", "-out", "ca.pem",
            "-subj", "/O=Test authority/CN=ca")  # fmt: skip
    openssl("req", "-new", "-key", "leaf.key", "-subj", "/O=Test studio/CN=leaf", "-out",
            "leaf.csr")  # fmt: skip
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "20",
            "-CAcreateserial", "-extfile", "leaf.cnf", "-out", "leaf.pem")  # fmt: skip
    chain = (folder / "leaf.pem").read_bytes() + (folder / "ca.pem").read_bytes()
    return chain, (folder / "leaf.key").read_bytes()


def test_content_credentials(tmp_path, certificates):
    c2pa = pytest.importorskip("c2pa")
    chain, key = certificates
    manifest = {
        "claim_generator_info": [{"name": "Test studio", "version": "1"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [{
            "action": "c2pa.created", "digitalSourceType":
            "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"}]}}],
    }  # fmt: skip
    Image.fromarray(image_of(64)[0].astype(np.uint8)).save(tmp_path / "plain.jpg")
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain, key, None)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
        builder.sign_file(str(tmp_path / "plain.jpg"), str(tmp_path / "signed.jpg"), signer)
    facts = [f for f in read_metadata(tmp_path / "signed.jpg") if "C2PA" in f.name]
    assert "Test studio" in facts[0].value and "unchanged since it was signed" in facts[0].meaning
    assert facts[1].value == "trainedAlgorithmicMedia" and facts[1].kind == "generated"
    # One pixel's byte changed after signing.
    data = bytearray((tmp_path / "signed.jpg").read_bytes())
    data[-20] ^= 0x15
    (tmp_path / "changed.jpg").write_bytes(data)
    facts = [f for f in read_metadata(tmp_path / "changed.jpg") if "C2PA" in f.name]
    assert "changed since it was signed" in facts[0].meaning and not kinds(facts)
    assert not [f for f in read_metadata(tmp_path / "plain.jpg") if "C2PA" in f.name]


# ---- pages


def test_the_limit_of_predict_holds_for_its_pages(shared_run, tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(
        image_page, "Examiner", lambda *given: limits.append(given[2]) or Examiner(*given)
    )
    Image.fromarray(image_of(90)[0].astype(np.uint8)).save(tmp_path / "suspect.png")
    detector = tfdetect.load(shared_run[0].path)
    found = detector.predict(tmp_path / "suspect.png", pages=tmp_path / "p", max_pixels=9_000)
    assert limits == [9_000] and [page.name for page in found.pages] == ["suspect.html"]
    [row] = found.to_arrow().to_pylist()
    examiner = Examiner(detector.run, CompiledDetector(detector.run, detector.keras_model), 8_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 8,000"):
        examiner.examine(row)


def test_predict_explain_writes_a_page_that_names_what_it_found(shared_run, tmp_path, capsys):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "<script>alert(1)</script> Steps: 20, Sampler: Euler")
    image = Image.fromarray(image_of(90)[0].astype(np.uint8))
    image.save(tmp_path / "suspect.png", pnginfo=notes)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    pages = tmp_path / "pages"
    arguments = [
        str(shared_run[0].path),
        str(tmp_path / "suspect.png"),
        str(tmp_path / "broken.png"),
    ]
    assert run_command(predict_command, [*arguments, "--explain", str(pages)]) == 0
    assert [p.name for p in pages.iterdir()] == ["suspect.html"]
    text = (pages / "suspect.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;" in text
    assert "Grad-CAM" in text and "occlusion" in text and "copies" in text
    assert "the form in which Stable Diffusion web UI stores its settings" in text
    assert "is shrunk" in text or "shorter side" in text
    assert "http://" not in text and 'src="http' not in text  # self-contained
    assert wording.map_meaning("occlusion") in text and "feature map" not in text
    assert "where the network looks" not in text  # attention, which this network does not have


def test_a_page_names_each_step_that_takes_long(shared_run, tmp_path):
    Image.fromarray(image_of(90)[0].astype(np.uint8)).save(tmp_path / "suspect.png")
    detector, steps = tfdetect.load(shared_run[0].path), []
    predictions = detector.predict(tmp_path / "suspect.png")
    compiled = CompiledDetector(detector.run, detector.keras_model)
    list(image_page.explain_files(
        detector.run, compiled, predictions.to_arrow(), [tmp_path / "page.html"], FailedWrites(),
        on_step=steps.append,
    ))  # fmt: skip
    names = [step.removeprefix("suspect.png: ") for step in steps]
    copies = [reencoding(name) for name in REENCODINGS]
    assert names == ["reading", "integrated gradients", "occlusion", "test of the maps", *copies,
                     "evidence"]  # fmt: skip


def test_the_page_says_what_of_an_image_the_detector_sees(calibrated_detector):
    equalized = {"side": 512}
    for view, size, told in (
        ({"policy": "crop"}, (32, 32), "the whole image, enlarged"),
        ({"policy": "crop"}, (300, 200), "the middle of the image, reduced"),
        ({"policy": "crop"}, (96, 200), "the middle of the image"),
        ({"policy": "stretch"}, (96, 96), "the whole image"),
        ({"policy": "stretch"}, (48, 200), "the whole image, resized"),
        ({"policy": "pad"}, (300, 200), "the whole image, reduced, with a black border"),
        ({"policy": "crop", "equalize": equalized}, (300, 400), "the middle of the image, "
         "reduced, after one JPEG encoding, as for every image"),
    ):  # fmt: skip
        run = calibrated_detector.with_info(views=(View(size=(96, 96), **view),))
        found = SimpleNamespace(image=np.zeros((*size, 3)), view=0, altered=None)
        sentence = wording.view_sentence(run, found)
        expected = f"sees 96 x 96 pixels: {told} (the image has {size[1]:,} x {size[0]:,})."
        assert expected in sentence, sentence
    found.image = np.zeros((3000, 4000, 3))  # page and terminal say the same of the last one
    said = what_is_read(run)
    assert said.endswith(" reads the middle 512 x 512 pixels alone, scaled to 96 x 96")
    assert f"{said} (the image has 4,000 x 3,000)." in wording.view_sentence(run, found)
    windows = View(size=(96, 96), policy="window_pad", equalize=equalized)
    assert what_is_read(run.with_info(views=(windows,))).endswith("512 x 512 pixels alone")


def test_each_map_is_explained_in_plain_words():
    assert wording.map_meaning("Grad-CAM, member") == wording.map_meaning("Grad-CAM")
    assert "raises or lowers" in wording.map_meaning(maps.ATTENTION)


def test_networks_without_attention_and_feature_maps_are_not_asked_for_them(monkeypatch):
    """Each question is a pass through the network."""
    explainer = Explainer(linear(np.ones((16, 16, 3), np.float32)))
    monkeypatch.setattr(explainer, "_call", lambda views: pytest.fail("a pass"))
    assert explainer.grad_cam([image_of(16)]) == explainer.attention([image_of(16)]) == {}


def test_explain_a_set(shared_run, tmp_path, capsys):
    output = tmp_path / "explained"
    arguments = [str(shared_run[0].path), "--count", "4", "--output", str(output), "--json"]
    assert run_command(explain_command, [*arguments, "--features", "stage2,stage1"]) == 0
    found = json.loads(capsys.readouterr().out)
    (_, _, width), (_, _, fine) = found["features"]["stage2"], found["features"]["stage1"]
    assert list(found["features"]) == ["stage2", "stage1"] and width >= fine
    assert found["features"]["stage1"][0] == 2 * found["features"]["stage2"][0]
    assert found["count"] == 4 and set(found["maps"]) == {
        "Grad-CAM", "integrated gradients", "occlusion",
    }  # fmt: skip
    for value in found["maps"].values():
        assert value["gain"]["low"] <= value["gain"]["value"] <= value["gain"]["high"]
        assert value["gain"]["value"] == pytest.approx(value["fall"] - value["random"], abs=2e-4)
    assert (output / "figures" / "maps.png").is_file()
    assert (output / "figures" / "features.png").is_file()
    page = html.unescape((output / "explanation.html").read_text())
    assert all(wording.map_meaning(name) in page for name in found["maps"])
    assert "ttention" not in page and "standard deviations of single images (Cohen's d)" in page
    assert run_command(explain_command, [*arguments, "--max-pixels", "100"]) == 2
    assert "more than 100 (max_pixels)" in capsys.readouterr().err
    assert run_command(explain_command, [str(shared_run[0].path), "--count", "0"]) == 2
    assert "--count" in capsys.readouterr().err
    assert run_command(explain_command, [*arguments, "--features", "stage9"]) == 2
    assert "Unknown stage 'stage9'. This network's stages are stage1 (" in capsys.readouterr().err


def test_stages_are_what_the_backbone_computes(shared_run):
    detector = load_detector(shared_run[0])
    image = (
        np.random.default_rng(0).uniform(0, 255, (1, *detector.input_shape[1:])).astype(np.float32)
    )
    found = feature_maps(detector, ["all"])(image)
    [last] = feature_maps(detector)(image).values()
    assert np.allclose(list(found.values())[-1], last, atol=1e-5)
    assert list(found) == [f"stage{n}" for n in range(1, len(found) + 1)]
    sides = [values.shape[1] for values in found.values()]
    assert sides == sorted(sides, reverse=True) and len(set(sides)) == len(sides) > 1


def examination(verdict="fake", p=0.9, inconclusive=False, reencoded=None, **changes):
    """An examined image of 64 pixels, of a run that is calibrated for equal priors."""
    from pathlib import Path

    from tfdetect.explanation.examination import Examination

    image = image_of(64)[0].astype(np.uint8)
    row = {"p_fake": p, "verdict": verdict, "inconclusive": inconclusive, "altered_fraction": 0.1}
    values = {
        "path": Path("a.png"), "sha256": "0" * 64, "image": image, "row": row, "altered": None,
        "reencoded": reencoded or {"jpeg:75": p, "social:2": p}, "facts": [], "evidence": None,
        "differences": [],
        "unseen": "", "view_image": image, "view": 0, "front_end": None,
        "maps": {"occlusion": np.ones((64, 64), np.float32)}, "sanity": {"occlusion": 0.1},
    } | changes  # fmt: skip
    return Examination(**values)


@pytest.fixture
def calibrated_detector(tmp_path):
    from tfdetect.core.run import Run
    from tfdetect.core.run_info import RunInfo

    return Run(tmp_path, RunInfo.model_validate({
        "status": "complete", "class_names": ["original", "inpainted"], "threshold": 0.4,
        "views": [{"size": [64, 64], "policy": "stretch"}], "prior": 0.5,
        "dataset": {"name": "d", "fingerprint": "0"},
        "calibration": {"method": "temperature", "images": 100, "fake_fraction": 0.8,
                        "log_loss": [0.5, 0.4]},
        "abstention_band": {"low": 0.3, "high": 0.6, "error_rate": 0.05, "coverage": 0.7},
        "operating_points": {"fpr_5": {"threshold": 0.7, "fpr": 0.05, "tpr": 0.6}},
    }))  # fmt: skip


def test_the_headline_is_the_verdict_in_words(calibrated_detector):
    def words_of(run, found):
        return verdict_words(run, found.row, bool(found.differences))

    run = calibrated_detector
    fake = words_of(run, examination("inpainted"))
    assert fake.headline == "Looks fake (inpainted)" and fake.tone == "bad"
    assert "about 90 in 100" in fake.lines[0] and "if 50% of all images are fake" in fake.lines[0]
    authentic = words_of(run, examination("original", 0.1))
    assert authentic.headline == "Looks authentic" and authentic.tone == "good"
    inconclusive = words_of(run, examination("inpainted", 0.5, inconclusive=True))
    assert inconclusive.headline == "Inconclusive" and "leans to fake" in inconclusive.lines[1]
    unlike = words_of(run, examination("inpainted", differences=["Too small."]))
    assert "not made for such images" in unlike.headline and unlike.tone == "caution"


def test_a_copy_that_turns_inconclusive_has_another_verdict(calibrated_detector):
    """The band from 0.3 to 0.6 counts as the threshold at 0.4 does."""
    from tfdetect.explanation import wording

    run, copies = calibrated_detector, {"jpeg:75": 0.95, "jpeg:50": 0.5, "scale:0.5": 0.1}
    assert changed_by(run, 0.9, copies) == {"jpeg:50": "inconclusive", "scale:0.5": "authentic"}
    assert stability_sentences(run, 0.9, copies, (64, 64)).startswith(
        "The verdict stays the same for 1 of 3 copies. It is authentic when the image is shrunk to "
        "50%. It is inconclusive when the image is saved as JPEG (quality 50). The copies' scores "
        "lie between 0.10 and 0.95."
    )
    assert changed_by(run, 0.45, copies) == {"jpeg:75": "fake", "scale:0.5": "authentic"}
    found = examination("inpainted", 0.9, reencoded=copies)
    assert wording.is_fragile(run, found)
    [fragile] = [w for w in wording.warnings(run, found, 0.5) if "fragile" in w]
    assert "2 of 3" in fragile


@pytest.mark.parametrize(("changed", "told"), [
    (0, "stable, which does not mean correct"), (1, "one copy gets another verdict"),
    (2, "2 copies get another verdict"), (4, "fragile: do not rely on it"),
])  # fmt: skip
def test_the_card_counts_the_copies_with_another_verdict(calibrated_detector, changed, told):
    scores = {f"jpeg:{quality}": 0.1 if quality < changed else 0.9 for quality in range(8)}
    found = examination("inpainted", 0.9, reencoded=scores)
    card = image_page._cards(calibrated_detector, found)[1]
    assert (card.value, card.detail) == (f"{8 - changed} of 8", told)


def test_a_lean_does_not_depend_on_the_prior(calibrated_detector):
    row = {"p_fake": 0.55, "verdict": "inpainted", "inconclusive": True}
    for prior in (0.5, 0.01):
        run = calibrated_detector.with_prior(prior)
        p = add_to_logit(0.55, logit(prior))
        words = verdict_words(run, row | {"p_fake": p}, False)
        assert words.lines[-1].endswith("It leans to fake.")


def test_the_page_says_what_the_probability_is_elsewhere(calibrated_detector):
    from tfdetect.explanation import wording
    from tfdetect.forensics.evidence import evidence

    def known(run, found):
        data = io.BytesIO()
        Image.fromarray(found.image).save(data, "PNG")
        return evidence(data.getvalue(), [(run, found.row)])

    run = calibrated_detector
    assert wording.probability_at(run, 0.9, 0.5) == pytest.approx(0.9)
    assert wording.probability_at(run, 0.9, 0.01) == pytest.approx(0.9 / (0.9 + 0.1 * 99), rel=1e-6)
    assert percent(0.99999) == "more than 99.99%" and percent(0.5) == "50%"
    changed = {"jpeg:75": 0.1, "social:2": 0.2, "blur:1": 0.9}
    found = examination("inpainted", reencoded=changed)
    unseen = {"generators": {"a": {}}, "unseen_generators": {"generators": ["a"]}}
    (run.path / "metrics.json").write_text(json.dumps({"test": unseen}))
    page = image_page.image_page(run, replace(found, evidence=known(run, found)))
    assert "one in a hundred" in page and "8.3%" in page
    assert "measured on fakes of 1 generator, none of which" in page
    assert "1 of 3" in page and "verdict is fragile" in page
    assert "The range without a verdict, 30% to 60%, stays inconclusive whatever" in page
    assert page.index("this image is called") < page.index("called fake from")  # seen on phones
    assert "saved as JPEG (quality 75) or shared online 2 times" in page
    assert page.index("Looks fake") < page.index("What the probability means")
    assert 'alt="' in page and 'alt=""' not in page
    uncalibrated = uncalibrated_of(run).with_threshold(0.5)
    page = image_page.image_page(uncalibrated, replace(found, evidence=known(uncalibrated, found)))
    assert "not a probability" in page and "one in a hundred" not in page


def test_a_localizer_tries_few_copies_of_a_large_image():
    assert reencodings_of(masks=True, size=(3000, 4000)) == FEW_REENCODINGS
    assert reencodings_of(masks=True, size=(800, 1200)) == REENCODINGS
    assert reencodings_of(masks=False, size=(3000, 4000)) == REENCODINGS
    assert set(FEW_REENCODINGS) < set(REENCODINGS)


def test_the_page_says_which_copies_were_not_tried(calibrated_detector):
    run, all_copies = calibrated_detector, dict.fromkeys(REENCODINGS, 0.9)
    whole = stability_sentences(run, 0.9, all_copies, (20_000, 300))
    assert "not" not in whole and "Only" not in whole
    del all_copies["webp:75"]
    said = stability_sentences(run, 0.9, all_copies, (20_000, 300))
    assert said.endswith(" One copy could not be made: saved as WebP (quality 75).")
    localizer = run.with_info(predicts_masks=True)
    few = dict.fromkeys(FEW_REENCODINGS, 0.9)
    assert "Only" not in stability_sentences(
        localizer, 0.9, dict.fromkeys(REENCODINGS, 0.9), (9, 9)
    )
    said = stability_sentences(localizer, 0.9, few, (3000, 4000))
    assert "5 of 5 copies" in said and "could not" not in said
    assert "Only 5 of the usual 15 copies are tried, because the image has more than 3 " in said
