"""Resolves `--dataset`: a shipped spec's name, a spec file, a manifest, a folder, or a union."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfdetect.core import console, manifest, storage
from tfdetect.core.class_order import RunClasses, UnknownAuthenticError
from tfdetect.core.documents import explained, find, read_yaml, shipped_names, validate
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.folder_spec import MANIFEST_SUFFIXES, spec_for_folder, spec_for_manifest
from tfdetect.core.spec import PREPARED, ClassSpec, DatasetSpec, Part
from tfdetect.core.text import shell_command, user_path

_DESCRIPTIONS = ("dataset.yaml", *(f"manifest{suffix}" for suffix in MANIFEST_SUFFIXES))
SpecAndFolders = tuple[DatasetSpec, dict[str, Path]]


def means_shipped(name: str, by_name: bool) -> bool:
    """Return whether a dataset's name means a shipped dataset, not a folder of that name.

    Args:
        name: as the user gave it; "./cifake" is a path.
        by_name: whether the shipped dataset comes first: with --data-dir, and in documents.
    """
    return name in shipped_names("data_specs") and (by_name or not user_path(name).is_dir())


def load_spec(
    name: str,
    authentic: str | None = None,
    run_classes: RunClasses | None = None,
    by_name: bool = False,
) -> SpecAndFolders:
    """Resolve a dataset's name or path.

    A folder is described by the dataset.yaml in it, as `prepare` and `synthesize` write one, by
    the manifest.csv or manifest.parquet in it, or else by its class folders.

    Args:
        name: a shipped spec's name, a path to a spec file, a manifest or a folder, or several of
            these joined by "+".
        authentic: name of the authentic class, if the folder names do not tell. Of a union, the
            name in the part that needs it, or such names of several parts, separated by commas.
        run_classes: given if the data are to evaluate a run, not to train one; then one class
            alone, or a test split alone, is enough.
        by_name: see `means_shipped`.

    Returns:
        The spec, and the data folder of each dataset that was named by a path.

    Raises:
        UserError: There is no such dataset, or it cannot be described.
    """
    try:
        spec, folders = _load(name, authentic, run_classes, by_name=by_name)
    except ValidationError as error:  # of the name of a class folder, for example
        raise explained(error, DatasetSpec, name) from None
    if authentic is not None and spec.parts:
        _check_named(authentic, spec)
    described = spec.authentic_by == "spec" and not spec.parts
    if authentic is not None and described and spec.class_names[0] != authentic:
        if authentic not in spec.class_names:
            raise unknown("class for --authentic", authentic, spec.class_names)
        raise UserError(
            f"The description of {spec.name} says that {spec.class_names[0]} is authentic, not "
            f"{authentic}. Leave --authentic out, or change the description (authentic: "
            f"{authentic})."
        )
    return spec, folders


def same_folders(spec: DatasetSpec) -> tuple[str, str] | None:
    """Return the shipped dataset whose folders have a dataset's names, and its folder of the test.

    For example GenImage, whose folder val holds the test images.

    Args:
        spec: of a folder without a spec of its own.
    """

    def names(of: DatasetSpec) -> tuple[set[str], set[str]]:
        folders = {folder.lower() for each in of.classes for folder in each.folders}
        return folders, {name.lower() for name in of.splits}

    for name, file in shipped_names("data_specs").items():
        known = validate(DatasetSpec, read_yaml(file), str(file))
        test = next((folder for folder, split in known.splits.items() if split == "test"), None)
        if test is not None and names(known) == names(spec):
            return name, test
    return None


def _load(
    name: str,
    authentic: str | None,
    run_classes: RunClasses | None = None,
    union: Path | None = None,
    by_name: bool = False,
) -> SpecAndFolders:
    """Resolve a dataset; `union` is the file of which it is a part."""
    path, is_shipped = user_path(name), means_shipped(name, by_name)
    if not is_shipped and ("+" not in name or storage.exists(path)):
        if path.suffix in MANIFEST_SUFFIXES:
            manifest.fetch(path.parent, path.name, {})
        else:
            storage.fetched(path)
    labeled = run_classes is not None and run_classes.label is not None
    if labeled and (is_shipped or not path.is_dir()):
        raise UserError(f"--label is for a folder of images, and {name!r} is not a folder.")
    if is_shipped:
        return _described(find("dataset", "data_specs", name), union, authentic)
    if "+" in name and not path.exists():
        return _union(name.split("+"), authentic, by_name)
    if path.suffix in MANIFEST_SUFFIXES:
        return _at(spec_for_manifest(path, authentic, run_classes), path.parent)
    if path.is_dir():
        if means_shipped(name, by_name=True):
            console.log(
                f"{name!r} is taken as the folder here. It is also the name of a shipped dataset; "
                "to use that, give --data-dir DIR, where its files are, or rename the folder"
            )
        return _described_folder(path, authentic, run_classes, union)
    described = path.suffix in (".yaml", ".yml")
    in_folder = "/" in name or "\\" in name
    if not described and (in_folder or path.suffix) and path.is_file():
        raise UserError(
            f"{name!r} is a file. A dataset is a folder with one folder per class, a manifest "
            "(.csv, .parquet) or a dataset spec (.yaml). For a verdict on one image: "
            f"{shell_command('predict', name)}"
        )
    if not described and in_folder:
        raise UserError(f"There is no folder {name!r}.")
    try:
        file = find("dataset", "data_specs", name)
    except UserError as error:
        raise UserError(f"{error} A path to a folder with class folders works too.") from None
    return _described(file, union, authentic)


def _load_part(
    name: str, authentic: str | None, union: Path | None = None, by_name: bool = False
) -> SpecAndFolders:
    """Resolve a part of a union; `authentic` holds where it, or one of its names, is a class."""
    for one in () if authentic is None else (authentic, *authentic.split(",")):
        try:
            return _load(name, one, union=union, by_name=by_name)
        except UnknownAuthenticError:
            continue
    return _load(name, None, union=union, by_name=by_name)


def _check_named(authentic: str, spec: DatasetSpec) -> None:
    """Check that each name of --authentic is the authentic class of a part of a union.

    Raises:
        UserError: one is not.
    """
    first = [part.class_names[0] for part in spec.datasets]
    for name in () if authentic in first else authentic.split(","):
        if name not in first:
            every = dict.fromkeys(n for part in spec.datasets for n in part.class_names)
            raise unknown("class for --authentic", name, every)


def _described(file: Path, union: Path | None, authentic: str | None) -> SpecAndFolders:
    """Return the spec in a file, and the folders of its parts; see `_load`."""
    data, folders = _with_parts(read_yaml(file), file, union, authentic)
    return validate(DatasetSpec, data, str(file), file), folders


def _described_folder(
    folder: Path, authentic: str | None, run_classes: RunClasses | None, union: Path | None
) -> SpecAndFolders:
    labeled = run_classes is not None and run_classes.label is not None
    described = (f"{place}{name}" for place in ("", f"{PREPARED}/") for name in _DESCRIPTIONS)
    if labeled and (found := [name for name in described if (folder / name).is_file()]):
        raise UserError(
            f"--label is for a folder of images without labels, and {folder} has labels in "
            f"{found[0]}. Leave --label out."
        )
    for place in (folder, folder / PREPARED):
        if (file := place / "dataset.yaml").is_file():
            spec, folders = _described(file, union, authentic)
            return spec, {**folders, **_at(spec, place)[1]}
    for suffix in MANIFEST_SUFFIXES:
        if (table := folder / f"manifest{suffix}").is_file():
            return _at(spec_for_manifest(table, authentic, run_classes), folder)
    return _at(spec_for_folder(folder, authentic, run_classes), folder)


def _at(spec: DatasetSpec, folder: Path) -> SpecAndFolders:
    return spec, {spec.name: folder.resolve()}


def _with_parts(
    data: dict[str, Any], file: Path, union: Path | None, authentic: str | None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return a spec's document with the specs of its parts, and the folders of these.

    Args:
        data: the document.
        file: that it is from.
        union: the file of which it is itself a part.
        authentic: see `load_spec`.

    Raises:
        UserError: it is a union and a part of one.
    """
    parts: list[Any] = []
    folders: dict[str, Path] = {}
    listed = data.get("parts")
    if listed and union is not None:
        what = "itself" if union.samefile(file) else f"{file}, which has parts of its own"
        raise UserError(f"{union}: a part is {what}. List datasets that are no unions.")
    for part in listed if isinstance(listed, list) else []:
        part = {"dataset": part} if isinstance(part, str) else part
        if isinstance(part, dict) and isinstance(part.get("dataset"), str) and "spec" not in part:
            try:
                spec, found = _load_part(part["dataset"], authentic, union=file, by_name=True)
            except UserError as error:
                if str(error).startswith(str(file)):
                    raise
                raise UserError(f"{file}, part {len(parts) + 1}: {error}") from None
            part = {**part, "spec": spec}
            folders |= found
        parts.append(part)
    return ({**data, "parts": parts} if parts else data), folders


def _union(names: list[str], authentic: str | None, by_name: bool) -> SpecAndFolders:
    """Return the union of datasets, whose classes are matched by name.

    Two-class datasets are matched whatever their fake class is called.

    Raises:
        UserError: A dataset is named twice, or classes do not match by name.
    """
    loaded = [_load_part(name, authentic, by_name=by_name) for name in names]
    specs = [spec for spec, _ in loaded]
    if len({s.name for s in specs}) < len(specs):
        raise UserError(f"{'+'.join(names)} names one dataset twice.")
    first = max(specs, key=lambda s: len(s.class_names))
    parts = []
    for name, spec in zip(names, specs):
        fakes = {f: f for f in spec.class_names[1:]}
        if len(first.class_names) == 2:
            fakes = {spec.class_names[1]: first.class_names[1]}
        elif missing := [f for f in fakes if f not in first.class_names]:
            raise UserError(
                f"The class {', '.join(missing)} of {spec.name} is not among {first.name}'s "
                f"({', '.join(first.class_names)}). Describe the union in a YAML file whose "
                "parts map their classes."
            )
        classes = {spec.class_names[0]: first.class_names[0], **fakes}
        parts.append(Part(dataset=name, spec=spec, classes=classes))
    return union(parts, first), {
        name: folder for _, folders in loaded for name, folder in folders.items()
    }


def union(parts: Sequence[Part], like: DatasetSpec) -> DatasetSpec:
    """Return the union of datasets with the classes of one of them.

    Args:
        parts: the datasets; their classes are mapped to those of `like`.
        like: the dataset.
    """
    names = [part.spec.name for part in parts]
    return DatasetSpec(
        name="+".join(names),
        title="Union of " + ", ".join(names),
        parts=tuple(parts),
        classes=tuple(ClassSpec(name=n, folders=(n,)) for n in like.class_names),
        authentic=like.class_names[0],
        authentic_by=like.authentic_by,
        experiment=parts[0].spec.experiment,
    )
