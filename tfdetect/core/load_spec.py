"""Resolves `--dataset`: a shipped spec's name, a spec file, a manifest, a folder, or a union."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfdetect.core import console, manifest, storage
from tfdetect.core.class_order import RunClasses, UnknownAuthenticError
from tfdetect.core.documents import as_user_error, validate
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.folder_spec import METADATA, spec_for_folder, spec_for_manifest
from tfdetect.core.manifest import MANIFEST_SUFFIXES
from tfdetect.core.parsing import read_yaml
from tfdetect.core.shipped_documents import find_document, shipped_names
from tfdetect.core.spec import PREPARED, ClassSpec, DatasetSpec, Part
from tfdetect.core.text import shell_command, user_path

DESCRIPTION = "dataset.yaml"  # in a dataset's folder: its spec
_DESCRIPTIONS = (DESCRIPTION, *(f"manifest{suffix}" for suffix in MANIFEST_SUFFIXES))
SpecAndFolders = tuple[DatasetSpec, dict[str, Path]]


def means_shipped(name: str, by_name: bool) -> bool:
    """Return whether a name stands for a shipped dataset, and not for a folder of that name.

    Args:
        name: name or path as the user gave it; "./cifake" is a path.
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
    the manifest.csv, .jsonl or .parquet in it, by its class folders, or else by a table of Hugging
    Face, metadata.csv or .jsonl, that has labels.

    Args:
        name: a shipped spec's name, a path to a spec file, a manifest or a folder, or several of
            these joined by "+".
        authentic: name of the authentic class, if the folder names do not tell. For a union, the
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
        spec, folders = _Loader(authentic, run_classes, by_name).load(name)
    except ValidationError as error:  # of the name of a class folder, for example
        raise as_user_error(error, DatasetSpec, name) from None
    if authentic is not None:
        _check_authentic(authentic, spec)
    return spec, folders


def same_folders(spec: DatasetSpec) -> tuple[str, str] | None:
    """Return the shipped dataset whose folders have a dataset's names, and its folder of the test.

    For example GenImage, whose folder val holds the test images.

    Args:
        spec: the spec of a folder without a spec of its own.
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


def _found_part(name: str, file: Path) -> str:
    """Return a part of a union, or its path beside the union's file where only that exists."""
    beside = file.parent / name
    is_elsewhere = means_shipped(name, by_name=True) or ":" in name or user_path(name).exists()
    return str(beside) if not is_elsewhere and beside.exists() else name


def _is_missing_path(name: str) -> bool:
    """Return whether the name of a dataset is written as a path that does not exist."""
    path = user_path(name)
    return ":" not in name and (len(path.parts) > 1 or bool(path.suffix)) and not path.exists()


@dataclass(frozen=True)
class _Loader:
    """Resolves names and paths of datasets.

    Attributes:
        authentic, run_classes, by_name: see `load_spec`.
        union: the file of the union that the dataset is a part of.
    """

    authentic: str | None
    run_classes: RunClasses | None = None
    by_name: bool = False
    union: Path | None = None

    @property
    def is_labeled(self) -> bool:
        """Whether --label gives all images their label."""
        return self.run_classes is not None and self.run_classes.label is not None

    def load(self, name: str) -> SpecAndFolders:
        """Return the spec of a dataset, and the data folders that are known; see `load_spec`."""
        path = user_path(name)
        is_shipped = means_shipped(name, self.by_name)
        is_union = not is_shipped and "+" in name and not storage.exists(path)
        if not is_shipped and not is_union:
            _fetch(path)
        is_folder = not is_shipped and path.is_dir()
        if self.is_labeled and not is_folder:
            raise UserError(f"--label is for a folder of images, and {name!r} is not a folder.")
        if is_union:
            return self._load_union(name.split("+"))
        if path.suffix in MANIFEST_SUFFIXES:
            return self._load_manifest(path)
        return self._load_folder(path, name) if is_folder else self._load_file(_spec_file(name))

    def _load_manifest(self, path: Path) -> SpecAndFolders:
        return _at(spec_for_manifest(path, self.authentic, self.run_classes), path.parent)

    def _load_file(self, file: Path) -> SpecAndFolders:
        """Return the spec in a file, and the folders of its parts."""
        data, folders = self._with_parts(read_yaml(file), file)
        spec = validate(DatasetSpec, data, str(file), file)
        if spec.manifest and not self.by_name and (file.parent / spec.manifest).is_file():
            return _at(spec, file.parent)
        return spec, folders

    def _load_folder(self, folder: Path, name: str) -> SpecAndFolders:
        """Return the spec of a folder: of the description in it, or of its class folders.

        Args:
            folder: the folder.
            name: name or path as the user gave it.

        Raises:
            UserError: --label is given for images whose labels the folder has.
        """
        if means_shipped(name, by_name=True):
            console.log(
                f"{name!r} is taken as the folder here. It is also the name of a shipped dataset; "
                "to use that, give --data-dir DIR, where its files are, or rename the folder"
            )
        places = folder, folder / PREPARED
        found = [f for place in places for each in _DESCRIPTIONS if (f := place / each).is_file()]
        if self.is_labeled and found:
            raise UserError(
                f"--label is for a folder of images without labels, and {folder} has labels in "
                f"{found[0].relative_to(folder)}. Leave --label out."
            )
        for place in places:
            if (file := place / DESCRIPTION).is_file():
                spec, folders = self._load_file(file)
                return spec, {**folders, **_at(spec, place)[1]}
        for suffix in MANIFEST_SUFFIXES:
            if (table := folder / f"manifest{suffix}").is_file():
                return self._load_manifest(table)
        try:
            return _at(spec_for_folder(folder, self.authentic, self.run_classes), folder)
        except UserError as error:
            tables = [] if self.is_labeled else _metadata_tables(folder)
            if tables and tables[0].parent == folder:
                return self._load_manifest(tables[0])
            if tables:
                names = ", ".join(str(table.relative_to(folder)) for table in tables)
                raise UserError(
                    f"{error} There are tables of images with labels: {names}. Give one of them as "
                    "the dataset, or one table of all of them, with a column split."
                ) from None
            raise

    def _load_part(self, name: str) -> SpecAndFolders:
        """Return the spec of a part, of which `authentic`, or one of its names, may be a class."""
        names = () if self.authentic is None else (self.authentic, *self.authentic.split(","))
        for authentic in names:
            try:
                return replace(self, authentic=authentic).load(name)
            except UnknownAuthenticError:
                continue
        return replace(self, authentic=None).load(name)

    def _with_parts(
        self, data: dict[str, Any], file: Path
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """Return a spec's document with the specs of its parts, and the folders of these.

        Args:
            data: the document.
            file: the file that it is from.

        Raises:
            UserError: it is a union and a part of one.
        """
        parts: list[Any] = []
        folders: dict[str, Path] = {}
        listed = data.get("parts")
        if listed and self.union is not None:
            is_same = self.union.samefile(file)
            what = "itself" if is_same else f"{file}, which has parts of its own"
            raise UserError(f"{self.union}: a part is {what}. List datasets that are no unions.")
        loader = _Loader(self.authentic, by_name=True, union=file)
        for part in listed if isinstance(listed, list) else []:
            part = {"dataset": part} if isinstance(part, str) else part
            names_dataset = isinstance(part, dict) and isinstance(part.get("dataset"), str)
            if names_dataset and "spec" not in part:
                path = _found_part(part["dataset"], file)
                try:
                    spec, found = loader._load_part(path)
                except UserError as error:
                    if str(error).startswith(str(file)):
                        raise
                    where = (
                        f" Looked in the current folder, {Path.cwd()}, and beside the document, in "
                        f"{file.parent.resolve()}."
                        if _is_missing_path(path)
                        else ""
                    )
                    raise UserError(f"{file}, part {len(parts) + 1}: {error}{where}") from None
                part = {**part, "spec": spec}
                folders |= found
            parts.append(part)
        return ({**data, "parts": parts} if parts else data), folders

    def _load_union(self, names: list[str]) -> SpecAndFolders:
        """Return the union of datasets, whose classes are matched by name.

        Two-class datasets are matched whatever their fake class is called.

        Raises:
            UserError: A dataset is named twice, or classes do not match by name.
        """
        loader = _Loader(self.authentic, by_name=self.by_name)
        loaded = [loader._load_part(name) for name in names]
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


def _metadata_tables(folder: Path) -> list[Path]:
    """Return the metadata tables with labels in a folder, or else in the folders in it."""
    names = [f"{METADATA}{suffix}" for suffix in MANIFEST_SUFFIXES]
    for pattern in ("", "*/"):
        found = sorted(file for name in names for file in folder.glob(pattern + name))
        if labeled := [file for file in found if _has_labels(file)]:
            return labeled
    return []


def _has_labels(table: Path) -> bool:
    try:
        manifest.read_manifest(table, {})
    except UserError:  # it has captions alone, for example
        return False
    return True


def _fetch(path: Path) -> None:
    """Fetch a dataset that is at an address."""
    if path.suffix in MANIFEST_SUFFIXES:
        manifest.fetch(path.parent, path.name, {})
    else:
        storage.fetched(path)


def _spec_file(name: str) -> Path:
    """Return the file of a shipped spec, or of one that is named by its path.

    Raises:
        UserError: it is another kind of file, or there is none.
    """
    path = user_path(name)
    if path.suffix not in (".yaml", ".yml"):
        in_folder = "/" in name or "\\" in name
        if (in_folder or path.suffix) and path.is_file():
            raise UserError(
                f"{name!r} is a file. A dataset is a folder with one folder per class, a manifest "
                "(.csv, .jsonl, .parquet) or a dataset spec (.yaml). For a verdict on one image: "
                f"{shell_command('predict', name)}"
            )
        if in_folder:
            raise UserError(f"There is no folder {name!r}.")
    try:
        return find_document("dataset", "data_specs", name)
    except UserError as error:
        raise UserError(f"{error} A path to a folder with class folders works too.") from None


def _at(spec: DatasetSpec, folder: Path) -> SpecAndFolders:
    return spec, {spec.name: folder.resolve()}


def _check_authentic(authentic: str, spec: DatasetSpec) -> None:
    """Check that --authentic names what a dataset's description says, or of parts what they have.

    Raises:
        UserError: it does not, or a name in it is the authentic class of no part of the union.
    """
    if spec.parts:
        first = [part.class_names[0] for part in spec.datasets]
        for name in () if authentic in first else authentic.split(","):
            if name not in first:
                every = dict.fromkeys(n for part in spec.datasets for n in part.class_names)
                raise unknown("class for --authentic", name, every)
    elif spec.authentic_by == "spec" and spec.class_names[0] != authentic:
        if authentic not in spec.class_names:
            raise unknown("class for --authentic", authentic, spec.class_names)
        raise UserError(
            f"The description of {spec.name} says that {spec.class_names[0]} is authentic, not "
            f"{authentic}. Leave --authentic out, or change the description (authentic: "
            f"{authentic})."
        )


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
