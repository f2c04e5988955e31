"""Layouts of public datasets: small trees of their exact shapes, and what is understood of them."""

import json
import os

import pyarrow as pa
import pytest

from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.data.locate import locate
from tfdetect.data.scan import scan
from tfdetect.data.scan_result import IS_MASK, Scan
from tfdetect.data.split_lists import read_split_files


def files(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def found(root, name):
    """What the shipped spec finds: rows by path, and the scan."""
    spec, _ = load_spec(name)
    assert locate(spec, root) == root
    scanned = scan(spec, root)
    on_disk = sum(path.is_file() for path in root.rglob("*"))
    assert scanned.total == on_disk
    return {row["path"]: row for row in scanned.files.to_pylist()}, scanned


def reasons(scanned):
    return {row["path"]: row["reason"] for row in scanned.left_out.to_pylist()}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("top", ["similar/inpainting", "inpainting", ""])
def test_deepfakeart(tmp_path, suffix, top):
    names = ("original", "inpainting", "mask", "group")
    for record in (14, 22, 10028):
        files(tmp_path, *(f"{top}/{record}/{name}.{suffix}".lstrip("/") for name in names))
    rows, scanned = found(tmp_path, "deepfakeart")
    assert len(rows) == 6 and not scanned.skipped.num_rows
    for path, row in rows.items():
        folder, _, name = path.rpartition("/")
        assert row["label"] == (name == f"inpainting.{suffix}")
        assert row["mask"] == (f"{folder}/mask.{suffix}" if row["label"] else None)
        assert row["group"] == folder.rpartition("/")[2]
    assert list(reasons(scanned).values()).count(IS_MASK) == 3
    assert any("lists of its splits" in warning for warning in scanned.warnings)


@pytest.fixture
def deepfakeart_on_kaggle(tmp_path):
    """The archive: four kinds of forgeries beside the official splits."""
    kinds = {
        "inpainting": ["14/original.png", "14/inpainting.png"],
        "style_transfer": ["Baroque/002_original.png", "Baroque/002_generated.png"],
        "adversarial": ["3/original.png", "3/adv_PGD.png"],
        "cutmix": ["969_source_1.png", "969_generated.png"],
    }
    files(
        tmp_path, "similar/inpainting/14/mask.png", "similar/inpainting/14/group.png",
        "similar/style_transfer/Baroque/002_edges.png", "dissimilar/train_dissimilar.json",
    )  # fmt: skip
    for kind, (original, generated) in kinds.items():
        for shift, split in ((0, "train"), (1, "test")):
            pair = [f"similar/{kind}/{move(p, shift)}" for p in (original, generated)]
            files(tmp_path, *pair)
            file = tmp_path / f"similar/{split}_similar.json"
            listed = json.loads(file.read_text()) if file.exists() else {}
            listed[kind] = {"0": {"original": pair[0], "generated": pair[1]}}
            file.write_text(json.dumps(listed))
    files(tmp_path, "similar/inpainting/15/mask.png")
    return tmp_path


def move(path, shift):
    """The path of another record: its first number is larger."""
    number = next(part for part in path.replace("/", "_").split("_") if part.isdigit())
    return path.replace(number, f"{int(number) + shift:0{len(number)}d}", 1)


def test_deepfakeart_on_kaggle_has_its_official_splits(deepfakeart_on_kaggle):
    rows, scanned = found(deepfakeart_on_kaggle, "deepfakeart")
    assert {path: row["folder_split"] for path, row in rows.items()} == {
        "similar/inpainting/14/original.png": "train",
        "similar/inpainting/14/inpainting.png": "train",
        "similar/inpainting/15/original.png": "test",
        "similar/inpainting/15/inpainting.png": "test",
    }
    assert not scanned.warnings


def test_lists_of_splits_are_read_like_other_documents(tmp_path):
    spec = load_spec("deepfakeart")[0].model_copy(update={"split_files": {"test": ("list.json",)}})
    nothing = Scan(*[pa.table({})] * 3)
    os.mkfifo(tmp_path / "list.json")
    with pytest.raises(UserError, match=r"list\.json is not a file"):
        read_split_files(spec, tmp_path, nothing)
    (tmp_path / "list.json").unlink()
    for content in (b"\xff[]", b"[" * 100_000, b'["a"'):
        (tmp_path / "list.json").write_bytes(content)
        with pytest.raises(UserError, match=r"list\.json is n"):
            read_split_files(spec, tmp_path, nothing)


def test_all_kinds_of_deepfakeart_on_request(deepfakeart_on_kaggle):
    rows, scanned = found(deepfakeart_on_kaggle, "deepfakeart_all")
    assert len(rows) == 16
    for path, row in rows.items():
        assert row["label"] == (not path.endswith(("original.png", "source_1.png")))
        kind = path.split("/")[1]
        expected = {"inpainting": "Stable Diffusion 2 inpainting", "cutmix": "CutMix",
                    "style_transfer": "ControlNet style transfer",
                    "adversarial": "adversarial noise"}[kind]  # fmt: skip
        assert row["generator"] == expected
    assert sorted(row["folder_split"] for row in rows.values()) == ["test"] * 8 + ["train"] * 8
    assert "similar/style_transfer/Baroque/002_edges.png" in reasons(scanned)


GENIMAGE = {
    "ADM/imagenet_ai_0508_adm": "ADM",
    "BigGAN/imagenet_ai_0419_biggan": "BigGAN",
    "glide/imagenet_glide": "GLIDE",
    "Midjourney/imagenet_midjourney": "Midjourney",
    "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4": "Stable Diffusion 1.4",
    "stable_diffusion_v_1_5/imagenet_ai_0424_sdv5": "Stable Diffusion 1.5",
    "VQDM/imagenet_ai_0419_vqdm": "VQDM",
    "wukong/imagenet_ai_0424_wukong": "Wukong",
}


@pytest.mark.parametrize("depth", [1, 2])
def test_genimage(tmp_path, depth):
    """As unpacked, and as tiny-GenImage on Kaggle, which lacks the upper folder."""
    for folder in GENIMAGE:
        folder = "/".join(folder.split("/")[-depth:])
        for split in ("train", "val"):
            files(tmp_path, f"{folder}/{split}/ai/0.png", f"{folder}/{split}/nature/0.JPEG")
    files(tmp_path, "ADM/imagenet_ai_0508_adm.z01", "ADM/imagenet_ai_0508_adm.zip")
    rows, scanned = found(tmp_path, "genimage")
    assert len(rows) == 32 and scanned.other == {".z01": 1, ".zip": 1}
    for path, row in rows.items():
        names = {"/".join(key.split("/")[-depth:]): name for key, name in GENIMAGE.items()}
        assert row["generator"] == names[path.rsplit("/", 3)[0]]
        assert row["label"] == ("/ai/" in path)


def test_archives_that_were_not_unpacked_are_named(tmp_path):
    files(tmp_path, *(f"ADM/imagenet_ai_0508_adm.z{n:02d}" for n in range(1, 4)),
          "ADM/imagenet_ai_0508_adm.zip")  # fmt: skip
    with pytest.raises(UserError, match=r"4 archives .*unpack them.*7z x"):
        scan(load_spec("genimage")[0], tmp_path)
    with pytest.raises(UserError, match=r"4 archives .*unpack them.*7z x"):
        load_spec(str(tmp_path))


def test_cifake_on_kaggle(tmp_path):
    for split in ("train", "test"):
        for name in ("REAL", "FAKE"):
            files(tmp_path, f"{split}/{name}/0000.jpg", f"{split}/{name}/0000 (10).jpg")
    rows, _ = found(tmp_path, "cifake")
    assert {(row["label"], row["folder_split"]) for row in rows.values()} == {
        (0, "train"), (1, "train"), (0, "test"), (1, "test")
    }  # fmt: skip
    assert len(rows) == 8


@pytest.mark.parametrize("top", ["", "dataset/", "CNNDetection/dataset/"])
def test_forensynths(tmp_path, top):
    expected = {}
    for split in ("train", "val"):
        for category in ("car", "train", "tvmonitor"):  # one of the categories is called train
            expected[f"{top}{split}/{category}"] = (split, "ProGAN")
    expected[f"{top}test/progan/car"] = ("test", "ProGAN")
    expected[f"{top}test/cyclegan/horse"] = ("test", "CycleGAN")
    expected[f"{top}test/stylegan2/car"] = ("test", "StyleGAN2")
    for name, generator in (("biggan", "BigGAN"), ("san", "SAN"), ("crn", "CRN")):
        expected[f"{top}test/{name}"] = ("test", generator)
    for folder in expected:
        files(tmp_path, f"{folder}/0_real/0.png", f"{folder}/1_fake/0.png")
    rows, scanned = found(tmp_path, "forensynths")
    assert len(rows) == 2 * len(expected) and not scanned.left_out.num_rows
    for path, row in rows.items():
        folder = path.rsplit("/", 2)[0]
        assert (row["folder_split"], row["generator"]) == expected[folder]
        assert row["label"] == ("1_fake" in path)


def test_the_archive_of_progan_alone_is_a_folder_of_categories(tmp_path):
    for category in ("airplane", "car", "train", "tvmonitor"):
        files(tmp_path, f"{category}/0_real/0.png", f"{category}/1_fake/0.png")
    spec, _ = load_spec(str(tmp_path))
    assert spec.class_names == ("0_real", "1_fake") and not spec.splits
    assert scan(spec, tmp_path).files.num_rows == 8


def test_diffusionforensics(tmp_path):
    for kind in ("images", "recons", "dire"):
        files(
            tmp_path, f"{kind}/train/imagenet/real/n01440764/ILSVRC2012_val_00039791.JPEG",
            f"{kind}/train/imagenet/adm/000/0.png", f"{kind}/test/lsun_bedroom/iddpm/0.png",
            f"{kind}/test/celebahq/if/0.png", f"{kind}/val/lsun_bedroom/real/0.jpg",
        )  # fmt: skip
    rows, scanned = found(tmp_path, "diffusionforensics")
    assert len(rows) == 5 and scanned.left_out.num_rows == 10
    got = {(r["folder_split"], r["label"], r["generator"]) for r in rows.values()}
    assert got == {("train", 0, None), ("train", 1, "ADM"), ("test", 1, "IDDPM"),
                   ("test", 1, "DeepFloyd IF"), ("val", 0, None)}  # fmt: skip


@pytest.mark.parametrize("top", ["", "CASIA1/"])
@pytest.mark.parametrize("modified", ["", "Modified Tp/"])
def test_casia1(tmp_path, top, modified):
    files(tmp_path, f"{top}Au/Au_ani_0001.jpg")
    for kind, stem in (("CM", "Sp_S_NRN_A_ani0001_ani0001_0001"),
                       ("Sp", "Sp_D_CRN_A_ani0001_art0002_0002")):  # fmt: skip
        files(tmp_path, f"{top}{modified}Tp/{kind}/{stem}.jpg",
              f"{top}CASIA 1.0 groundtruth/{kind}/{stem}_gt.png")  # fmt: skip
    rows, scanned = found(tmp_path, "casia1")
    assert sorted((r["label"], r["generator"]) for r in rows.values() if r["label"]) == [
        (1, "copy-move"), (1, "splicing")
    ]  # fmt: skip
    assert len(rows) == 3 and not scanned.skipped.num_rows
    assert list(reasons(scanned).values()) == [IS_MASK] * 2


def test_casia2(tmp_path):
    stems = ["Tp_D_CND_M_N_ani00018_sec00096_00138", "Tp_S_NRN_S_O_sec00036_sec00036_00764"]
    files(tmp_path, "Au/Au_ani_00001.jpg", "Au/Au_txt_30029.bmp", "Au/Thumbs.db",
          *(f"Tp/{stem}.{suffix}" for stem, suffix in zip(stems, ("jpg", "tif"))),
          *(f"CASIA 2 Groundtruth/{stem}_gt.png" for stem in stems))  # fmt: skip
    rows, scanned = found(tmp_path, "casia2")
    fakes = {r["generator"]: r["group"] for r in rows.values() if r["label"]}
    assert fakes == {"splicing": "ani00018", "copy-move": "sec00036"} and len(rows) == 4
    assert list(reasons(scanned).values()) == [IS_MASK] * 2


@pytest.mark.parametrize("inner", ["", "4cam_splc/"])
def test_columbia(tmp_path, inner):
    stem = "canong3_canonxt_sub_01"
    files(tmp_path, "4cam_auth/canong3_02_sub_01.tif", f"4cam_splc/{inner}{stem}.tif",
          f"4cam_splc/edgemask/{stem}_edgemask.jpg", "README.txt")  # fmt: skip
    rows, scanned = found(tmp_path, "columbia")
    assert sorted(row["label"] for row in rows.values()) == [0, 1]
    assert list(reasons(scanned).values()) == [IS_MASK] and scanned.other == {".txt": 1}


def test_coverage(tmp_path):
    files(tmp_path, *(f"image/{n}{t}.tif" for n in (1, 100) for t in ("", "t")),
          *(f"mask/{n}{t}.tif" for n in (1, 100) for t in ("forged", "copy", "paste")),
          "label/1.mat", "readme.txt")  # fmt: skip
    rows, scanned = found(tmp_path, "coverage")
    assert {p: (r["label"], r["mask"], r["group"]) for p, r in rows.items()} == {
        "image/1.tif": (0, None, "1"), "image/1t.tif": (1, "mask/1forged.tif", "1"),
        "image/100.tif": (0, None, "100"), "image/100t.tif": (1, "mask/100forged.tif", "100"),
    }  # fmt: skip
    assert scanned.left_out.num_rows == 6


def test_imd2020(tmp_path):
    files(
        tmp_path, "1a1ogs/1a1ogs_orig.jpg", "1a1ogs/c8tf5mq_0.png", "1a1ogs/c8tf5mq_0_mask.png",
        "1a3oag/1a3oag_orig.jpg", "1a3oag/c8tt7fg_0.jpg", "1a3oag/c8tt7fg_0_mask.png",
    )  # fmt: skip
    rows, scanned = found(tmp_path, "imd2020")
    assert {p: (r["label"], r["mask"], r["group"]) for p, r in rows.items()} == {
        "1a1ogs/1a1ogs_orig.jpg": (0, None, "1a1ogs"),
        "1a1ogs/c8tf5mq_0.png": (1, "1a1ogs/c8tf5mq_0_mask.png", "1a1ogs"),
        "1a3oag/1a3oag_orig.jpg": (0, None, "1a3oag"),
        "1a3oag/c8tt7fg_0.jpg": (1, "1a3oag/c8tt7fg_0_mask.png", "1a3oag"),
    }
    assert list(reasons(scanned).values()) == [IS_MASK] * 2


def test_faceforensics(tmp_path):
    files(
        tmp_path, *(f"original_sequences/youtube/c23/images/{n}/0.png" for n in ("000", "003")),
        "manipulated_sequences/Deepfakes/c23/images/000_003/0.png",
        "manipulated_sequences/FaceSwap/c23/images/071_054/0.png",
        "manipulated_sequences/FaceSwap/masks/images/071_054/0.png",
    )  # fmt: skip
    (tmp_path / "splits").mkdir()
    for split, pairs in (("train", [["000", "003"]]), ("val", []), ("test", [["071", "054"]])):
        (tmp_path / "splits" / f"{split}.json").write_text(json.dumps(pairs))
    rows, _ = found(tmp_path, "faceforensics")
    assert {(r["folder_split"], r["label"], r["generator"]) for r in rows.values()} == {
        ("train", 0, "youtube"), ("train", 1, "Deepfakes"), ("test", 1, "FaceSwap")
    }  # fmt: skip
    assert len(rows) == 4


def test_videos_of_faceforensics_are_sent_to_extract_faces(tmp_path):
    files(tmp_path, "original_sequences/youtube/c23/videos/000.mp4",
          "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4")  # fmt: skip
    for name in (str(tmp_path), "faceforensics"):
        with pytest.raises(UserError, match="2 videos .*extract-faces"):
            spec, _ = load_spec(name)
            scan(spec, tmp_path)
