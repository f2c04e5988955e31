"""The light distribution: predicts what the full one predicts, and is installed beside it."""

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfdetect import predict
from tfdetect.core import packages
from tfdetect.core import run as core_run
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.packages import FULL, SERVER, missing_package
from tfdetect.evaluation.predictions import predict_files
from tfdetect.imaging.photographs import photograph
from tfdetect.light import onnx_detector as light
from tfdetect.light.onnx_predictions import predict_files as predict_light
from tfdetect.models.saving import load_detector

ROOT = Path(__file__).parent.parent
PROJECTS = [
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    for folder in ("", "light")
]
MEBIBYTE = 2**20
SETUP = ast.parse((ROOT / "light" / "setup.py").read_text(encoding="utf-8"))
LEFT_OUT = next(
    ast.literal_eval(node.value) for node in SETUP.body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LEFT_OUT"
)  # fmt: skip
# Runs a command as if the packages were not installed.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({packages}))
from tfdetect.__main__ import main
sys.exit(main({arguments}))
"""


def run_light(*arguments, cwd=None):
    """Run `tfdetect ARGUMENTS` without the packages that the light distribution lacks."""
    rooms = {f"tfdetect.{name}" for name in LEFT_OUT}
    packages = sorted(FULL | SERVER | rooms)
    code = WITHOUT.format(packages=packages, arguments=list(map(str, arguments)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd,
                          env=environment, check=False)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs, one of them small, and a broken file."""
    folder = tmp_path_factory.mktemp("photos")
    for name, box in (("flower", (200, 100, 460, 330)), ("rocket", (0, 0, 224, 224))):
        photograph(name).crop(box).save(folder / f"{name}.jpg", quality=90)
    photograph("grace_hopper").resize((32, 32)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_the_server_needs_none_of_the_packages_of_the_full_one():
    pytest.importorskip("fastapi_offline")
    templates = {"jinja2", "markupsafe"}  # the extra `serve` has them
    missing = sorted(FULL - templates | {f"tfdetect.{name}" for name in LEFT_OUT})
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import tfdetect.serving.app"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_evidence_needs_neither_tensorflow_nor_opencv(photos):
    run = ROOT / "saved_models" / "cifake_small_resnet"
    done = run_light("predict", run, photos / "small.png", photos / "rocket.jpg", "--evidence",
                     "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout):
        lines = {line["name"]: line for line in row["evidence"]["lines"]}
        assert row["evidence"]["headline"] and lines["camera_data"]["reliability"]
        assert "OpenCV is not installed" in lines["copies"]["finding"]


@pytest.mark.parametrize("name", [
    "localizer_photos",
    pytest.param("photo_detector", marks=pytest.mark.slow),
    pytest.param("cifake_small_resnet", marks=pytest.mark.slow),
])  # fmt: skip
def test_without_the_packages_of_the_full_one_predictions_are_the_same(name, photos, tmp_path):
    run, masks = open_run(ROOT / "saved_models" / name), {}
    more = ["--masks", tmp_path] if run.predicts_masks else []
    done = run_light("predict", run.path, photos, "--json", *more)
    assert done.returncode == 0, done.stderr
    assert ("copied regions were not looked for" in done.stderr) == run.predicts_masks
    rows = {Path(row["path"]).name: row for row in json.loads(done.stdout)}
    paths = [str(path) for path in sorted(photos.iterdir())]

    def keep(mask):
        masks[paths[mask.index]] = mask.altered

    expected = predict_files(run, load_detector(run), paths, progress=False, on_mask=keep)
    assert len(rows) == len(paths)
    for path, row in zip(paths, expected.to_pylist()):
        found = rows[Path(path).name]
        assert found.keys() - {"copied_fraction"} == row.keys()  # the search for copies comes later
        for key, value in row.items():
            if isinstance(value, float):
                assert found[key] == pytest.approx(value, abs=1e-3, rel=1e-3), key
            elif key != "path":
                assert found[key] == value, key
        if path in masks:
            drawn = np.asarray(Image.open(tmp_path / f"{Path(path).stem}.altered.png")) / 255
            assert np.abs(drawn - masks[path]).max() < 1e-3 + 0.5 / 255


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--dataset", "demo"], "needs the package pyarrow"),
    (["evaluate", "saved_models/photo_detector"], "needs the package pyarrow"),
    (["predict", "photo.jpg", "--explain", "pages"], "needs the package tensorflow"),
    (["predict", "photo.jpg", "--copies", "copies"], "--copies needs OpenCV"),
    (["serve"], "needs the package uvicorn"),
    (["synthesize", "--help"], "tfdetect.synthesis is not part of tfdetect-light"),
])  # fmt: skip
def test_what_needs_the_full_one_says_what_to_install(arguments, message, tmp_path):
    photograph("flower").resize((96, 96)).save(tmp_path / "photo.jpg")
    (tmp_path / "saved_models").symlink_to(ROOT / "saved_models")
    done = run_light(*arguments, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert message in last and "pip install" in last


def test_help_and_advice_are_of_what_the_light_one_has(monkeypatch, capsys):
    """It takes --explain and --spark to say what to install, but offers neither."""
    run = open_run(ROOT / "saved_models" / "localizer_photos")
    texts = {}
    for full in (True, False):
        for module in ("core.packages", "core.cli"):
            monkeypatch.setattr(f"tfdetect.{module}.has_tensorflow", lambda full=full: full)
        with pytest.raises(UserError, match=r"python -m tfdetect.calibrate .*") as advised:
            run.with_threshold("fpr_2")
        parser = predict.parser()
        assert parser.parse_args(["a.jpg", "--explain", "b", "--spark", "local"]).spark == "local"
        texts[full] = parser.format_help(), str(advised.value)
    help_text, advice = texts[False]
    assert "--spark" not in help_text and "--explain" not in help_text and "==" not in help_text
    assert "--masks" in help_text and "cluster" not in help_text
    assert "the full tfdetect has: pip install tfdetect" in advice
    assert all(flag in texts[True][0] for flag in ("--spark-conf", "--explain DIR", "pages/"))
    assert "pip install" not in texts[True][1]


def test_a_part_that_is_hidden_is_no_part_of_the_light_one():
    text = str(missing_package(ModuleNotFoundError(name="tfdetect.light.onnx_detector")))
    assert "tfdetect-light" not in text and "tfdetect.light.onnx_detector" in text


def test_extras_are_those_of_the_distribution_that_is_installed(tmp_path):
    assert packages.with_extra("heic") == "tfdetect[heic]"
    copy = tmp_path / "tfdetect_light" / "packages.py"  # in the light one's wheel
    copy.parent.mkdir()
    shutil.copy(packages.__file__, copy)
    assert runpy.run_path(str(copy))["with_extra"]("heic") == "tfdetect-light[heic]"


def test_half_precision_costs_little(photos, monkeypatch):
    """The wheels have this detector in half precision; docs/guides/deployment.md has the loss."""
    run, found = open_run(ROOT / "saved_models" / "cifake_small_resnet"), []
    paths = [str(path) for path in sorted(photos.iterdir())]
    for file in ("exports/detector.onnx", "exports/detector_float16.onnx"):
        monkeypatch.setattr(core_run, "ONNX_FILES", (file,))
        table = predict_light(light.LightDetector(run), paths, progress=False)
        found.append(table["p_fake"].to_numpy()[1:])  # the first one is broken
    assert np.isfinite(found).all()
    np.testing.assert_allclose(*found, atol=5e-3)
    assert (found[0] != found[1]).any()  # these are two networks


def test_a_run_without_its_keras_model_predicts(photos, tmp_path):
    run = open_run(ROOT / "saved_models" / "localizer_photos")
    folder = tmp_path / "run"
    (folder / "exports").mkdir(parents=True)
    names = ("run.json", "experiment.yaml", "domain.npy", "training_images.npy",
             "exports/detector.onnx")  # fmt: skip
    for name in names:
        (folder / name).write_bytes((run.path / name).read_bytes())
    done = run_light("predict", folder, photos / "rocket.jpg", "--json")
    assert json.loads(done.stdout)[0]["error"] is None
    from tfdetect.core.errors import UserError

    with pytest.raises(UserError, match="has no Keras model"):
        load_detector(open_run(folder))
    (folder / "exports" / "detector.onnx").unlink()
    with pytest.raises(UserError, match="model.keras is missing"):
        open_run(folder)


def test_requirements_and_files_of_both_agree():
    full, only_light = PROJECTS
    assert set(only_light["project"]["dependencies"]) <= set(full["project"]["dependencies"])
    extras, ours = (each["project"]["optional-dependencies"] for each in PROJECTS)
    always = set(full["project"]["dependencies"])
    for name, wanted in ours.items():
        assert set(wanted) <= always | set(extras.get(name, ())), name
    data = next(node.value for node in ast.walk(SETUP)
                if isinstance(node, ast.keyword) and node.arg == "package_data")  # fmt: skip
    names = {ast.unparse(key).split("INNER}.")[1].rstrip("'") for key in data.keys}
    settings = full["tool"]["setuptools"]
    everything = {name.removeprefix("tfdetect.") for name in settings["package-data"]}
    assert names == everything - set(LEFT_OUT)
    for name in ("tfdetect", "data_specs", "experiments", "saved_models", "LICENSE"):
        assert (ROOT / "light" / name).resolve() == ROOT / name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheels and source archives of both distributions."""
    folder = tmp_path_factory.mktemp("dist")
    for project in (ROOT, ROOT / "light"):
        subprocess.run([sys.executable, "-m", "build", "--outdir", folder, project], check=True,
                       capture_output=True)  # fmt: skip
    return folder


@pytest.mark.slow
def test_archives_have_what_they_should(built):
    archives = sorted(path.name for path in built.iterdir())
    assert [name.rpartition("-0")[0].split("-")[0] for name in archives] == [
        "tfdetect", "tfdetect", "tfdetect_light", "tfdetect_light",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()],
                   check=True, capture_output=True)  # fmt: skip
    for wheel in built.glob("*.whl"):
        assert wheel.stat().st_size < (45 if "light" in wheel.name else 65) * MEBIBYTE
        names = set(zipfile.ZipFile(wheel).namelist())
        inner = "tfdetect_light/tfdetect" if "light" in wheel.name else "tfdetect"
        for file in (
            "data_specs/cifake.yaml", "experiments/photos.yaml", "serving/templates/index.html",
            "core/pages/report.css",
            "saved_models/photo_detector/detector.onnx",
            "saved_models/photo_detector/model.keras",
            "saved_models/localizer_photos/domain.npy",
        ):  # fmt: skip
            assert f"{inner}/{file}" in names
        networks = {name for name in names if name.endswith("/detector.onnx")}
        assert networks == {
            f"{inner}/saved_models/{name}"
            for name in ("photo_detector/detector.onnx", "localizer_photos/exports/detector.onnx")
        }
        assert not any(name.startswith("tests") for name in names)


@pytest.mark.slow
def test_above_its_folder_an_editable_installation_is_found(tmp_path):
    """The folder is named like the package, so that Python could take it for a part of it."""
    clone = tmp_path / "tfdetect"
    clone.mkdir()
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py", "tfdetect", "data_specs",
                 "experiments", "saved_models", "light"):  # fmt: skip
        (clone / name).symlink_to(ROOT / name)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for arguments in (
        ["-m", "pip", "--quiet", "install", "--no-deps", "--editable", clone],
        ["-c", "from importlib.util import find_spec; print(find_spec('tfdetect').origin)"],
    ):
        done = subprocess.run([python, *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).samefile(ROOT / "tfdetect" / "__init__.py")


@pytest.mark.slow
def test_both_are_installed_and_removed_in_any_order(built, tmp_path):
    """In a new virtual environment, outside of the repository; the packages come from the index."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    photograph("flower").save(tmp_path / "photo.jpg")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def pip(*arguments):
        subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True,
                       capture_output=True, env=environment)  # fmt: skip

    def check(folder):
        code = "import tfdetect, pathlib; print(pathlib.Path(tfdetect.__file__).parent.parent.name)"
        for command, expected in (
            (["-c", code], folder), (["-m", "tfdetect.predict", "photo.jpg"], "photo.jpg")
        ):  # fmt: skip
            done = subprocess.run([python, *command], cwd=tmp_path, env=environment,
                                  capture_output=True, text=True, check=False)  # fmt: skip
            assert done.returncode == 0 and expected in done.stdout, done.stderr

    [light_wheel] = built.glob("tfdetect_light*.whl")
    [full_wheel] = built.glob("tfdetect-*.whl")
    pip("install", light_wheel)
    packages = tmp_path / "venv" / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    installed = sum(
        path.lstat().st_size for path in packages.rglob("*")
        if not path.relative_to(packages).parts[0].startswith(("pip", "setuptools", "pkg_res"))
    )  # fmt: skip
    assert installed < 260e6
    check("tfdetect_light")
    pip("install", "--no-deps", full_wheel)  # predict needs no more than the light one has
    check("site-packages")
    pip("uninstall", "--yes", "tfdetect-light")
    check("site-packages")
    pip("install", "--no-deps", next(built.glob("tfdetect_light*.tar.gz")))
    pip("uninstall", "--yes", "tfdetect")
    check("tfdetect_light")
    pip("install", "--no-deps", next(built.glob("tfdetect-*.tar.gz")))
    check("site-packages")
    pip("uninstall", "--yes", "tfdetect", "tfdetect-light")
    assert not [path for path in packages.iterdir() if path.name.startswith("tfdetect")]
