"""What is done once somebody imports a module."""

import importlib
import importlib.util
import json
import subprocess
import sys

import pytest

import tfdetect
from tfdetect.core.after_import import after_import


@pytest.fixture
def done(tmp_path, monkeypatch):
    """Return what was done so far after an import of the module `imported_later`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "imported_later.py").write_text("value = 3")
    (tmp_path / "of_ours.py").write_text("import imported_later")
    yield []
    sys.modules.pop("imported_later", None)


def test_the_action_follows_the_import_or_comes_at_once(done):
    after_import("imported_later", lambda: done.append(sys.modules["imported_later"].value))
    importlib.import_module("json")
    assert done == []
    importlib.import_module("imported_later")
    assert done == [3]
    after_import("imported_later", lambda: done.append(4))
    assert done == [3, 4]


def test_the_action_waits_for_the_outermost_module_of_this_package(done, tmp_path, monkeypatch):
    monkeypatch.setattr(tfdetect, "__path__", [*tfdetect.__path__, str(tmp_path)])
    (tmp_path / "ours_inner.py").write_text("import imported_later")
    (tmp_path / "ours_outer.py").write_text("import tfdetect.ours_inner\nvalue = 4")
    after_import(
        "imported_later", lambda: done.append(importlib.import_module("tfdetect.ours_outer").value)
    )
    try:
        importlib.import_module("tfdetect.ours_outer")
        assert done == [4]
    finally:
        sys.modules.pop("tfdetect.ours_inner", None)
        sys.modules.pop("tfdetect.ours_outer", None)


def test_an_import_that_fails_is_no_import(done, tmp_path):
    (tmp_path / "imported_later.py").write_text("value = broken")
    after_import("imported_later", lambda: done.append(1))
    with pytest.raises(NameError):
        importlib.import_module("imported_later")
    assert done == []
    (tmp_path / "imported_later.py").write_text("value = 5")
    importlib.invalidate_caches()
    importlib.import_module("imported_later")
    assert done == [1]


def test_a_module_that_is_not_there_is_missing_as_before(done):
    after_import("nowhere_at_all", lambda: done.append(1))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("nowhere_at_all")
    assert done == []


def test_a_module_that_is_only_looked_for_is_acted_on_when_it_is_imported(done):
    after_import("imported_later", lambda: done.append(sys.modules["imported_later"].value))
    for _ in range(2):
        assert importlib.util.find_spec("imported_later") is not None
    assert done == []
    importlib.import_module("imported_later")
    assert done == [3]


ORDERS = [
    "import tfdetect, tensorflow, keras",
    "import keras, tfdetect",
    "import tfdetect.api.detect, tfdetect.models.heads, keras",
    "import tfdetect.models.networks.iidnet, keras",
    "import tfdetect; tfdetect.list_detectors(); import tfdetect.training.fit, keras",
]
# Each order in a process of its own: a fork of one that knows TensorFlow's inner modules and other
# packages that Keras imports, whose import takes most of the time. Those that it would only use if
# they were installed are hidden. TensorFlow itself, which imports Keras, is imported in the fork.
FORKS = """
import contextlib, importlib, json, os, sys, traceback

for name in "cv2", "IPython", "matplotlib", "pandas":
    sys.modules[name] = None
sys.modules["keras"] = None  # not to be found yet
import tensorflow

for name in "keras", "tensorflow":
    del sys.modules[name]
for name in ("h5py", "optree", "pyarrow.parquet", "pydantic", "rich", "scipy.ndimage",
             "scipy.stats", "sklearn.metrics", "yaml"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
assert not any(name.split(".")[0] in ("keras", "tfdetect") for name in sys.modules)


def check(order):
    exec(order, {})
    import keras

    assert "tensorflow" in sys.modules
    for name in "VerdictLayer", "FusedBatchNormalization":
        assert keras.saving.get_registered_object(f"tfdetect>{name}") is not None, name


codes = []
for order in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        try:
            check(order)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def codes():
    """Return the exit code of each order of imports, and what all printed."""
    done = subprocess.run([sys.executable, "-c", FORKS, json.dumps(ORDERS)], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(ORDERS, json.loads(done.stdout), strict=True)), done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_keras_knows_the_layers_in_every_order_of_imports(codes, order):
    found, printed = codes
    assert found[order] == 0, printed
