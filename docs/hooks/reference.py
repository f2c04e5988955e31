"""MkDocs hook that writes the reference pages from the code when the site is built.

Commands come from their argument parsers, YAML keys from the pydantic models, building blocks from
the registries, and the shipped datasets, experiments and search spaces from their files. Nothing
here imports TensorFlow: functions are read with `ast`, not called.
"""

import argparse
import ast
import html
import importlib
import inspect
import posixpath
import re
import sys
import textwrap
import types
import typing
from pathlib import Path

import yaml
from mkdocs.structure.files import File
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tfdetect import __main__ as entry  # noqa: E402
from tfdetect.core import registry  # noqa: E402
from tfdetect.core.entries import BackboneEntry, Entry  # noqa: E402
from tfdetect.core.experiment import Experiment  # noqa: E402
from tfdetect.core.run_info import RunInfo  # noqa: E402
from tfdetect.core.spec import DatasetSpec  # noqa: E402

# Files at the top of the repository that are pages too.
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
# What the documents link to, so that the links work in a clone, and the page that the site has of
# it instead.
PAGE_OF = {
    "data_specs": "reference/datasets.md",
    "experiments": "reference/experiments.md",
    "experiments/detectors": "reference/experiments.md#published-detectors",
    "experiments/spaces": "reference/spaces.md",
    "tfdetect/__main__.py": "reference/commands/index.md",
    "tfdetect/core/data_settings.py": "reference/experiment.md",
    "tfdetect/core/experiment.py": "reference/experiment.md",
    "tfdetect/core/model_settings.py": "reference/experiment.md",
    "tfdetect/core/training_settings.py": "reference/experiment.md",
    "tfdetect/core/registry.py": "reference/registry.md",
    "tfdetect/core/run_info.py": "reference/run-info.md",
    "tfdetect/core/spec.py": "reference/dataset-spec.md",
    "tfdetect/tuning/space.py": "reference/search-space.md",
    **{source: address for address, source in PAGES.items()},
}


def on_config(config):
    """Put a page for every command below Reference > Commands."""
    for section in config["nav"]:
        for pages in section.values():
            if not isinstance(pages, list):
                continue
            for page in pages:
                if isinstance(page, dict) and page.get("Commands") == "reference/commands.md":
                    page["Commands"] = ["reference/commands/index.md"] + [
                        {name: f"reference/commands/{name}.md"} for name in entry.COMMANDS
                    ]
    return config


def on_files(files, config):
    """Add the generated pages and the examples to the site."""
    pages = {
        "reference/commands/index.md": commands_page(),
        **{f"reference/commands/{n}.md": command_page(n, t) for n, t in entry.COMMANDS.items()},
        "reference/dataset-spec.md": model_page(
            "Dataset spec keys", DatasetSpec,
            "A dataset spec is a YAML file that says where a dataset's files are and which class "
            "each belongs to. `--dataset` takes the name of a shipped spec or the path of your "
            "own. [Datasets](../guides/data.md) explains the format with examples. An unknown key "
            "is an error that names the file, the line and the nearest known key.",
        ),
        "reference/experiment.md": model_page(
            "Experiment keys", Experiment,
            "An experiment is a YAML file with everything that decides what one training does. "
            "Change any key for one training with `--set`, for example "
            "`--set training.epochs=5 --set model.backbone=resnet50`. "
            "[Training](../guides/training.md) explains the important ones.",
        ),
        "reference/search-space.md": space_page(),
        "reference/run-info.md": model_page(
            "Keys of run.json", RunInfo,
            "`run.json` says everything about a run that commands need. In Python it is "
            "`run.info`. Runs of schema 1 are migrated when they are opened.",
        ),
        "reference/registry.md": registry_page(),
        "reference/datasets.md": shipped_page(
            "Shipped datasets", "data_specs", "*.yaml",
            "`--dataset NAME` takes these names. Each is one YAML file in `data_specs/`; the text "
            "below is the comment at its top.", "--dataset",
        ),
        "reference/experiments.md": experiments_page(),
        "reference/spaces.md": shipped_page(
            "Shipped search spaces", "experiments/spaces", "*.yaml",
            "`search --space NAME` takes these names. Each is one YAML file in "
            "`experiments/spaces/`.", "--space",
        ),
    }  # fmt: skip
    for address, source in PAGES.items():
        pages[address] = root_page(ROOT / source)
    for address, content in pages.items():
        files.append(File.generated(config, address, content=content))
    examples = {f"examples/{p.name}": f"examples/{p.name}" for p in (ROOT / "examples").glob("*.*")}
    for address, source in examples.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, **_):
    """Lead links to files of the repository to the pages that the site has of them."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def led(match):
        path, hash_sign, anchor = match[1].partition("#")
        address = PAGE_OF.get(posixpath.normpath(posixpath.join(folder, path)))
        if address is None:
            return match[0]
        return f"]({posixpath.relpath(f'docs/{address}', folder)}{hash_sign}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", led, markdown)


# ---- Markdown ----


def cell(text) -> str:
    """Return `text` as one table cell."""
    return " ".join(escape(str(text)).replace("|", "\\|").split())


def escape(text: str) -> str:
    """Return `text` with the angle brackets of placeholders escaped, outside of code."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def code(text) -> str:
    """Return `text` as inline code in a table cell, or nothing for an empty text."""
    text = str(text)
    if "|" not in text:
        return f"`{text}`" if text else ""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def root_page(path: Path) -> str:
    """Return a page at the top of the repository with its links into docs/ made relative."""
    return re.sub(r"\]\(docs/", "](", path.read_text(encoding="utf-8"))


# ---- Commands ----


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the argument parser of a command."""
    module = f"tfdetect.{name.replace('-', '_')}"
    found = importlib.import_module(module)
    if not hasattr(found, "parser"):  # a package whose command is its __main__
        found = importlib.import_module(f"{module}.__main__")
    return found.parser()


def commands_page() -> str:
    rows = [[f"[`{n}`]({n}.md)", cell(t)] for n, t in entry.COMMANDS.items()]
    return (
        "# Commands\n\n`tfdetect COMMAND ...` and `python -m tfdetect.COMMAND ...` are the same. "
        "`--help` after a command prints what its page here says.\n\n"
        + table(["Command", "What it does"], rows)
    )


def command_page(name: str, summary: str) -> str:
    parser = parser_of(name)
    text = [f"# tfdetect {name}", escape(parser.description or summary)]
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    text.append(f"```text\n{wrapped(usage, indent=4)}\n```")
    for group in parser._action_groups:
        rows = [action_row(parser, a) for a in group._group_actions if a.help != argparse.SUPPRESS]
        rows = [row for row in rows if row]
        if rows:
            title = {"options": "Options", "positional arguments": "Arguments"}
            text.append(f"## {title.get(group.title, (group.title or '').capitalize())}")
            if group.description:
                text.append(escape(group.description))
            text.append(table(["Argument", "Description"], rows))
    if parser.epilog:
        examples, _, codes = parser.epilog.partition("exit codes:\n")
        for title, language, block in (
            ("Examples", "bash", examples.removeprefix("examples:\n")),
            ("Exit codes", "text", codes),
        ):
            if block:
                text.append(f"## {title}\n\n```{language}\n{textwrap.dedent(block).strip()}\n```")
    return "\n\n".join(text) + "\n"


def wrapped(usage: str, indent: int) -> str:
    """Return a usage line broken at arguments."""
    lines = [""]
    for part in re.findall(r"\[(?:[^\[\]]|\[[^\]]*\])*\]|\S+", usage):
        if len(lines[-1]) + len(part) > 76:
            lines.append(" " * indent)
        lines[-1] += ("" if lines[-1].isspace() or not lines[-1] else " ") + part
    return "\n".join(lines)


def action_row(parser, action) -> list[str] | None:
    if isinstance(action, argparse._HelpAction):
        return None
    formatter = parser._get_formatter()
    if action.option_strings:
        value = "" if action.nargs == 0 else " " + formatter._format_args(
            action, action.metavar or (action.dest.upper() if not action.choices else None)
            or "{" + ",".join(map(str, action.choices)) + "}"
        )  # fmt: skip
        name = ", ".join(flag + value for flag in action.option_strings)
    else:
        name = action.metavar or action.dest
    described = formatter._expand_help(action) if action.help else ""
    default = action.default
    # A default that the help text leaves out.
    if (
        default not in (None, False, True, [], (), "", argparse.SUPPRESS)
        and "default" not in described
        and action.option_strings
    ):
        described += f" (default: `{default}`)"
    return [code(name), cell(described)]


# ---- pydantic models ----


def model_page(title: str, model: type[BaseModel], intro: str) -> str:
    text = [f"# {title}", intro]
    for level, (prefix, nested) in enumerate(nested_models(model)):
        if level:
            text.append(f"## {prefix}")
        described = attributes(nested)
        if body := paragraphs(nested):
            text.append(body)
        rows = []
        for name, field in nested.model_fields.items():
            written = field.alias or name
            key = f"{prefix}.{written}" if prefix else written
            note = field.description or described.get(name) or comment(nested, name)
            rows.append([code(key), cell(note), cell(kind(field)), default_of(field)])
        text.append(table(["Key", "Meaning", "Type", "Default"], rows))
    return "\n\n".join(text) + "\n"


def nested_models(model, prefix: str = "", seen=None) -> list[tuple[str, type[BaseModel]]]:
    """Return (key prefix, model) of `model` and of all models below it."""
    seen = {model} if seen is None else seen
    found = [(prefix, model)]
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            many = typing.get_origin(field.annotation) in (tuple, list)
            key = ".".join(filter(None, [prefix, name])) + ("[]" if many else "")
            if inner not in seen:
                seen.add(inner)
                found += nested_models(inner, key, seen)
    return found


def models_in(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in typing.get_args(annotation) for m in models_in(part)]


def paragraphs(model) -> str:
    """Return the text of a model's docstring without its list of attributes."""
    text = inspect.cleandoc(model.__doc__ or "").split("\nAttributes:")[0]
    return escape(" ".join(text.split("\n")).strip()) if text else ""


def attributes(model) -> dict[str, str]:
    """Return the descriptions of the section `Attributes:` of a model's docstring."""
    text = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"    ([\w, ]+): (.+)", line):
            names = [name.strip() for name in match[1].split(",")]
            found.update(dict.fromkeys(names, match[2]))
        elif line.startswith("     ") and names:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def comment(model, name: str) -> str:
    """Return the comment beside, or above, the line that declares a field."""
    lines = inspect.getsource(model).splitlines()
    for i, line in enumerate(lines):
        if re.match(rf"    {name}: ", line):
            if "  # " in line and "fmt:" not in line:
                return line.split("  # ", 1)[1]
            above = []
            while i and lines[i - 1].strip().startswith("# "):
                i -= 1
                above.insert(0, lines[i].strip()[2:])
            return " ".join(above)
    return ""


def kind(field) -> str:
    """Return the type of a field in words."""
    text = type_name(field.annotation)
    limits = []
    for rule in field.metadata:
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if (limit := getattr(rule, attribute, None)) is not None:
                limits.append(f"{sign} {limit}")
    return text + (f", {', '.join(limits)}" if limits else "")


def type_name(annotation) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{a}`" for a in args)
    if origin in (typing.Union, types.UnionType):
        inner = " or ".join(type_name(a) for a in args if a is not type(None))
        return inner + (" or null" if type(None) in args else "")
    if origin in (tuple, list):
        if len(args) == 2 and args[1] is not Ellipsis:
            return f"{len(args)} x {type_name(args[0])}"
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return f"mapping of {type_name(args[0])} to {type_name(args[1])}"
    if origin is typing.Annotated:
        return type_name(args[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping, see below"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, "any" if annotation is typing.Any else str(annotation))


def default_of(field) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = list(value)
    return code(yaml.safe_dump(value, default_flow_style=True).splitlines()[0].strip())


# ---- Search spaces ----


def space_page() -> str:
    from tfdetect.tuning.space import Space

    return model_page(
        "Search space keys", Space,
        "A search space is a YAML file that names the experiment keys that vary and how. "
        "[Hyperparameter search](../guides/search.md) shows an example.",
    )  # fmt: skip


# ---- Registries ----

TITLES = {
    "FRONT_ENDS": ("Front-ends", "`model.front_end`"),
    "BACKBONES": ("Backbones", "`model.backbone`"),
    "HEADS": ("Heads", "`model.head`"),
    "MASK_HEADS": ("Mask heads", "`model.mask_head`"),
    "LOSSES": ("Losses of the label", "`training.loss`"),
    "AUGMENTATIONS": ("Augmentation steps", "`data.augment`"),
    "MASKS": ("Mask makers", "`synthesize --masks`"),
    "FILLS": ("Fills", "`synthesize --fill`"),
}


def registry_page() -> str:
    text = [
        "# Building blocks",
        "The names that experiments and commands accept, with the options of each and their "
        "defaults. Options of a front-end, backbone, head or mask head go below "
        "`model.front_end_options`, `model.options`, `model.head_options` and "
        "`model.mask_options`; those of an augmentation step stand beside its name. "
        "[Contributing](../contributing.md) says how to add one.",
    ]
    for constant, (title, where) in TITLES.items():
        entries = getattr(registry, constant, None)
        if not entries:
            continue
        rows = []
        for name in entries:
            registered = entries.get_entry(name)
            summary, options = described(registered)
            rows.append([code(name), cell(facts(registered)), cell(summary), code(options)])
        header = ["Name", "Input", "What it is", "Options and defaults"]
        if not any(row[1] for row in rows):
            header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
        text += [f"## {title}", f"For {where}.", table(header, rows)]
    return "\n\n".join(text) + "\n"


def described(registered: Entry) -> tuple[str, str]:
    """Return what a registry entry is, in a line, and its options."""
    if network := registered.arguments.get("network"):  # of a table of a library's networks
        library = "keras.applications" if "application" in str(registered.target) else "keras-hub"
        preset = registered.arguments.get("preset")
        weights = f", preset `{preset}`" if preset else ""
        return f"`{network}` of {library}{weights}", ""
    return function_facts(str(registered.target))


def facts(registered: Entry) -> str:
    """Return what a registry entry says of the image sizes that it accepts."""
    if not isinstance(registered, BackboneEntry):
        return ""
    smallest, multiple = registered.sides({})
    return f"at least {smallest} px" + (f", multiple of {multiple}" if multiple > 1 else "")


def function_facts(where: str) -> tuple[str, str]:
    """Return the first paragraph of a function's docstring and its options, read from source."""
    module, _, name = where.partition(":")
    if not name:
        return "", ""
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.is_file():
        path = ROOT / module.replace(".", "/") / "__init__.py"
    if not path.is_file():
        return "", ""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            doc = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            return doc, signature(node) if isinstance(node, ast.FunctionDef) else ""
    return "", ""


def signature(node: ast.FunctionDef) -> str:
    """Return the arguments of a function that have a default."""
    args = node.args
    ordered = args.posonlyargs + args.args
    pairs = list(zip(ordered[len(ordered) - len(args.defaults) :], args.defaults))
    pairs += [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults) if d is not None]
    return ", ".join(f"{a.arg}={ast.unparse(d)}" for a, d in pairs if a.arg not in HIDDEN)


HIDDEN = {"name", "size", "targets", "masks", "training"}  # given by the pipeline, not by the user


# ---- Shipped documents ----


def header_comment(path: Path) -> list[str]:
    """Return the lines of the comment at the top of a YAML file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def shipped_page(title: str, folder: str, pattern: str, intro: str, flag: str) -> str:
    text = [f"# {title}", intro]
    for path in sorted((ROOT / folder).glob(pattern)):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        text.append(f"## {path.stem}")
        text.append(escape(document.get("title") or document.get("description") or ""))
        if comment_lines := header_comment(path):
            text.append("```text\n" + "\n".join(comment_lines) + "\n```")
        source = document.get("source") or {}
        facts_of = {
            "Download": f"Kaggle, `{source['kaggle']}`" if source.get("kaggle") else "",
            "Homepage": source.get("homepage", ""),
            "License": source.get("license", ""),
            "Size": source.get("size", ""),
            "Classes": ", ".join(c["name"] for c in document.get("classes", [])),
            "Default experiment": code(document.get("experiment", "")),
        }
        rows = [[k, cell(v)] for k, v in facts_of.items() if v]
        if rows:
            text.append(table(["", ""], rows))
    return "\n\n".join(filter(None, text)) + "\n"


def experiments_page() -> str:
    text = [
        "# Shipped experiments",
        "`train --experiment NAME` takes these names. Each is one YAML file in `experiments/`, "
        "whose header comment is shown here: the command, how long it takes, the figure to "
        "expect, the source, and how it differs from its source.",
    ]
    for folder, title in (("experiments", ""), ("experiments/detectors", "Published detectors")):
        if title:
            text.append(f"## {title}")
            text.append("`train --model NAME` takes these names too.")
        for path in sorted((ROOT / folder).glob("*.yaml")):
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            text.append(f"{'###' if title else '##'} {path.stem}")
            text.append(escape(document.get("description", "")))
            text.append("```text\n" + "\n".join(header_comment(path)) + "\n```")
    return "\n\n".join(filter(None, text)) + "\n"
