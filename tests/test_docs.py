"""The documentation site builds without warnings and loads nothing from other hosts."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml

ROOT = Path(__file__).parent.parent

needs_mkdocs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("material", "mkdocstrings")),
    reason="mkdocs-material or mkdocstrings is not installed (pip install 'tfdetect[docs]')",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site's folder."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


@needs_mkdocs
def test_site_loads_nothing_from_other_hosts(site):
    loaded = re.compile(
        r"<(?:script|img|source|iframe)\b[^>]*?\bsrc=[\"']?(?:https?:)?//"
        r"|<link\b(?![^>]*rel=[\"']?(?:canonical|next|prev))[^>]*?\bhref=[\"']?(?:https?:)?//"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    outside = {str(p.relative_to(site)): found for p in pages
               if (found := loaded.findall(p.read_text(encoding="utf-8")))}  # fmt: skip
    assert not outside
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text), style


@needs_mkdocs
def test_reference_has_every_command_and_every_name(site):
    from tfdetect.__main__ import COMMANDS
    from tfdetect.core import registry
    from tfdetect.core.experiment import Experiment
    from tfdetect.core.spec import DatasetSpec

    reference = site / "reference"
    for command in COMMANDS:
        assert "--help" not in COMMANDS[command]
        text = (reference / "commands" / f"{command}.html").read_text(encoding="utf-8")
        assert f"tfdetect {command}" in text
    blocks = (reference / "registry.html").read_text(encoding="utf-8")
    for names in (registry.BACKBONES, registry.HEADS, registry.FRONT_ENDS, registry.AUGMENTATIONS):
        assert not [name for name in names if f"<code>{name}</code>" not in blocks]
    for page, model in (("experiment", Experiment), ("dataset-spec", DatasetSpec)):
        text = (reference / f"{page}.html").read_text(encoding="utf-8")
        assert not [key for key in model.model_fields if f"<code>{key}</code>" not in text]


@needs_mkdocs
def test_python_api_documents_every_public_name(site):
    import tfdetect

    text = (site / "reference" / "python-api.html").read_text(encoding="utf-8")
    assert not [name for name in tfdetect.__all__ if f'id="tfdetect.{name}"' not in text]


def test_site_build_imports_no_tensorflow():
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed (pip install 'tfdetect[docs]')")
    program = (
        "import sys; sys.path.insert(0, 'docs/hooks'); import reference; "
        "reference.registry_page(); reference.space_page(); "
        "[reference.command_page(*c) for c in reference.entry.COMMANDS.items()]; "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_is_short_and_keeps_the_test_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    marked = text.partition("<!-- test-command -->\n```bash\n")[2].partition("\n```")[0]
    assert marked.endswith("-m pytest") and '".[test]"' in marked


def test_figures_of_the_shipped_run_are_its_own():
    """The pages show copies, which must follow the run: cp them from its figures/."""
    figures = ROOT / "saved_models" / "cifake_small_resnet" / "figures"
    for name in ("reliability", "thresholds"):
        shown = ROOT / "docs" / "images" / f"cifake_{name}.png"
        assert shown.read_bytes() == (figures / f"test_{name}.png").read_bytes(), name


TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in TEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_links_between_files_lead_somewhere(name):
    page = ROOT / name
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    assert not [link for link in links
                if "://" not in link and link and not (page.parent / link).exists()]  # fmt: skip


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a language in a Markdown file, without indentation."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(path: Path) -> list[list[str]]:
    """The words of each command line in the bash blocks of a Markdown file, and in its tables."""
    lines = [line for block in blocks(path, "bash")
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    lines += re.findall(r"`(python (?:-m tfdetect|benchmarks)[^`]*)`", path.read_text())
    found = []
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            while words and ("=" in words[0] or words[0] in ("export", "source")):
                words = words[1:]
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_commands_in_the_documentation_are_accepted(path):
    """Every flag and choice exists, and so does every shipped dataset, experiment and space."""
    from tfdetect.core.experiment import Experiment
    from tfdetect.core.load_experiment import load_experiment, override
    from tfdetect.core.shipped_documents import shipped_names

    for words in commands(path):
        if words[0].endswith("python") and words[1].startswith("benchmarks/"):
            own = (
                words[: words.index("--")] if "--" in words else words
            )  # what follows it is passed on
            flags = [word.strip("[]").split("=")[0] for word in own if "--" in word]
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            assert not [flag for flag in flags if f'"{flag}"' not in source], words
        if words[0] == "tfdetect" and words[1][0] != "-":
            words = ["python", "-m", f"tfdetect.{words[1].replace('-', '_')}", *words[2:]]
        if not (words[0].endswith("python") and words[1:2] == ["-m"]):
            continue
        if not words[2].startswith("tfdetect."):
            continue
        module = importlib.import_module(words[2])
        if not hasattr(module, "parser"):
            module = importlib.import_module(f"{words[2]}.__main__")
        if "--help" in words:
            continue
        args = vars(module.parser().parse_args(words[3:]))
        experiment = Experiment(name="any")
        if (name := args.get("experiment")) and name.islower() and "my_" not in name:
            known = name in shipped_names("experiments") or (ROOT / name).is_file()
            assert known or name == "mine", words
            experiment = load_experiment(str(ROOT / name) if "/" in name else name) if (
                known and "plugin" not in name
            ) else experiment  # fmt: skip
        if name := args.get("model"):
            assert name in shipped_names("experiments"), words
            experiment = load_experiment(name)
        overrides = [text for text in args.get("overrides") or [] if "..." not in text]
        if not any("plain_cnn" in text for text in overrides):
            override(experiment, overrides)


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_python_in_the_documentation_names_what_exists(path):
    import tfdetect

    for block in blocks(path, "python"):
        if "def " not in block and "import" not in block and not block.lstrip().startswith("tf"):
            continue  # entries of a registry
        compile(block, str(path), "exec")
        named = set(re.findall(r"\btfdetect\.([a-z]\w*)", block))
        assert not [name for name in named if not hasattr(tfdetect, name)], block


GUIDE = ROOT / "docs" / "guides" / "deployment.md"


def preparation() -> tuple[str, str]:
    """The two blocks that prepare an image and predict it without tfdetect."""
    return tuple(b for b in blocks(GUIDE, "python") if "def prepare(" in b or "= prepare(" in b)


def test_images_prepared_as_the_guide_says_are_those_of_predict():
    """Of every policy, number of windows and kind of size: larger, smaller, odd and the same."""
    from tfdetect.core.data_settings import Equalize
    from tfdetect.core.run_info import View
    from tfdetect.imaging import geometry
    from tfdetect.imaging.photographs import photograph
    from tfdetect.light.resample import view_parts

    picture = photograph("astronaut")

    names: dict = {}
    exec(preparation()[0], names)
    views = [View(size=(48, 64), policy=p) for p in ("stretch", "crop", "pad")]
    views += [View(size=(48, 64), policy=f"window_{p}", crops=c)
              for p in ("tile", "pad") for c in (1, 5, 9)]  # fmt: skip
    views += [v.model_copy(update={"equalize": Equalize(side=40)}) for v in views]
    off = values = 0
    for height, width in ((101, 150), (48, 64), (33, 29), (47, 131)):
        image = np.asarray(picture.crop((90, 60, 90 + width, 60 + height)))
        for view in views:
            [expected] = view_parts(image, [view])
            given = names["prepare"](image, view.model_dump(mode="json"))
            assert np.array_equal(given, expected), (view, height, width)
            [graph] = geometry.view_parts(tf.constant(image), [view])
            difference = np.abs(given.astype(int) - graph.numpy().astype(int))
            off, values = off + np.count_nonzero(difference), values + difference.size
            assert difference.max() <= 1, (view, height, width)
    assert off <= values / 10_000


@pytest.mark.parametrize(
    "name", ["cifake_small_resnet", pytest.param("photo_detector", marks=pytest.mark.slow)]
)
def test_the_guide_s_program_gives_the_p_fake_of_predict(tmp_path, name):
    import tfdetect
    from tfdetect.imaging.photographs import photograph

    photo = tmp_path / "photo.jpg"
    photograph("astronaut").crop((0, 0, 450, 301)).save(photo, quality=90)
    detector = tfdetect.load(name)
    prepare, program = preparation()
    program = program.replace("photo.jpg", photo.as_posix())
    run = "saved_models/cifake_small_resnet"
    program = program.replace(f"{run}/exports/detector.onnx", detector.run.onnx_path.as_posix())
    names: dict = {}
    exec(prepare + program.replace(run, detector.run.path.as_posix()), names)
    [row] = detector.predict(photo)
    assert names["p_fake"][0] == pytest.approx(row["p_fake"], abs=1e-5)


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_yaml_in_the_documentation_is_valid(path, tmp_path):
    from tfdetect.benchmarks.suite import Suite
    from tfdetect.core.documents import validate
    from tfdetect.core.experiment import Experiment
    from tfdetect.core.load_spec import load_spec
    from tfdetect.tuning.space import Space

    for block in blocks(path, "yaml"):
        document = yaml.safe_load(block)
        if "parameters" in document:
            validate(Space, document, block)
        elif "subsets" in document:
            validate(Suite, document, block)
        elif "classes" in document:
            file = tmp_path / "spec.yaml"
            file.write_text(block, encoding="utf-8")
            load_spec(str(file))
        else:
            validate(Experiment, {"name": "any", **document}, block)


def test_packages_import_only_those_above_them():
    page = (ROOT / "docs/how-it-is-built.md").read_text(encoding="utf-8")
    table = page.partition("| Package | Content |")[2].partition("\n\n")[0]
    rows = [
        re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1]) for line in table.splitlines()[2:-1]
    ]
    level = {name: number for number, names in enumerate(rows) for name in names}
    folders = {path.parent.name for path in (ROOT / "tfdetect").glob("*/__init__.py")}
    assert folders | {"train_run"} == set(level)
    wrong = []
    for path in (ROOT / "tfdetect").rglob("*.py"):
        own = path.relative_to(ROOT / "tfdetect").with_suffix("").parts[0]
        names = re.findall(r"^\s*(?:from|import) tfdetect\.(\w+)", path.read_text("utf-8"), re.M)
        wrong += [(str(path), n) for n in names if own in level and level.get(n, 0) > level[own]]
    assert not wrong
