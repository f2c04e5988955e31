"""The documentation site builds without warnings and loads nothing from other hosts."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
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


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_links_between_files_lead_somewhere(name):
    page = ROOT / name
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    assert not [link for link in links
                if "://" not in link and not (page.parent / link).exists()]  # fmt: skip
