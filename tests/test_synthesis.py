"""Mask makers, fills and forged data sets: their laws, and that they repeat."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, train_small, write_litert
from deadly_task import DeadlyTask
from PIL import Image

from tfdetect.core import console
from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.core.journal import exclusive
from tfdetect.core.load_spec import load_spec
from tfdetect.core.registry import FILLS, MASKS
from tfdetect.core.run_command import run_command
from tfdetect.data.build_catalog import build_catalog
from tfdetect.evaluation.figures import read_picture
from tfdetect.imaging.formats import ImageError
from tfdetect.synthesis import autoencoder, forge_task, synthesize_dataset
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.contact_sheet import write_contact_sheet
from tfdetect.synthesis.forge import forge
from tfdetect.synthesis.forgery_plan import Item, plan_forgeries
from tfdetect.synthesis.mask_makers import draw_mask, pick_region
from tfdetect.synthesis.photos import (
    Photo,
    find_photos,
    load_photo,
    random_generator,
    random_window,
)
from tfdetect.synthesis.settings import Settings, read_captions
from tfdetect.synthesize import main as synthesize

DRAWN = ("brush", "polygon", "rectangle", "blob")
CLASSICAL = ("telea", "navier_stokes", "biharmonic", "copy_move", "splice")


def photo_of(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 225, (6, 8, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), int)
    pixels = np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)
    return Photo(f"photo{seed}.png", pixels, lambda picture, how=None: np.asarray(picture))


def generator(*names):
    return random_generator(0, *names)


@pytest.mark.parametrize("size", [(64, 64), (48, 200), (300, 40), (16, 16)])
@pytest.mark.parametrize("name", DRAWN)
def test_masks_keep_their_coverage_and_repeat(name, size):
    photo = photo_of(*size)
    for number in range(20):
        one = draw_mask(name, photo, generator(number), (0.05, 0.4))
        again = draw_mask(name, photo, generator(number), (0.05, 0.4))
        assert one.dtype == bool and one.shape == size and 0.05 <= one.mean() <= 0.4
        assert np.array_equal(one, again)
    assert not np.array_equal(one, draw_mask(name, photo, generator("other"), (0.05, 0.4)))


@pytest.mark.parametrize("size", [(256, 256), (512, 512)])
def test_brush_covers_what_is_published(size):
    """At 256 pixels: mean 0.150, quantiles 5, 50 and 95% 0.036, 0.141, 0.290."""
    maker, photo, rng = MASKS.load("brush"), photo_of(*size), generator("brush")
    shares = np.array([maker(photo, rng, (0, 1)).mean() for _ in range(800)])
    assert abs(shares.mean() - 0.150) < 0.015
    assert np.allclose(np.quantile(shares, [0.05, 0.5, 0.95]), [0.036, 0.141, 0.290], atol=0.03)


def test_brush_adds_strokes_where_much_is_to_be_covered():
    for number in range(20):
        mask = draw_mask("brush", photo_of(72, 72), generator(number), (0.4, 0.6))
        assert 0.4 <= mask.mean() <= 0.6
    assert draw_mask("brush", photo_of(64, 48), generator(), (0.95, 1.0)).mean() >= 0.95


def test_segments_are_regions_of_the_segmentation(tmp_path):
    labels = np.repeat(np.arange(4, dtype=np.uint8), [10, 30, 20, 4])[:, None].repeat(48, 1)
    (tmp_path / "maps").mkdir()
    Image.fromarray(labels).save(tmp_path / "maps/photo0.png")
    photo = photo_of(64, 48)
    for number in range(10):
        mask = draw_mask("segments", photo, generator(number), (0.1, 0.4),
                         segmentations=str(tmp_path / "maps"))  # fmt: skip
        assert any(np.array_equal(mask, labels == region) for region in (0, 2))
    with pytest.raises(UserError, match="no segmentation of it"):
        draw_mask("segments", photo_of(64, 48, 9), generator(), (0, 1),
                  segmentations=str(tmp_path / "maps"))  # fmt: skip
    with pytest.raises(UserError, match="no mask 'segments' covers 90% to 95%"):
        draw_mask("segments", photo, generator(), (0.9, 0.95),
                  segmentations=str(tmp_path / "maps"))  # fmt: skip
    assert pick_region(labels, generator(), (0.99, 1.0)).any()
    with pytest.raises(ImageError, match="more than 3,000"):  # the limit of the photograph
        draw_mask("segments", replace(photo, max_pixels=3_000), generator(), (0.1, 0.4),
                  segmentations=str(tmp_path / "maps"))  # fmt: skip


def test_the_contact_sheet_reads_photographs_within_the_limit_of_the_command(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    forgeries = [((tmp_path / "a.png",) * 3, "telea")]
    write_contact_sheet(tmp_path / "sheet.png", forgeries, 1_200)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 500
    with pytest.raises(ImageError, match="more than 1,199"):
        write_contact_sheet(tmp_path / "sheet.png", forgeries, 1_199)


def test_objects_come_from_a_keras_hub_segmenter(tmp_path):
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1] * 4, stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
        image_shape=(96, 96, 3), use_pre_activation=False,
    )  # fmt: skip
    deeplab = keras_hub.models.DeepLabV3Backbone(
        image_encoder=backbone, spatial_pyramid_pooling_key="P4", upsampling_size=4,
        dilation_rates=[1, 2], image_shape=(96, 96, 3), projection_filters=8,
        low_level_feature_key="P2",
    )  # fmt: skip
    keras_hub.models.DeepLabV3ImageSegmenter(deeplab, 5).save_to_preset(str(tmp_path / "preset"))
    maker, photo = MASKS.load("objects"), photo_of(60, 90)
    mask = maker(photo, generator(), (0, 1), preset=str(tmp_path / "preset"))
    assert mask.shape == (60, 90) and mask.any()
    with pytest.raises(UserError, match="cannot be loaded.*\n.*--segmenter"):
        maker(photo, generator(), (0, 1), preset=str(tmp_path / "nothing"))


def yolo_file(path, table, changing, prototypes=None):
    """Write a network of one constant table, whose numbers in `changing` grow with brightness."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, *table.shape]
    constants = {"table": table[None] * ~changing, "change": table[None] * changing}
    nodes = [helper.make_node("ReduceMean", ["images"], ["light"], keepdims=0),
             helper.make_node("Mul", ["change", "light"], ["lit"]),
             helper.make_node("Add", ["table", "lit"], ["output0"])]  # fmt: skip
    outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)]
    if prototypes is not None:
        constants["output1"] = prototypes[None]
        outputs.append(
            helper.make_tensor_value_info("output1", TensorProto.FLOAT, [1, *prototypes.shape])
        )
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    given = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "yolo", [image], outputs, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("kind", ["boxes", "segments", "objectness", "without overlaps"])
def test_objects_of_yolo_networks(tmp_path, kind):
    """A photograph of 48 x 96 pixels is scaled by 2/3 into 64 x 64, with 16 gray rows above."""
    candidates = [  # center, size, class, score
        ((16, 28, 16, 16), 1, 0.9), ((17, 28, 16, 16), 1, 0.8), ((50, 40, 8, 8), 2, 0.5),
        ((32, 32, 60, 30), 0, 0.1), *(((9, 9, 2, 2), 0, 0.0),) * 12,
    ]  # fmt: skip
    boxes = np.array([c[0] for c in candidates], float)
    scores = np.zeros((len(candidates), 3))
    for row, (_, number, score) in zip(scores, candidates):
        row[number] = score
    factors, prototypes = np.tile([1.0, 0.0], (len(boxes), 1)), None
    columns = [boxes, scores]
    if kind == "segments":
        prototypes = np.full((2, 16, 16), -5.0)
        prototypes[0, :, :4] = 5  # the left half of the first object
        columns.append(factors)
    elif kind == "objectness":
        columns.insert(1, np.ones((len(boxes), 1)))
    elif kind == "without overlaps":
        keep = [0, 2, 3, 4, 5, 6, 7]
        half = boxes[:, 2:] / 2
        corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
        columns = [corners[keep], scores.max(1)[keep, None], scores.argmax(1)[keep, None]]
    table = np.concatenate(columns, 1)
    changing = np.zeros(table.shape, bool)
    changing[:, 4 : 5 if kind in ("objectness", "without overlaps") else 7] = True
    if kind in ("boxes", "segments"):
        table, changing = table.T, changing.T
    file = yolo_file(tmp_path / "yolo.onnx", table, changing, prototypes)
    white = Photo("white.png", np.full((48, 96, 3), 255, np.uint8), np.asarray)
    first = np.zeros((48, 96), bool)
    first[6:30, 12 : 24 if kind == "segments" else 36] = True
    mask = draw_mask("yolo", white, generator(), (0.05, 0.5), model=file)
    assert np.array_equal(mask, first)
    if kind != "segments":
        second = np.zeros((48, 96), bool)
        second[30:42, 69:81] = True
        mask = draw_mask("yolo", white, generator(), (0.01, 0.04), model=file)
        assert np.array_equal(mask, second)
        both = draw_mask("yolo", white, generator(), (0, 1), model=file, together=True)
        assert np.array_equal(both, first | second)
    dark = Photo("dark.png", np.zeros((48, 96, 3), np.uint8), np.asarray)
    with pytest.raises(UserError, match="dark.png: nothing was found in it"):
        draw_mask("yolo", dark, generator(), model=file)


def test_networks_that_are_no_segmenters_are_refused(tmp_path):
    photo = photo_of(40, 40)
    (tmp_path / "text.onnx").write_text("no network")
    (tmp_path / "text.tflite").write_text("no network")
    odd = yolo_file(tmp_path / "odd.onnx", np.ones((3, 9)), np.zeros((3, 9), bool))
    for name, file, message in [
        ("yolo", tmp_path / "none.onnx", "There is no file .*yolo export"),
        ("yolo", tmp_path / "text.onnx", "no ONNX file that can be run"),
        ("yolo", odd, r"returns \[1, 3, 9\]"),
        ("person", tmp_path / "none.tflite", "There is no file .*pip download mediapipe"),
        ("person", tmp_path / "text.tflite", "no LiteRT model that can be run"),
    ]:
        with pytest.raises(ModelNotAvailable, match=message):
            draw_mask(name, photo, generator(), model=str(file))


def test_people_by_a_litert_segmenter(tmp_path):
    import tensorflow as tf

    model = write_litert(tmp_path / "bright.tflite",
                         lambda image: tf.reduce_mean(image, -1, keepdims=True), 32)  # fmt: skip
    pixels = np.full((64, 96, 3), 20, np.uint8)
    pixels[16:48, 24:72] = 250
    mask = draw_mask("person", Photo("one.png", pixels, np.asarray), generator(), model=model)
    assert mask[20:44, 28:68].all() and not mask[:12].any() and abs(mask.mean() - 0.25) < 0.03
    with pytest.raises(UserError, match="nothing was found"):
        draw_mask("person", Photo("dark.png", pixels // 9, np.asarray), generator(), model=model)


@pytest.mark.slow
def test_people_by_mediapipe(mediapipe_model):
    """In scikit-image's photograph of an astronaut, if the model can be had."""
    from skimage.data import astronaut

    model = mediapipe_model("selfie_segmentation.tflite")
    mask = draw_mask("person", Photo("a.png", astronaut(), np.asarray), generator(), model=model)
    assert mask[60:200, 180:260].mean() > 0.95  # the face
    assert mask[:200, 330:].mean() < 0.2 and 0.25 < mask.mean() < 0.65


def test_panoptic_segments(tmp_path):
    numbers = np.zeros((40, 60), int)
    numbers[:, 20:] = 300
    numbers[20:, 40:] = 70_000
    colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
    (tmp_path / "panoptic").mkdir()
    Image.fromarray(colors).save(tmp_path / "panoptic/photo0.png")
    things = [{"id": 300, "category_id": 1}, {"id": 70_000, "category_id": 7}]
    found = {"image_id": 5, "file_name": "photo0.png", "segments_info": things}
    document = {"images": [{"id": 5, "file_name": "photo0.jpg"}], "annotations": [found],
                "categories": [{"id": 1, "isthing": 1}, {"id": 7, "isthing": 0}]}  # fmt: skip
    (tmp_path / "panoptic.json").write_text(json.dumps(document))
    photo = photo_of(40, 60)
    for source in ("panoptic", "panoptic.json"):
        options = {"panoptic": str(tmp_path / source)}
        seen = {draw_mask("panoptic", photo, generator(n), **options).tobytes() for n in range(12)}
        assert seen == {(numbers == n).tobytes() for n in (300, 70_000)}  # 0 is no segment
        mask = draw_mask("panoptic", photo, generator(), (0.1, 0.2), **options)
        assert np.array_equal(mask, numbers == 70_000)
        mask = draw_mask("panoptic", photo, generator(), together=True, **options)
        assert np.array_equal(mask, numbers == 300 if source.endswith("json") else numbers > 0)
    with pytest.raises(UserError, match="no segmentation of it"):
        draw_mask("panoptic", photo_of(40, 60, 1), generator(), **options)
    (tmp_path / "other.json").write_text('{"annotations": [1]}')
    with pytest.raises(UserError, match="not in COCO's panoptic format"):
        draw_mask("panoptic", photo, generator(), panoptic=str(tmp_path / "other.json"))


def fill_with(name, photo, mask, seed=0):
    extra = {"donor": photo_of(*photo.size, seed=5).pixels} if name == "splice" else {}
    return FILLS.load(name)(photo.pixels, mask, generator(seed), **extra)


@pytest.mark.parametrize("edge", [0, 2, 7.5])
@pytest.mark.parametrize("name", CLASSICAL)
def test_outside_the_mask_nothing_changes(name, edge):
    photo = photo_of(40, 56)
    for kind in DRAWN:
        mask = draw_mask(kind, photo, generator(kind), (0.05, 0.3))
        filled = fill_with(name, photo, mask)
        assert filled.shape == photo.pixels.shape and filled.dtype == np.uint8
        assert np.array_equal(filled, fill_with(name, photo, mask))
        forged = paste(photo.pixels, filled, soften(mask, edge))
        assert np.array_equal(forged[~mask], photo.pixels[~mask])
        assert (forged[mask] != photo.pixels[mask]).any(axis=-1).mean() > 0.5
        if not edge:
            assert np.array_equal(forged[mask], filled[mask])


@pytest.mark.parametrize("name", CLASSICAL)
def test_masks_of_nothing_and_of_everything(name):
    photo = photo_of(24, 32)
    nothing, everything = np.zeros((24, 32), bool), np.ones((24, 32), bool)
    kept = paste(photo.pixels, fill_with(name, photo, nothing), soften(nothing, 2))
    assert np.array_equal(kept, photo.pixels)
    if name not in ("telea", "navier_stokes", "biharmonic"):  # those need something to go by
        filled = fill_with(name, photo, everything)
        assert np.array_equal(paste(photo.pixels, filled, soften(everything, 2)), filled)
        assert not np.array_equal(filled, photo.pixels)


def test_the_soft_edge_lies_inside():
    mask = np.zeros((30, 30), bool)
    mask[5:25, 5:25] = True
    opacity = soften(mask, 3)
    assert ((opacity > 0) == mask).all() and opacity.max() == 1
    assert np.allclose(opacity[15, 5:9], [0.25, 0.5, 0.75, 1])


def test_copies_come_from_elsewhere():
    photo = photo_of(64, 64)
    mask = np.zeros((64, 64), bool)
    mask[10:26, 8:30] = True
    filled = fill_with("copy_move", photo, mask)
    patch = filled[10:26, 8:30]
    places = [
        source[y : y + 16, x : x + 22]
        for source in (photo.pixels, photo.pixels[:, ::-1])
        for y in range(49) for x in range(43)
    ]  # fmt: skip
    assert sum(np.array_equal(patch, place) for place in places) == 1
    assert not np.array_equal(patch, photo.pixels[10:26, 8:30])


def test_copies_move_where_the_mask_leaves_no_room():
    photo = photo_of(64, 48)
    corners = np.zeros((64, 48), bool)
    for rows in (slice(0, 9), slice(55, 64)):
        corners[rows, :9] = corners[rows, 39:] = True
    for mask in (corners, np.ones((64, 48), bool)):
        for number in range(20):
            fill = FILLS.load("copy_move")
            filled = fill(photo.pixels, mask, generator(number))
            assert (filled != photo.pixels)[mask].any(-1).mean() > 0.9


def test_what_a_fill_leaves_as_it_was_is_no_forgery(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        flat = Image.new("RGB", (48, 48), (90, 90 + number, 90))
        flat.save(tmp_path / "photos" / f"flat{number}.png")
    Image.fromarray(photo_of(48, 48).pixels).save(tmp_path / "photos" / "other.png")
    rows = make(tmp_path / "photos", tmp_path / "forged", settings(fills=("copy_move",)))
    assert sum(row["error"] is None for row in rows) == 2
    assert "changes nothing" in next(row["error"] for row in rows if row["error"])
    listed = (tmp_path / "forged" / "manifest.csv").read_text()
    assert listed.count("realfake") == 2 and "flat" not in listed


def test_pairs_of_whole_photographs_mixed_with_their_original():
    class Inverting:
        def reconstruct(self, image):
            return 255 - image

    photo = photo_of(32, 40)
    asked = settings(masks=("whole",), fills=("autoencoder",), mix=(0.25, 0.5))
    item = Item("photo0.png", 0, "autoencoder", ())
    forged, mask, row = forge(photo, item, asked, None, Inverting())
    assert mask.all() and row["coverage"] == 1 and 0.25 <= row["mix"] <= 0.5
    expected = row["mix"] * photo.pixels + (1 - row["mix"]) * (255.0 - photo.pixels)
    np.testing.assert_allclose(forged, expected, atol=0.51)


def test_donors_of_any_size_are_brought_to_size():
    for shape in ((20, 300, 3), (100, 10, 3), (40, 56, 3)):
        donor = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        assert random_window(donor, (40, 56), generator()).shape == (40, 56, 3)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number in range(24):
        (root / f"{number % 2}").mkdir(exist_ok=True)
        image = Image.fromarray(photo_of(48, 64, number).pixels)
        image.save(root / f"{number % 2}/p{number}.{('png', 'jpg')[number % 3 == 0]}")
    Image.new("RGB", (1, 1)).save(root / "dot.png")
    (root / "broken.jpg").write_bytes(b"no image")
    return root


def settings(**changes):
    base = {"masks": ("brush", "blob"), "fills": ("telea", "copy_move", "splice"), "variants": 2}
    return Settings(**{**base, **changes})


def make(source, output, asked, workers=1, steps=2):
    return synthesize_dataset.synthesize(source, output, asked, workers, steps, progress=False)


def pictures_of(output):
    return {p.name: p.read_bytes() for p in (output / "images").iterdir()}


@pytest.fixture(scope="module")
def forgeries(photographs, tmp_path_factory):
    """The rows and the folder of a data set, made by two processes, for tests that read it."""
    folder = tmp_path_factory.mktemp("forgeries") / "forged"
    return make(photographs, folder, settings(encode="webp"), workers=2), folder


@pytest.mark.parametrize(("encode", "ending"), [("webp", "webp"), ("jpeg", "jpg")])
def test_a_forged_data_set(photographs, forgeries, tmp_path, encode, ending):
    if encode == "webp":
        rows, output = forgeries
    else:
        output = tmp_path / "forged"
        rows = make(photographs, output, settings(encode=encode))
    made = [row for row in rows if not row["error"]]
    assert len(rows) == 52 and len(made) == 48
    assert {row["source"] for row in rows if row["error"]} == {"dot.png", "broken.jpg"}
    assert "1x1 pixels" in next(r["error"] for r in rows if r["source"] == "dot.png")
    asked = settings(encode=encode)
    for row in made:
        original, mask, forged = forge_task.forgery_files(output, row, asked)
        photo = load_photo(photographs, row["source"])
        altered = read_picture(mask).any(axis=-1)
        assert abs(altered.mean() - row["coverage"]) < 1e-6
        assert original.suffix == forged.suffix == f".{ending}"
        if encode == "webp":  # lossless: the files show that nothing else changed
            assert np.array_equal(read_picture(original), photo.pixels)
            same = read_picture(forged) == photo.pixels
            assert same[~altered].all()
        else:
            with Image.open(original) as one, Image.open(forged) as two:
                assert one.quantization == two.quantization
        if row["donor"]:
            split = {row["source"]: row["split"] for row in rows}
            assert split[row["source"]] == split[row["donor"]] and row["source"] != row["donor"]
    assert (output / "contact_sheet.png").stat().st_size > 10_000
    with open(output / "provenance.csv", newline="") as file:
        assert [r["id"] for r in csv.DictReader(file)] == [r["id"] for r in rows]
    spec, roots = load_spec(str(output))
    found = build_catalog(spec, roots, progress=False)
    assert spec.class_names == ("original", "inpainted")
    assert found.table.num_rows == 24 + 48 and found.skipped.num_rows == 0
    for row in found.table.to_pylist():
        assert (row["mask"] is None) == (row["label"] == 0) == (row["generator"] is None)
    groups = {}
    for row in found.table.to_pylist():
        groups.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in groups.values())


def test_processes_interruptions_and_repetition_change_nothing(
    photographs, forgeries, tmp_path, monkeypatch
):
    whole, folder = forgeries
    real, calls = forge_task.forge, []

    def fails_at_the_tenth(*args):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(forge_task, "forge", fails_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        make(photographs, tmp_path / "b/forged", settings())
    assert not (tmp_path / "b/forged/manifest.csv").exists()
    again = make(photographs, tmp_path / "b/forged", settings())
    assert len(calls) == 10 + 48 - 9 and again == whole  # nothing was made twice
    assert pictures_of(folder) == pictures_of(tmp_path / "b/forged")
    for name in ("manifest.csv", "provenance.csv"):
        assert (folder / name).read_text() == (tmp_path / "b/forged" / name).read_text()
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        make(photographs, tmp_path / "b/forged", settings(seed=1))


def test_a_composite_has_an_object_of_another_photograph(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "maps").mkdir()
    for number in range(6):
        pixels = photo_of(60, 80, number).pixels // 2
        pixels[20:40, 30:60] = [255, 10 * number, 255]  # the object
        labels = np.zeros((60, 80), np.uint8)
        labels[20:40, 30:60] = 1
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
        Image.fromarray(labels).save(tmp_path / f"maps/{number}.png")
    options = {"segments": {"segmentations": str(tmp_path / "maps")}}
    chosen = settings(masks=("segments",), fills=("composite",), variants=2, edge=0,
                      coverage=(0.05, 0.2), mask_options=options)  # fmt: skip
    rows = make(tmp_path / "photos", tmp_path / "forged", chosen)
    made = [row for row in rows if not row["error"]]
    assert made
    for row in made:
        forged = tmp_path / "forged/images" / row["id"]
        with Image.open(f"{forged}.realfake.webp") as image:
            pixels = np.asarray(image)
        with Image.open(f"{forged}.mask.webp") as image:
            mask = np.asarray(image.convert("L")) > 127
        assert 0.03 <= mask.mean() <= 0.2
        number = int(Path(row["donor"]).stem)
        assert (pixels[mask] == [255, 10 * number, 255]).all()


def test_few_photographs_fill_every_split(tmp_path):
    (tmp_path / "few").mkdir()
    for number in range(5):
        Image.fromarray(photo_of(32, 32, number).pixels).save(tmp_path / f"few/{number}.png")
    rows = make(tmp_path / "few", tmp_path / "forged", settings())
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    alone = [row for row in rows if row["split"] != "train"]
    assert not any(row["fill"] == "splice" for row in alone)
    others = make(tmp_path / "few", tmp_path / "b/forged", settings(fills=("splice",)))
    for row in others:  # each photograph without a donor is named, and the others are made
        lonely = row["source"] in {other["source"] for other in alone}
        assert lonely == ("needs another photograph" in (row["error"] or ""))


def test_a_photograph_is_in_one_split_of_all_data_sets(tmp_path):
    for number in range(40):
        photograph_in(tmp_path / "all", f"{number}.png", 32, 32, number)
        if number % 2:
            photograph_in(tmp_path / "half", f"x{number}.png", 32, 32, number)
    photograph_in(tmp_path / "all", "copy.png", 32, 32, 7)
    chosen = settings(fills=("telea",), variants=1)
    first, second, half = (
        {row["source"]: row["split"] for row in make(tmp_path / source, tmp_path / name, chosen)}
        for source, name in (("all", "one"), ("all", "two"), ("half", "three"))
    )
    assert first == second and set(first.values()) == {"train", "validation", "test"}
    assert all(split == first[name[1:]] for name, split in half.items())
    assert first["copy.png"] == first["7.png"]


def test_data_sets_of_earlier_versions_keep_their_splits(photographs, tmp_path, capsys):
    old, renamed = tmp_path / "forged", tmp_path / "renamed"
    chosen = settings(fills=("telea",), variants=1)
    first = make(photographs, old, replace(chosen, split_rule=1))
    noted = json.loads((old / "settings.json").read_text())
    del noted["split_rule"]
    (old / "settings.json").write_text(json.dumps(noted))
    for _ in range(2):
        next((old / "images").glob("*.realfake.webp")).unlink()
        assert make(photographs, old, chosen) == first
        assert "keeps its splits" in capsys.readouterr().err
    old.rename(renamed)
    next((renamed / "images").glob("*.realfake.webp")).unlink()
    with pytest.raises(UserError, match="begun with other splits.*the folder was renamed"):
        make(photographs, renamed, chosen)
    assert make(photographs, tmp_path / "new", chosen) != first
    with pytest.raises(UserError, match=r"other settings \(split_rule\)"):
        make(photographs, tmp_path / "new", replace(chosen, split_rule=1))


def test_files_that_are_gone_are_made_again(photographs, forgeries, tmp_path, capsys):
    whole, folder = forgeries
    shutil.copytree(folder, tmp_path / "forged")
    before = pictures_of(tmp_path / "forged")
    for pattern in ("p1-*.original.*", "p2-*.mask.*", "p3-*-1.realfake.*"):
        next((tmp_path / "forged/images").glob(pattern)).unlink()
    assert make(photographs, tmp_path / "forged", settings()) == whole
    assert pictures_of(tmp_path / "forged") == before
    # Both forgeries of p1 lack their original.
    assert "files of 4 forgeries are missing and are made again" in capsys.readouterr().err


def test_only_photographs_with_a_segmentation_are_cut_out(tmp_path):
    for number in range(30):
        photograph_in(tmp_path / "photos", f"{number}.png", seed=number)
    maps = tmp_path / "maps"
    maps.mkdir()
    labels = np.zeros((48, 64), np.uint8)
    labels[10:30, 20:50] = 1
    for number in range(0, 30, 3):
        Image.fromarray(labels).save(maps / f"{number}.png")
    options = {"segments": {"segmentations": str(maps)}}
    splits = {f"{number}.png": "train" for number in range(30)}
    chosen = settings(masks=("segments",), fills=("composite",), mask_options=options)
    items = plan_forgeries(splits, chosen)
    assert {int(Path(d).stem) % 3 for item in items for d in item.donors} == {0}
    rows = make(tmp_path / "photos", tmp_path / "forged", chosen)
    assert not [row["error"] for row in rows if "no segmentation" in (row["error"] or "")]
    # Where another mask is allowed, photographs without a segmentation get that one.
    chosen = settings(masks=("segments", "blob"), fills=("telea",), mask_options=options)
    rows = make(tmp_path / "photos", tmp_path / "both", chosen)
    assert not any(row["error"] for row in rows)
    used = {(int(Path(row["source"]).stem) % 3 == 0, row["mask"]) for row in rows}
    assert used == {(True, "segments"), (True, "blob"), (False, "blob")}


def test_a_donor_that_cannot_be_used_is_replaced(tmp_path):
    photograph_in(tmp_path / "source", "good.png")
    photograph_in(tmp_path / "source", "other.png", seed=1)
    (tmp_path / "source/broken.png").write_bytes(b"no image")
    photo = load_photo(tmp_path / "source", "good.png")

    def load(name):
        return load_photo(tmp_path / "source", name)

    item = Item("good.png", 0, "splice", ("broken.png", "other.png"))
    assert forge(photo, item, settings(), load)[2]["donor"] == "other.png"
    with pytest.raises(UserError, match=r"^good.png: no donor of 1 can be used. broken.png: "):
        forge(photo, replace(item, donors=("broken.png",)), settings(), load)


def test_masks_below_the_source_are_no_photographs(tmp_path, capsys):
    for number in range(6):
        photograph_in(tmp_path / "source", f"{number}.png", seed=number)
        photograph_in(tmp_path / "source/masks", f"{number}.png", seed=number)
    photograph_in(tmp_path / "source", "0_mask.png")
    assert find_photos(tmp_path / "source", console.log) == [f"{number}.png" for number in range(6)]
    said = capsys.readouterr().err
    assert "13 = 6 images + 7 of other kinds" in said
    assert "(masks in masks/ 6, masks beside their images 1)" in said
    assert len(find_photos(tmp_path / "source/masks", console.log)) == 6


def test_an_edge_wider_than_the_photograph_is_refused(tmp_path, capsys):
    photograph_in(tmp_path / "source", "small.png")
    photograph_in(tmp_path / "source", "large.png", 400, 300)
    call = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "forged"), "--fill",
            "telea", "--quiet", "--edge", "40"]  # fmt: skip
    assert run_command(synthesize, call) == 0
    said = capsys.readouterr()
    assert "small.png: a soft edge of 40 pixels leaves next to nothing" in said.err
    assert "1 forgery in " in said.out and "add photographs" in said.out
    assert "train --dataset" not in said.out


def photograph_in(folder, name, width=64, height=48, seed=0):
    folder.mkdir(exist_ok=True)
    Image.fromarray(photo_of(height, width, seed).pixels).save(folder / name)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_odd_photograph_costs_itself_alone(tmp_path, workers):
    source = tmp_path / "source"
    for number in range(18):
        photograph_in(source, f"{number}.png", seed=number)
    photograph_in(source, "panorama.png", width=16_500, height=16)  # WebP ends at 16,383 pixels
    photograph_in(source, f"{'a photo of an astronaut ' * 10}.png")  # 240 letters and an ending
    rows = make(source, tmp_path / "forged", settings(variants=1), workers=workers)
    failed = {row["source"]: row["error"] for row in rows if row["error"]}
    assert set(failed) == {"panorama.png"}
    assert "16,500 pixels; WEBP allows 16,383" in failed["panorama.png"]
    names = [*os.listdir(tmp_path / "forged"), *pictures_of(tmp_path / "forged")]
    assert not [name for name in names if name.startswith(".staged")]
    assert max(map(len, pictures_of(tmp_path / "forged"))) <= 255


def test_a_photograph_that_ends_its_process_costs_itself_alone(tmp_path, monkeypatch):
    for number in range(18):
        photograph_in(tmp_path / "source", f"{number}.png", seed=number)
    monkeypatch.setattr(synthesize_dataset, "ForgeTask", DeadlyTask)
    rows = make(tmp_path / "source", tmp_path / "forged", settings(variants=1), workers=2)
    failed = {row["source"]: row["error"] for row in rows if row["error"]}
    assert list(failed) == ["7.png"] and "ended the process" in failed["7.png"]


def test_large_photographs_are_refused_before_they_are_decoded(tmp_path, capsys):
    photograph_in(tmp_path / "source", "small.png")
    photograph_in(tmp_path / "source", "large.png", width=80)
    call = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "forged"), "--fill",
            "telea", "--quiet"]  # fmt: skip
    assert run_command(synthesize, [*call, "--max-pixels", "3500"]) == 0
    assert "large.png: 80 x 48 pixels are more than 3,500" in capsys.readouterr().err
    assert run_command(synthesize, call) == 2
    assert "other settings (max_pixels)" in capsys.readouterr().err
    noted = json.loads((tmp_path / "forged/settings.json").read_text())
    assert noted.pop("max_pixels") == 3500  # what an older version did not write is the default
    (tmp_path / "forged/settings.json").write_text(json.dumps(noted))
    assert run_command(synthesize, call) == 0


def test_a_folder_in_which_nothing_was_made_does_not_stay(tmp_path):
    photograph_in(tmp_path / "source", "dot.png", width=8, height=8)
    with pytest.raises(UserError, match="No forgery could be made"):
        make(tmp_path / "source", tmp_path / "data/forged", settings())
    assert not (tmp_path / "data/forged").exists()


def test_a_full_disk_keeps_what_was_made(photographs, forgeries, tmp_path, monkeypatch):
    real = forge_task.write_bytes

    def full(path, data):
        if path.name.startswith("p7-"):
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(forge_task, "write_bytes", full)
    with pytest.raises(UserError, match="No space is left.*to continue"):
        make(photographs, tmp_path / "forged", settings())
    monkeypatch.undo()
    again = make(photographs, tmp_path / "forged", settings())
    assert again == forgeries[0]
    assert not list((tmp_path / "forged").glob(".lock"))
    with exclusive(tmp_path / "forged"), pytest.raises(UserError, match="Another process"):
        make(photographs, tmp_path / "forged", settings())
    with pytest.raises(UserError, match="inside the photographs' folder"):
        make(photographs, photographs / "forged", settings())


@pytest.mark.slow
def test_fakefake_by_an_autoencoder_trained_here(photographs, tmp_path):
    asked = settings(fills=("autoencoder",), variants=1, edge=0)
    rows = make(photographs, tmp_path / "one", asked, steps=30)
    made = [row for row in rows if not row["error"]]
    assert {row["kind"] for row in made} == {"fakefake"}
    trained = autoencoder.Autoencoder.load(tmp_path / "one/autoencoder.keras")
    for row in made[:3]:
        original, mask, forged = map(
            read_picture, forge_task.forgery_files(tmp_path / "one", row, asked)
        )
        expected = np.where(mask > 0, trained.reconstruct(original), original)
        assert np.array_equal(forged, expected)
    pairs = make(photographs, tmp_path / "pairs", settings(
        masks=("whole",), fills=("autoencoder",), variants=1,
        autoencoder=str(tmp_path / "one/autoencoder.keras"),
    ))  # fmt: skip
    whole = next(row for row in pairs if not row["error"])
    original, mask, forged = map(
        read_picture, forge_task.forgery_files(tmp_path / "pairs", whole, asked)
    )
    assert mask.all() and np.array_equal(forged, trained.reconstruct(original))
    given = settings(fills=("autoencoder",), variants=1,
                     autoencoder=str(tmp_path / "one/autoencoder.keras"))  # fmt: skip
    make(photographs, tmp_path / "two", given)
    assert not (tmp_path / "two/autoencoder.keras").exists()
    with pytest.raises(UserError, match="is not a saved autoencoder"):
        autoencoder.Autoencoder.load(tmp_path / "one/manifest.csv")


@pytest.mark.slow
def test_the_autoencoder_learns():
    photos = [photo_of(70, 80, seed).pixels for seed in range(8)]
    losses = []
    trained = autoencoder.train(photos, 60, 0, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])
    for shape in ((33, 50), (16, 16), (64, 20)):
        assert trained.reconstruct(photo_of(*shape).pixels).shape == (*shape, 3)


@pytest.mark.slow
def test_it_trains_a_detector(photographs, tmp_path):
    make(photographs, tmp_path / "forged", settings(variants=3, fills=("telea", "copy_move")))
    run = train_small(tmp_path / "forged", tmp_path / "runs", ["training.epochs=1"])
    assert set(run.results["test"]["generators"]) <= {"telea", "copy_move"}
    assert SMALL and run.class_names == ("original", "inpainted")


@pytest.fixture(scope="module")
def small_diffusion(tmp_path_factory):
    """Stable Diffusion 3 of a few thousand random weights, saved as a preset."""
    import keras_hub.models as hub
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{x}</w>" for x in letters), "ai", "air</w>", "<|endoftext|>",
              "<|startoftext|>"]  # fmt: skip
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = hub.CLIPTokenizer(vocabulary, ["a i", "ai r</w>"])
    text = {"vocabulary_size": len(tokens), "embedding_dim": 16, "hidden_dim": 16, "num_layers": 3,
            "num_heads": 2, "intermediate_dim": 16, "max_sequence_length": 8}  # fmt: skip
    encoders = [
        hub.CLIPTextEncoder(**text, intermediate_output_index=-2, name=name)
        for name in ("clip_l", "clip_g")
    ]
    vae = VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, sample_channels=8)
    backbone = hub.StableDiffusion3Backbone(
        2, 32, 1, 2, 12, None, None, vae, *encoders, latent_channels=4, image_shape=(64, 64, 3)
    )
    prepare = [hub.CLIPPreprocessor(tokenizer, sequence_length=8) for _ in range(2)]
    model = hub.StableDiffusion3Inpaint(
        backbone, hub.StableDiffusion3TextToImagePreprocessor(*prepare)
    )
    path = tmp_path_factory.mktemp("diffusion") / "preset"
    model.save_to_preset(str(path))
    return str(path)


@pytest.mark.parametrize("name", ["vae", "diffusion"])
def test_diffusion_models_of_keras_hub(small_diffusion, name):
    photo = photo_of(50, 70)
    mask = draw_mask("blob", photo, generator(), (0.2, 0.3))
    fill = FILLS.load(name)
    extra = {"prompt": "an air", "steps": 2} if name == "diffusion" else {}
    one = fill(photo.pixels, mask, generator(), preset=small_diffusion, **extra)
    again = fill(photo.pixels, mask, generator(), preset=small_diffusion, **extra)
    assert one.dtype == np.uint8 and one.shape == photo.pixels.shape and np.array_equal(one, again)
    forged = paste(photo.pixels, one, soften(mask, 2))
    assert np.array_equal(forged[~mask], photo.pixels[~mask])
    assert (forged[mask] != photo.pixels[mask]).mean() > 0.5


@pytest.mark.parametrize("fill", ["vae", "diffusion"])
def test_diffusion_models_that_cannot_be_had_say_the_way_out(photographs, tmp_path, fill):
    asked = settings(fills=(fill,), fill_options={fill: {"preset": str(tmp_path / "none")}},
                     prompts={"": ("a {folder}",)})  # fmt: skip
    with pytest.raises(UserError, match="cannot be loaded.*\n.*--diffusion FOLDER"):
        make(photographs, tmp_path / "out", asked)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--fill", "telae"], "Unknown fill 'telae'. Did you mean 'telea'"),
    (["--masks", "brusch"], "Unknown mask 'brusch'. Did you mean 'brush'"),
    (["--coverage", "0.5"], "argument --coverage: expected two fractions"),
    (["--coverage", "0.5,0.2"], "the lower one first"),
    (["--variants", "0"], "argument --variants: expected a whole number of at least 1"),
    (["--size", "4"], "--size must be at least 16"),
    (["--masks", "segments"], "needs --segmentations"),
    (["--masks", "yolo"], "needs --yolo FILE: a network as ONNX"),
    (["--masks", "person"], "needs --person FILE: selfie_segmentation.tflite of MediaPipe"),
    (["--masks", "whole"], "which leaves no unaltered pixels. Give --fill autoencoder"),
    (["--mix", "0.2,1"], "argument --mix: expected two fractions from 0 to below 1"),
    (["--fill", "diffusion"], "needs --prompt"),
    (["--fill", "telea", "--copy-rotation", "30"], "--copy-rotation is for --fill copy_move"),
    (["--fill", "telea", "--steps", "9"], "--steps is for --fill autoencoder"),
    (["--masks", "whole", "--fill", "autoencoder", "--edge", "4"], "--masks whole leaves no edge"),
    (["--split-rule", "3"], "argument --split-rule: unknown value '3'"),
    (["--quality", "90"], "--quality is for --encode jpeg"),
    (["--masks", "brush", "--yolo", "net.onnx"], "--yolo is for the mask 'yolo'"),
    (["--captions", "no/such.csv", "--fill", "diffusion"], "Cannot read no/such.csv"),
])  # fmt: skip
def test_mistakes_are_told(photographs, tmp_path, capsys, arguments, message):
    base = ["--source", str(photographs), "--output", str(tmp_path / "out")]
    assert run_command(synthesize, [*base, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_of_the_python_api_are_checked_too():
    for changes, message in (
        ({"fills": ("telae",)}, "Did you mean 'telea'"),
        ({"masks": ()}, "at least one mask"),
        ({"masks": ("whole",)}, "fill 'copy_move' cannot be used with --masks whole"),
        ({"fills": ("diffusion",)}, "needs --prompt"),
        ({"size": 4}, "at least 16"),
    ):
        with pytest.raises(UserError, match=message):
            settings(**changes)


def test_captions_and_prompts(tmp_path):
    file = tmp_path / "captions.csv"
    file.write_text("name,caption\np1.jpg,a dog\np1.jpg,a red dog\nq.png,a hat\n")
    found = read_captions(file)
    assert found == {"p1": ("a dog", "a red dog"), "q": ("a hat",)}
    file.write_text("file,caption\nx,y\n")
    with pytest.raises(UserError, match="no column 'name'"):
        read_captions(file)
    assert json.loads(json.dumps({"": ["a {folder}"]}))


def test_copies_are_turned_and_scaled():
    from tfdetect.synthesize import parser, settings_of

    arguments = [
        "--source",
        ".",
        "--output",
        "x",
        "--copy-rotation",
        "30",
        "--copy-scale",
        "0.8,1.25",
    ]
    options = settings_of(parser().parse_args(arguments)).fill_options["copy_move"]
    assert options == {"rotation": 30.0, "scale": (0.8, 1.25)}
    photo = photo_of(90, 120).pixels
    mask = np.zeros(photo.shape[:2], bool)
    mask[20:60, 20:60] = True
    plain, turned = (
        FILLS.load("copy_move")(photo, mask, np.random.default_rng(1), **more)
        for more in ({}, options)
    )
    assert turned.shape == photo.shape and turned.dtype == np.uint8
    assert not np.array_equal(plain[mask], turned[mask])
