"""What is done once somebody imports a module."""

import importlib
import importlib.util
import runpy
import subprocess
import sys

import pytest

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


def test_an_import_by_this_package_has_no_consequence(done, tmp_path):
    after_import("imported_later", lambda: done.append(1))
    runpy.run_path(str(tmp_path / "of_ours.py"), run_name="tfdetect.of_ours")
    assert "imported_later" in sys.modules and done == []


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


def test_keras_knows_the_layers_in_every_order_of_imports():
    code = (
        "import tfdetect, tensorflow, keras\n"
        "assert keras.saving.get_registered_object('tfdetect>VerdictLayer') is not None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
