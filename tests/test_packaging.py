"""pyproject.toml, CITATION.cff, the changelog and the workflow agree with the package."""

import ast
import functools
import graphlib
import re
import tomllib
from pathlib import Path

import yaml

import tfdetect

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_in_the_wheel():
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "tfdetect").rglob("__init__.py")
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert found == listed - {
        f"tfdetect.{name}" for name in ("data_specs", "experiments", "saved_models")
    }


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tfdetect.__version__
    assert f"## {tfdetect.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_workflow_runs_the_readme_command_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    tests = workflow["jobs"]["tests"]
    versions = tests["strategy"]["matrix"]["python-version"]
    assert [step["run"] for step in tests["steps"] if "run" in step] == [".ci/run"]
    listed = {text.rsplit(" ", 1)[1] for text in PROJECT["project"]["classifiers"]
              if "Python :: 3." in text}  # fmt: skip
    assert {text.rsplit(":: ", 1)[-1] for text in listed} == set(versions)


def test_extras_of_the_tests_are_extras_of_their_own():
    extras = PROJECT["project"]["optional-dependencies"]
    tested = set(extras["test"])
    for name in ("docs", "keras-cv", "pandas", "c2pa", "heic", "search", "storage"):
        assert set(extras[name]) <= tested, name


def test_no_modules_import_each_other_in_a_circle():
    """Not even by imports within functions; those for type checkers alone do not count."""
    graphlib.TopologicalSorter(_imported()).prepare()  # raises an error that names a circle


def test_packages_import_only_those_above_them():
    """In the table of docs/how-it-is-built.md; commands are its last row."""
    page = (ROOT / "docs" / "how-it-is-built.md").read_text(encoding="utf-8")
    rows = page.partition("| Package | Content |")[2].partition("\n\n")[0].splitlines()[2:-1]
    floor = {name: number for number, row in enumerate(rows)
             for name in re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1])}  # fmt: skip
    packages = {
        path.name for path in (ROOT / "tfdetect").iterdir() if (path / "__init__.py").exists()
    }
    assert floor.keys() == packages | {"train_run"}

    def floor_of(module):
        return floor.get(([*module.split("."), ""])[1], len(floor))

    wrong = [(name, each) for name, imported in _imported().items() for each in imported
             if each != "tfdetect" and floor_of(each) > floor_of(name)]  # fmt: skip
    assert not wrong


@functools.cache
def _imported():
    """The modules of the package that each of them imports, also within functions."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "tfdetect").rglob("*.py")
    }
    imports = {}
    for name, path in files.items():
        found = set()
        for node in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
            else:
                names = (f"{node.module}.{each.name}" for each in node.names)
                found |= {each if each in files else node.module for each in names}
        imports[name] = found & files.keys() - {name}
    return imports


def _imports(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from _imports(child)
