"""Mask files in many codings: detected over the set, checked, and read alike everywhere."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL
from PIL import Image

from tfdetect.auditing.audit_dataset import audit_dataset
from tfdetect.auditing.audit_report import audit_document, format_audit, write_report
from tfdetect.auditing.fixes import fix_dataset
from tfdetect.core.errors import UserError
from tfdetect.core.run_info import View
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.examples import has_mask
from tfdetect.data.loading import load_images, native_images
from tfdetect.data.locate import locate_dataset
from tfdetect.data.mask_files import compare_sizes
from tfdetect.data.masks import check_masks, coverage_by_class
from tfdetect.data.plan import make_plan
from tfdetect.data.prepare_dataset import write_shards
from tfdetect.data.shard_writer import Copies
from tfdetect.data.sources import image_source, mask_source
from tfdetect.data.targets import UNKNOWN
from tfdetect.data.training_data import training_data
from tfdetect.data.validation_stream import validation_data
from tfdetect.imaging.mask_coding import MaskCoding, decode_mask, detect_coding, survey_mask

SIDE = 32
COUNT = 8  # fakes of a set


def drawn(number):
    """Return the altered pixels of a fake, bool [32, 32]."""
    altered = np.zeros((SIDE, SIDE), bool)
    altered[4 + number : 14 + number, 6 : 16 + number] = True
    return altered


def levels(altered, low, high, dtype=np.uint8):
    return np.where(altered, high, low).astype(dtype)


def colored(altered, channel):
    pixels = np.zeros((*altered.shape, 3), np.uint8)
    pixels[..., channel] = levels(altered, 0, 255)
    return Image.fromarray(pixels)


def palette(altered):
    image = Image.fromarray(levels(altered, 0, 1), "P")
    image.putpalette([0, 0, 0, 128, 0, 0])  # as PASCAL VOC has it
    return image


def alpha(altered):
    noise = np.random.default_rng(0).integers(0, 255, (*altered.shape, 3), np.uint8)
    return Image.fromarray(np.dstack([noise, levels(altered, 0, 255)]))


def gray_alpha(altered):
    return Image.merge("LA", [Image.new("L", altered.shape[::-1], 7),
                              Image.fromarray(levels(altered, 0, 255))])  # fmt: skip


# Of each coding: file suffix, image of the altered pixels, what is detected.
CODINGS = {
    "gray": ("png", lambda a: Image.fromarray(levels(a, 0, 255)), MaskCoding()),
    "0 and 1": ("png", lambda a: Image.fromarray(levels(a, 0, 1)), MaskCoding(values=(0, 1))),
    "1 and 2": ("png", lambda a: Image.fromarray(levels(a, 1, 2)), MaskCoding(values=(1, 2))),
    "16 bits": ("png", lambda a: Image.fromarray(levels(a, 0, 65535, np.uint16)),
                MaskCoding(values=(0, 65535), bits=16)),
    "16 bits, 0 and 1": ("png", lambda a: Image.fromarray(levels(a, 0, 1, np.uint16)),
                         MaskCoding(values=(0, 1), bits=16)),
    "16 bits, 0 and 255": ("tiff", lambda a: Image.fromarray(levels(a, 0, 255, np.uint16)),
                           MaskCoding(values=(0, 255), bits=16)),
    "1 bit": ("png", lambda a: Image.fromarray(a), MaskCoding()),
    "1-bit BMP": ("bmp", lambda a: Image.fromarray(a), MaskCoding()),
    "1-bit TIFF": ("tif", lambda a: Image.fromarray(a), MaskCoding()),
    "TIFF of 0 and 1": ("tif", lambda a: Image.fromarray(levels(a, 0, 1)),
                        MaskCoding(values=(0, 1))),
    "BMP": ("bmp", lambda a: Image.fromarray(levels(a, 0, 255)), MaskCoding()),
    "GIF": ("gif", lambda a: Image.fromarray(levels(a, 0, 255)), MaskCoding()),
    "RGB": ("png", lambda a: Image.fromarray(levels(a, 0, 255)).convert("RGB"), MaskCoding()),
    "WebP": ("webp", lambda a: Image.fromarray(levels(a, 0, 255)), MaskCoding()),
    "green": ("png", lambda a: colored(a, 1), MaskCoding("green")),
    "blue WebP": ("webp", lambda a: colored(a, 2), MaskCoding("blue")),
    "palette": ("png", palette, MaskCoding("red", (0, 128))),
    "alpha": ("png", alpha, MaskCoding("alpha")),
    "alpha of WebP": ("webp", alpha, MaskCoding("alpha")),
    "gray and alpha": ("png", gray_alpha, MaskCoding("alpha")),
}  # fmt: skip


def encoded(image, suffix):
    data = io.BytesIO()
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    image.save(data, {"tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    return data.getvalue()


def write_set(root, suffix="png", draw=None, spec="", authentic_masks=False):
    """Write photographs and fakes with masks, and the dataset spec; returns the latter's path."""
    draw = draw or CODINGS["gray"][1]
    rng = np.random.default_rng(1)
    for number in range(COUNT):
        for name in ("real", "fake"):
            pixels = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
        (root / "masks").mkdir(exist_ok=True)
        data = encoded(draw(drawn(number)), suffix)
        (root / "masks" / f"{number}.{suffix}").write_bytes(data)
    mask = f"masks/{{group}}.{suffix}"
    of_real = f", mask: '{mask}'" if authentic_masks else ""
    (root / "dataset.yaml").write_text(
        "name: coded\npattern: '(?P<class>real|fake)/(?P<group>\\d+)\\.png'\nclasses:\n"
        f"  - {{name: real, folders: [real]{of_real}}}\n"
        f"  - {{name: fake, folders: [fake], mask: '{mask}'}}\n" + spec
    )
    return root / "dataset.yaml"


def located(path):
    """Return the spec and the folders of a spec that lies beside its images, or of shards."""
    return locate_dataset(str(path), path.parent if path.suffix == ".yaml" else None)


def catalog_of(path):
    return build_catalog(*located(path), progress=False)


def truths(catalog):
    """Return the mask that the pipeline reads for each fake, by the number in its name."""
    rows = catalog.table.filter(has_mask(catalog.table))
    masks = mask_source(catalog, rows)
    names = [int(path.split("/")[-1].split(".")[0]) for path in rows["path"].to_pylist()]
    return {n: masks.load(tf.constant(i), None).numpy()[..., 0] for i, n in enumerate(names)}


def graph_truths(catalog):
    """Return the masks of all fakes as evaluation reads them, by the number in the name."""
    rows = catalog.table.filter(has_mask(catalog.table))
    images = native_images(image_source(catalog, rows), mask_source(catalog, rows))
    names = [int(path.split("/")[-1].split(".")[0]) for path in rows["path"].to_pylist()]
    return [(names[int(index)], mask.numpy()[..., 0]) for index, _, mask, _ in images]


@pytest.mark.parametrize("name", CODINGS)
def test_every_coding_is_detected_and_read(name, tmp_path):
    suffix, draw, coding = CODINGS[name]
    catalog = catalog_of(write_set(tmp_path, suffix, draw))
    assert catalog.masks["coded"].coding == coding
    assert catalog.masks["coded"].remarks == () and not catalog.skipped.num_rows
    found = truths(catalog)
    assert sorted(found) == list(range(COUNT))
    by_path = dict(zip(catalog.table["path"].to_pylist(), catalog.table.to_pylist()))
    for number, mask in found.items():
        assert np.array_equal(mask, drawn(number))
        data = (tmp_path / "masks" / f"{number}.{suffix}").read_bytes()
        assert np.array_equal(decode_mask(data, coding), mask)
        row = by_path[f"fake/{number}.png"]
        assert row["mask_coverage"] == pytest.approx(drawn(number).mean(), rel=1e-6)
    coverage = catalog.masks["coded"].info.coverage
    assert list(coverage) == ["fake"] and coverage["fake"].count == COUNT


def test_jpeg_noise_is_no_value_of_its_own(tmp_path):
    def noisy(altered):
        return Image.fromarray(levels(altered, 0, 255)).convert("RGB")

    catalog = catalog_of(write_set(tmp_path, "jpeg", noisy))
    assert catalog.masks["coded"].coding == MaskCoding()
    for number, mask in truths(catalog).items():
        assert (mask != drawn(number)).mean() < 0.01


def test_the_spec_overrides_what_is_detected(tmp_path):
    spec = "mask_channel: red\nmask_values: [0, 1]\nmask_inverted: true\n"
    write_set(tmp_path, draw=lambda a: Image.fromarray(levels(~a, 0, 1)), spec=spec)
    catalog = catalog_of(tmp_path / "dataset.yaml")
    assert catalog.masks["coded"].coding == MaskCoding("red", (0, 1), inverted=True)
    assert not catalog.masks["coded"].info.detected
    for number, mask in truths(catalog).items():
        assert np.array_equal(mask, drawn(number))
    for values in ("[1, 0]", "[0, 0]", "[0, 70000]", "[1]"):
        with pytest.raises(UserError, match="mask_values"):
            (tmp_path / "dataset.yaml").write_text(
                (tmp_path / "dataset.yaml").read_text().replace("[0, 1]", values)
            )
            located(tmp_path / "dataset.yaml")
        (tmp_path / "dataset.yaml").write_text(
            (tmp_path / "dataset.yaml").read_text().replace(values, "[0, 1]")
        )


def test_inverted_masks_are_asked_about_not_guessed(tmp_path):
    write_set(tmp_path, draw=lambda a: Image.fromarray(levels(~a, 0, 255)))
    catalog = catalog_of(tmp_path / "dataset.yaml")
    [question] = catalog.masks["coded"].questions
    assert "mask_inverted: true" in question and "mask_inverted: false" in question
    assert not np.array_equal(truths(catalog)[0], drawn(0))
    with pytest.raises(UserError, match="mask_inverted"):
        check_masks(catalog.masks)
    [line] = catalog.describe_masks()  # the question itself is asked once, by the error
    assert "(detected); but it is not clear that these are altered" in line
    assert not any("mask_inverted" in warning for warning in catalog.warnings)
    text = (tmp_path / "dataset.yaml").read_text()
    for answer, expected in (("true", drawn(0)), ("false", ~drawn(0))):
        (tmp_path / "dataset.yaml").write_text(f"{text}mask_inverted: {answer}\n")
        catalog = catalog_of(tmp_path / "dataset.yaml")
        check_masks(catalog.masks)
        assert np.array_equal(truths(catalog)[0], expected)


def test_masks_of_authentic_images_are_never_alterations(tmp_path):
    """Object masks are counted and not used; full ones are asked about."""
    write_set(tmp_path, authentic_masks=True)
    catalog = catalog_of(tmp_path / "dataset.yaml")
    masks = catalog.masks["coded"]
    assert masks.info.coverage["real"].count == COUNT and not masks.questions
    assert any("Pixels are marked in" in note for note in masks.notes)
    rows = catalog.table.to_pylist()
    assert all((row["mask"] is None) == (row["label"] == 0) for row in rows)
    full = levels(np.ones((SIDE, SIDE)), 0, 255)
    text = (
        (tmp_path / "dataset.yaml")
        .read_text()
        .replace("[real], mask: 'masks", "[real], mask: 'full")
    )
    (tmp_path / "dataset.yaml").write_text(text)
    (tmp_path / "full").mkdir()
    for number in range(COUNT):
        Image.fromarray(full).save(tmp_path / "full" / f"{number}.png")
    assert (
        "though these are authentic"
        in catalog_of(tmp_path / "dataset.yaml").masks["coded"].questions[0]
    )


def test_what_was_given_is_not_called_detected(tmp_path):
    for spec, source in {
        "": "detected",
        "mask_values: [0, 255]\n": "channel detected, the rest as the dataset spec says",
        "mask_channel: gray\n": "values detected, the rest as the dataset spec says",
        "mask_channel: gray\nmask_values: [0, 255]\n": "as the dataset spec says",
    }.items():
        masks = catalog_of(write_set(tmp_path, spec=spec)).masks["coded"]
        assert masks.source == source and f"({source})" in masks.describe()


def test_masks_without_the_channel_that_was_given_are_refused_by_its_name(tmp_path):
    spec = write_set(tmp_path, spec="mask_channel: alpha\n")
    with pytest.raises(UserError) as caught:
        catalog_of(spec)
    assert "no alpha channel, by which masks are read (mask_channel: alpha)" in str(caught.value)
    assert "as the other masks" not in str(caught.value)


def test_unfit_masks_of_authentic_images_can_be_read_but_not_used(tmp_path):
    spec = write_set(tmp_path, authentic_masks=True)
    text = spec.read_text().replace("[real], mask: 'masks", "[real], mask: 'wide")
    spec.write_text(text)
    (tmp_path / "wide").mkdir()
    for number in range(COUNT):
        Image.new("L", (3 * SIDE, SIDE)).save(tmp_path / "wide" / f"{number}.png")
    notes = catalog_of(spec).masks["coded"].notes
    assert f"{COUNT} masks of authentic images cannot be used, and none is needed" in notes


def test_a_message_about_mask_values_names_them_once(tmp_path):
    with pytest.raises(UserError) as caught:
        located(write_set(tmp_path, spec="mask_values: [9, 3]\n"))
    assert str(caught.value).lower().count("received") == 1 and "[9, 3]" in str(caught.value)


def striped(altered):
    """Values 0, 1 and 3: every second column of the altered region has another one."""
    return Image.fromarray(levels(altered, 0, 3) // np.array([1, 2] * (SIDE // 2), np.uint8))


def black_and_white_and_transparent(altered):
    return Image.fromarray(np.dstack([*[levels(altered, 0, 255)] * 3, levels(~altered, 9, 255)]))


QUESTIONS = {
    "several small values": (striped, "mask_values"),
    "one value": (lambda a: Image.fromarray(levels(a, 7, 7)), "mask_values"),
    "all black": (lambda a: Image.fromarray(levels(a, 0, 0)), "are empty"),
    "two colors and alpha": (black_and_white_and_transparent, "mask_channel: alpha or"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_the_values_do_not_say_is_asked(name, tmp_path):
    draw, expected = QUESTIONS[name]
    catalog = catalog_of(write_set(tmp_path, draw=draw))
    with pytest.raises(UserError, match=expected):
        check_masks(catalog.masks)
    # The labels are known all the same: all fakes stay fakes.
    assert catalog.counts(("real", "fake"))["train"]["fake"] > 0
    assert (catalog.table["label"].to_numpy() > 0).sum() == COUNT


def test_gray_levels_between_are_told():
    images = [Image.fromarray(np.array([[0, 0, 128, 255]], np.uint8))] * 3
    found = detect_coding(map(survey_mask, images))
    assert (
        found.coding == MaskCoding() and "most often 128, which counts as altered" in found.remark
    )
    assert detect_coding([], values=(0, 9)).coding.threshold == 5


def broken_set(root):
    """A set in which each mask but those of 5, 6 and 7 has another fault."""
    spec = write_set(root, spec="max_unreadable_fraction: 0.9\n")
    masks, blank = root / "masks", np.zeros((SIDE, SIDE), np.uint8)
    Image.fromarray(blank).save(masks / "0.png")
    Image.fromarray(blank[:, : SIDE // 2]).save(masks / "1.png")
    (masks / "2.png").write_bytes((masks / "2.png").read_bytes()[:60])
    (masks / "3.png").unlink()
    (masks / "4.png").write_text("no image")
    Image.fromarray(levels(np.kron(drawn(5), np.ones((2, 2))), 0, 255)).save(masks / "5.png")
    Image.fromarray(levels(np.ones((SIDE, SIDE)), 0, 255)).save(masks / "6.png")
    Image.fromarray(blank).save(masks / "99.png")
    return spec


def test_every_fault_is_named_and_counted(tmp_path):
    catalog = catalog_of(broken_set(tmp_path))
    errors = dict(zip(*(catalog.skipped[c].to_pylist() for c in ("path", "error"))))
    assert sorted(errors) == [f"fake/{n}.png" for n in (1, 2, 3, 4)]
    assert "16x32 pixels and the image 32x32, which is another shape" in errors["fake/1.png"]
    assert errors["fake/2.png"].startswith("its mask cannot be used: damaged: ")
    assert "missing" in errors["fake/3.png"]
    assert "not an image" in errors["fake/4.png"]
    masks = catalog.masks["coded"]
    assert masks.info.coverage["fake"].model_dump(exclude={"quantiles"}) == {
        "count": 4, "empty": 1, "full": 1, "missing": 0,
    }  # fmt: skip
    assert masks.info.resized == 1 and masks.info.orphans == 1
    assert "1 of 4 masks of 'fake' is empty (masks/0.png)" in masks.questions[0]
    assert any("without an image" in note for note in masks.notes)
    rows = {row["path"]: row for row in catalog.table.to_pylist()}
    assert rows["fake/0.png"]["label"] == 1  # never relabeled
    assert rows["fake/0.png"]["mask"] is None and rows["fake/0.png"]["mask_coverage"] == 0
    found = truths(catalog)
    assert sorted(found) == [5, 6, 7]
    assert np.array_equal(found[5][::2, ::2], drawn(5)) and found[6].all()


def test_masks_of_turned_images(tmp_path):
    """A mask that was drawn before EXIF turned the image is refused, not squeezed."""
    assert compare_sizes((30, 20), (20, 30), 6)[1].endswith("EXIF orientation")
    assert "turned by 90 degrees" in compare_sizes((30, 20), (20, 30))[1]
    assert compare_sizes((15, 10), (31, 20)) == (True, None)
    write_set(tmp_path, spec="max_unreadable_fraction: 0.9\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((20, SIDE, 3), np.uint8)
    for number, shape in ((0, (20, SIDE)), (1, (SIDE, 20))):
        Image.fromarray(wide).save(tmp_path / "fake" / f"{number}.png", exif=exif)
        mask = np.full(shape, 255, np.uint8)
        mask[:5] = 0
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    catalog = catalog_of(tmp_path / "dataset.yaml")
    [(path, error)] = zip(*(catalog.skipped[c].to_pylist() for c in ("path", "error")))
    assert path == "fake/0.png" and "EXIF orientation" in error
    assert any(
        "1 image turned by the EXIF" in problem for problem in catalog.masks["coded"].problems
    )
    assert truths(catalog)[1].shape == (SIDE, 20)


def test_a_mask_with_its_own_orientation(tmp_path):
    write_set(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = Image.fromarray(levels(np.rot90(drawn(3), -1), 0, 255))
    turned.save(tmp_path / "masks" / "3.png", exif=exif)
    assert np.array_equal(truths(catalog_of(tmp_path / "dataset.yaml"))[3], drawn(3))


def test_unchanged_masks_come_from_the_cache(tmp_path, monkeypatch):
    from tfdetect.data import mask_files

    read = []
    measure = mask_files.measure_mask
    monkeypatch.setattr(mask_files, "measure_mask",
                        lambda item, **k: read.append(item[0]) or measure(item, **k))  # fmt: skip
    spec = write_set(tmp_path)
    first = catalog_of(spec)
    assert len(read) == COUNT
    assert catalog_of(spec).masks == first.masks and len(read) == COUNT
    Image.fromarray(levels(drawn(7), 0, 255)).save(tmp_path / "masks" / "2.png")
    second = catalog_of(spec)
    assert [path.rpartition("/")[2] for path in read[COUNT:]] == ["2.png"]
    rows = {row["path"]: row["mask_coverage"] for row in second.table.to_pylist()}
    assert rows["fake/2.png"] == pytest.approx(drawn(7).mean())
    assert rows["fake/3.png"] == pytest.approx(drawn(3).mean())


# --- labels and masks in the stream


def settings(**data):
    plan = make_plan("demo", None, [*SMALL, "data.augment=[]"])
    return plan.experiment.data.model_copy(update=data)


@pytest.mark.parametrize(
    ("policy", "size", "cache"),
    [("stretch", 4, "memory"), ("window_pad", 8, "none")],
)  # fmt: skip
def test_only_what_is_cut_off_becomes_authentic(policy, size, cache, tmp_path):
    """A fake stays one if its mask is empty, or lost in resizing; a window beside is authentic."""
    spec = write_set(tmp_path, spec="mask_values: [0, 255]\n")
    for number in range(COUNT):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if number % 2:  # the others are empty
            mask[0, 1] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    catalog = catalog_of(spec)
    data = settings(image_size=(size, size), resize=policy, cache=cache, augment=())
    fakes = catalog.table.filter(catalog.table["label"].to_numpy() > 0)
    streams = [training_data(catalog, fakes, data, 2, 8, 0, with_masks=True).batches().take(4),
               validation_data(catalog, fakes, data, 2, 8, with_masks=True)]  # fmt: skip
    for batches in streams:
        for _, targets, *_ in batches:
            for label, mask in zip(targets["label"].numpy()[:, 0], targets["mask"].numpy()):
                if label:
                    assert (mask == UNKNOWN).all() or (mask == 1).any()
                else:
                    assert policy == "window_pad" and not mask.any()


def test_a_cut_off_region_is_not_lost(tmp_path):
    """With `crop`, a region outside of the square makes the view authentic, one inside does not."""
    root = tmp_path
    write_set(root, spec="mask_values: [0, 255]\n")
    for number in range(COUNT):
        Image.fromarray(np.zeros((SIDE, 3 * SIDE, 3), np.uint8)).save(root / f"fake/{number}.png")
        mask = np.zeros((SIDE, 3 * SIDE), np.uint8)
        mask[1, 3 if number % 2 else 40] = 255  # one pixel: the nearest neighbors miss it
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    catalog = catalog_of(root / "dataset.yaml")
    fakes = catalog.table.filter(catalog.table["label"].to_numpy() > 0)
    numbers = [int(path[5:-4]) for path in fakes["path"].to_pylist()]
    view = View(size=(8, 8), policy="crop")
    _, _, masks = load_images(image_source(catalog, fakes), view, mask_source(catalog, fakes))
    for number, mask in zip(numbers, masks):
        assert (mask == (0 if number % 2 else UNKNOWN)).all()


# --- the rest of the house reads masks through the same mechanism


def test_shards_of_masks_that_are_all_empty_are_refused(tmp_path):
    spec = write_set(tmp_path / "set", draw=lambda a: Image.fromarray(levels(a & False, 0, 255)))
    dataset, _ = located(spec)
    with pytest.raises(UserError, match="are empty"):
        write_shards(catalog_of(spec), dataset, tmp_path / "out", Copies(), 10**6, 1, False)
    assert not (tmp_path / "out").exists()


def test_shards_keep_masks_exactly(tmp_path):
    suffix, draw, _ = CODINGS["16 bits, 0 and 1"]
    spec = write_set(tmp_path / "set", suffix, draw)
    catalog = catalog_of(spec)
    dataset, _ = located(spec)
    done = write_shards(catalog, dataset, tmp_path / "out", Copies(), 10**6, 1, progress=False)
    prepared = catalog_of(done.folder)
    assert prepared.masks["coded"].info.coverage == catalog.masks["coded"].info.coverage
    for source in (prepared, catalog):
        found = graph_truths(source)
        assert len(found) == COUNT
        for number, mask in found:
            assert np.array_equal(mask, drawn(number))


def test_copies_that_lose_the_region_are_fakes_with_unknown_masks(tmp_path):
    spec = write_set(tmp_path / "set")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[0, 1] = 255
    Image.fromarray(mask).save(tmp_path / "set/masks/0.png")
    dataset, _ = located(spec)
    copies = Copies((4, 4), "stretch")
    done = write_shards(catalog_of(spec), dataset, tmp_path / "out", copies, 10**6, 1, False)
    rows = {row["path"]: row for row in catalog_of(done.folder).table.to_pylist()}
    assert rows["fake/0.png"]["mask"] is None and rows["fake/0.png"]["label"] == 1
    assert rows["fake/1.png"]["mask"] == "masks/1.png"


def test_unions_read_each_part_by_its_own_coding(tmp_path):
    paths = []
    for name in ("gray", "0 and 1", "alpha"):
        suffix, draw, _ = CODINGS[name]
        path = write_set(tmp_path / name.replace(" ", "_"), suffix, draw)
        path.write_text(path.read_text().replace("coded", path.parent.name))
        paths.append(str(path))
    spec, roots = locate_dataset("+".join(paths), tmp_path)
    catalog = build_catalog(spec, roots, progress=False)
    found = graph_truths(catalog)
    assert len(found) == 3 * COUNT
    for number, mask in found:
        assert np.array_equal(mask, drawn(number))


def test_fakes_without_a_mask_are_counted(tmp_path):
    write_set(tmp_path / "set")
    (tmp_path / "set/dataset.yaml").unlink()
    rows = [f"real/{n}.png,real,\nfake/{n}.png,fake,{'' if n % 2 else f'masks/{n}.png'}\n"
            for n in range(COUNT)]  # fmt: skip
    (tmp_path / "set/manifest.csv").write_text("path,label,mask\n" + "".join(rows))
    (tmp_path / "set/masks/0.png").write_bytes(b"broken")  # its fake is not used
    catalog = catalog_of(tmp_path / "set")
    without, having = COUNT // 2, (COUNT + 1) // 2 - 1
    [masks] = catalog.masks.values()
    assert (masks.info.coverage["fake"].missing, masks.info.coverage["fake"].count) == (
        without, having
    )  # fmt: skip
    said = f"{having} masks, 0 empty, 0 full, median coverage"
    assert said in masks.describe()
    assert f", and {without} of {without + having} images have no mask" in masks.describe()
    found = coverage_by_class(catalog.table, ("real", "fake"))  # as of predictions and shards
    assert list(found) == ["fake"] and found["fake"].missing == without


def test_the_audit_tells_coverage_and_questions(tmp_path):
    spec = write_set(tmp_path / "set", draw=lambda a: Image.fromarray(levels(a, 0, 0)))
    found = audit_dataset(*located(spec), progress=False)
    assert found.verdict == "unreliable"
    assert any(f.topic == "masks" and "are empty" in f.text for f in found.findings)
    document = audit_document(found)
    assert json.loads(json.dumps(document))["masks"]["coded"]["coverage"]["fake"]["empty"] == COUNT
    assert "are empty" in format_audit(found)
    write_report(found, tmp_path / "report")
    page = (tmp_path / "report/audit.html").read_text()
    assert "gray, values from 128 on are altered" in page and ">smallest</th>" in page


@pytest.mark.parametrize("fixes", [["formats"], ["duplicates"]])
def test_fixed_copies_keep_masks(fixes, tmp_path):
    write_set(tmp_path / "set", *CODINGS["0 and 1"][:2])
    found = audit_dataset(*located(tmp_path / "set/dataset.yaml"), progress=False)
    done = fix_dataset(found, tmp_path / "fixed", fixes, progress=False)
    catalog = catalog_of(done.folder / "dataset.yaml")
    masks = catalog.masks["coded_fixed"]
    assert masks.coding == (MaskCoding() if fixes == ["formats"] else MaskCoding(values=(0, 1)))
    rows = catalog.table.filter(has_mask(catalog.table))
    found = mask_source(catalog, rows)
    read = [found.load(tf.constant(i), None).numpy()[..., 0] for i in range(rows.num_rows)]
    meant = {drawn(number).tobytes() for number in range(COUNT)}
    assert len(read) == COUNT and {(mask > 0).tobytes() for mask in read} == meant


def test_mask_keys_belong_to_files():
    parts = {"name": "a", "shards": "catalog.parquet", "mask_values": [0, 1],
             "classes": [{"name": n, "folders": [n]} for n in ("real", "fake")]}  # fmt: skip
    with pytest.raises(ValueError, match="mask_values belongs in the spec that was prepared"):
        DatasetSpec(**parts)
