"""What libraries say, write and send by themselves."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfdetect
from tfdetect.core import quiet

PACKAGE = Path(tfdetect.__file__).parent


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_is_imported_without_its_telemetry(tmp_path, monkeypatch, given, expected):
    # A stand-in, because ONNX Runtime itself sends nothing where it recognizes a test machine.
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nprint(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{PACKAGE.parent}")
    if given is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    else:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
    code = "from tfdetect.core.quiet import import_onnxruntime as load; print(load().__name__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [expected, "onnxruntime"]


def test_onnx_runtime_is_imported_in_one_place():
    statement = re.compile(r"^\s*(import onnxruntime\b|from onnxruntime import)", re.MULTILINE)
    files = [file for file in PACKAGE.rglob("*.py") if statement.search(file.read_text("utf-8"))]
    assert files == []


def test_optional_packages_are_hidden_from_the_import_alone(tmp_path, monkeypatch):
    (tmp_path / "optional_part.py").write_text("value = 3")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(quiet, "_OPTIONAL", ("optional_part", "json"))
    with quiet._without_optional():
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("optional_part")
        assert importlib.import_module("json").loads("3") == 3  # was imported before
    assert importlib.import_module("optional_part").value == 3
    monkeypatch.delitem(sys.modules, "optional_part")


def test_programs_keep_features_of_keras_that_need_optional_packages():
    """The tests are such a program: `conftest` imports TensorFlow as the Python API does."""
    assert importlib.import_module("keras.src.visualization.plot_image_gallery").plt is not None
