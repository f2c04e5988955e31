"""The example notebooks and scripts run, on small data."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tfdetect

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
WITHOUT_TRAINING = "2_saved_model_in_tensorflow.ipynb"

needs_nbclient = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nbclient", "nbformat", "ipykernel")),
    reason="nbclient, nbformat or ipykernel is not installed (pip install 'tfdetect[test]')",
)

_EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(
    notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}}
).execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture
def workplace(tmp_path, tmp_path_factory):
    """An empty folder examples/ next to the shipped runs, as in a clone."""
    (tmp_path / "saved_models").symlink_to(ROOT / "saved_models")
    folder = tmp_path / "examples"
    folder.mkdir()
    return folder


def execute(arguments, folder, **environment):
    """Run Python with arguments; return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        timeout=900, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def shortened(name: str, folder: Path) -> Path:
    """A copy of a notebook that trains for one short epoch at most, so that it takes seconds."""
    if name == WITHOUT_TRAINING:
        return EXAMPLES / name
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    settings = [
        '\\"training.epochs\\": 3',
        '\\"training.epochs\\": 1, \\"training.steps_per_epoch\\": 8',
    ]
    text = text.replace(', \\"training.steps_per_epoch\\": 40', "").replace(*settings)
    assert settings[1] in text
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_notebook_uses_a_saved_model_in_plain_tensorflow(workplace, monkeypatch, capsys):
    """Its cells in this process; Jupyter runs it in the slow tests."""
    monkeypatch.chdir(workplace)
    cells = json.loads((EXAMPLES / WITHOUT_TRAINING).read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert "tfdetect" not in source
            exec(source, names)
    printed = capsys.readouterr().out
    assert "p_fake" in printed and "probabilities" in printed
    assert names["difference"] < 1e-5


@needs_nbclient
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, workplace):
    execute(["-c", _EXECUTE, shortened(name, workplace)], workplace)
    assert (workplace / "executed.ipynb").is_file()


def test_notebooks_are_stored_without_outputs():
    assert len(NOTEBOOKS) == 3
    for name in NOTEBOOKS:
        cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_script_trains_with_keras_alone(workplace):
    printed = execute([EXAMPLES / "keras_training_loop.py"], workplace)
    accuracy = float(printed.rsplit(":", 1)[1])
    assert accuracy > 0.9


def test_script_predicts(workplace):
    from skimage import io

    pixels = io.imread(ROOT / "docs" / "images" / "localized.jpg")[:64, :64]
    io.imsave(workplace / "photo.png", pixels, check_contrast=False)
    run = workplace.parent / "saved_models" / "cifake_small_resnet"
    printed = execute([EXAMPLES / "predict.py", run, "photo.png"], workplace)
    assert "photo.png" in printed and "P(fake)" in printed


def test_plugins_are_built_from_separate_files(registries):
    """A backbone; and a front-end, a head and an augmentation."""
    tfdetect.load_plugin(EXAMPLES / "plugin_backbone.py")
    assert "tiny_convnet" in tfdetect.list_backbones()
    chosen = {"model.options.width": 4}
    model = tfdetect.create_detector("tiny_convnet", image_size=32, overrides=chosen)
    assert list(model(np.zeros([1, 32, 32, 3]))) == ["label"]
    tfdetect.load_plugin(EXAMPLES / "plugin_parts.py")
    chosen = {"model.front_end": "laplacian", "model.head": "two_layers",
              "data.augment": [{"name": "salt", "fraction": 0.02}]}  # fmt: skip
    model = tfdetect.create_detector("small_resnet", image_size=32, overrides=chosen)
    assert list(model(np.zeros([1, 32, 32, 3]))) == ["label"]


@pytest.mark.slow
def test_plugin_experiment_trains_and_its_run_predicts(workplace):
    plugin = EXAMPLES / "plugin_backbone.py"
    text = (EXAMPLES / "plugin_experiment.yaml").read_text(encoding="utf-8")
    text = text.replace("examples/plugin_backbone.py", str(plugin)).replace(
        "epochs: 6", "epochs: 1"
    )
    (workplace / "plugin.yaml").write_text(text, encoding="utf-8")
    execute(["-m", "tfdetect.train", "--experiment", "plugin.yaml", "--set",
             "training.steps_per_epoch=4", "--output", "runs", "--quiet"], workplace)  # fmt: skip
    image = next((workplace / "runs" / "plugin").rglob("*.png"))
    command = ["-m", "tfdetect.predict", "runs/plugin", image]
    execute(command, workplace)  # by the run's ONNX export
    command += ["--explain", "pages"]  # by the network, which the plug-in builds
    execute(command, workplace, TFDETECT_PLUGINS=str(plugin))
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=workplace, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and "TFDETECT_PLUGINS" in done.stderr
