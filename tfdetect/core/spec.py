"""`DatasetSpec`: what a dataset is, where it comes from, how its folders map to labels."""

import re
import string
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from tfdetect.core.documents import Document, find, read_yaml, validate
from tfdetect.core.errors import UserError, nearest, unknown

SPLITS = ("train", "validation", "test")

# Folder names that mean "authentic", compared in lower case. A bare folder whose
# class names are not here needs --authentic: the alphabet is never asked.
AUTHENTIC_NAMES = (
    "real", "reals", "0_real", "authentic", "au", "nature", "natural", "original",
    "originals", "genuine", "pristine", "photo", "photos", "human", "0",
)  # fmt: skip

SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


PREPARED = "1.0.0"  # version, and folder, of what `prepare` writes
CATALOG = "catalog.parquet"  # its catalog
COLUMNS = ("path", "label", "generator", "mask", "group", "split")  # of a manifest
_GROUPS = ("class", "split", "generator", "group", "folder", "stem")  # of a pattern


class ClassSpec(Document):
    """One class and what stands for it in folder names or in a manifest's labels.

    Attributes:
        folders: texts of the pattern's group `class`, or of the manifest's column label.
        mask: path of an image's mask relative to the root, in which `{group}`, `{stem}`
            and the pattern's other groups stand for what they matched.
        generator: of all its images, where neither pattern nor manifest tells.
    """

    name: str
    folders: tuple[str, ...]
    mask: str | None = None
    generator: str | None = None


class Source(Document):
    """Where the data can be had. At most one of `kaggle` and `builtin`."""

    kaggle: str | None = None
    builtin: str | None = None
    homepage: str = ""
    license: str = ""
    size: str = ""


class Part(Document):
    """One dataset of a union.

    Attributes:
        dataset: as for `--dataset`; resolved to `spec` on reading.
        classes: the part's class names and the union's that they count as.
    """

    dataset: str
    classes: dict[str, str] = {}
    spec: "DatasetSpec"

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, value):
        if isinstance(value, str):
            value = {"dataset": value}
        if isinstance(value, dict) and "dataset" in value and "spec" not in value:
            value = {**value, "spec": load_spec(value["dataset"])[0]}
        return value


class DatasetSpec(Document):
    """A dataset, described.

    Its files are found by `pattern`, listed by `manifest`, or those of its `parts`; or it
    is prepared: records of `shards`.

    Attributes:
        pattern: regular expression on a file's path relative to the root, with
            forward slashes. Named groups: `class` (the class folder, required), `split`,
            `generator`, `group`, and `folder` and `stem` for use in masks.
        manifest: CSV or Parquet table below the root with the columns path and label,
            and where known generator, mask, group and split; paths are relative to it.
        columns: a manifest's own names of these columns, `label: class` for example.
        shards: the catalog of a prepared dataset, below the root.
        group_separator: text that parts a group into several, all of which stay in one split: with
            "_" the videos 000_003, 003_000 and 003 are one group.
        classes: class 0 is the authentic one.
        splits: what the text found by the group `split` means; a split that no
            folder provides is carved by group from train (validation, and test
            when `carve_test` is set).
        generators: pieces of a path's `generator` text (lower case) and the
            generator's name; the first that is contained wins.
        expected_counts: number of files by split folder and class; another count warns.
        max_unreadable_fraction: share of unreadable files above which reading stops.
        pretraining: the classes are what authentic images show, and none of them is fake: runs
            are weights for other experiments and give no verdicts.
    """

    name: str
    title: str = ""
    source: Source = Source()
    pattern: str | None = None
    manifest: str | None = None
    columns: dict[Literal[COLUMNS], str] = {}
    shards: str | None = None
    group_separator: str = ""
    parts: tuple[Part, ...] = ()
    classes: tuple[ClassSpec, ...] = Field(min_length=2)
    splits: dict[str, str] = {}
    generators: dict[str, str] = {}
    validation_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.15, gt=0, lt=0.5)
    expected_counts: dict[str, dict[str, int]] = {}
    max_unreadable_fraction: float = Field(0.05, ge=0, le=1)
    max_pixels: int = Field(100_000_000, gt=0)
    experiment: str = "small_images"
    pretraining: bool = False

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if "class" not in groups:
            raise ValueError("the pattern needs a group (?P<class>...)")
        if extra := set(groups) - set(_GROUPS):
            raise ValueError(f"groups not known: {', '.join(sorted(extra))}")
        return value

    @field_validator("splits")
    @classmethod
    def _splits(cls, value: dict[str, str]) -> dict[str, str]:
        for split in value.values():
            if split not in SPLITS:
                raise ValueError(f"{split!r} is not a split; use one of {', '.join(SPLITS)}")
        return value

    @model_validator(mode="after")
    def _one_source(self):
        sources = [self.pattern, self.manifest, self.parts or None, self.shards]
        if len(sources) - sources.count(None) != 1:
            raise ValueError("give one of pattern, manifest, parts and shards")
        for part in self.parts:
            targets = [part.classes.get(n, n) for n in part.spec.class_names]
            if extra := [n for n in targets if n not in self.class_names]:
                raise ValueError(
                    f"the class {', '.join(extra)} of the part {part.spec.name} is none of the "
                    f"union's ({', '.join(self.class_names)}): map it in the part's classes"
                )
            if targets[0] != self.class_names[0] or self.class_names[0] in targets[1:]:
                raise ValueError(
                    f"in the part {part.spec.name} only {part.spec.class_names[0]} may count as "
                    f"{self.class_names[0]}, the authentic class"
                )
        known = re.compile(self.pattern).groupindex if self.pattern else ()
        for c in self.classes:
            if self.pattern and c.mask:
                used = {name for _, name, _, _ in string.Formatter().parse(c.mask) if name}
                if extra := used - set(known):
                    raise ValueError(
                        f"classes.{c.name}.mask uses {', '.join(sorted(extra))}, which the "
                        "pattern has no group for"
                    )
        return self

    @model_validator(mode="after")
    def _folders_once(self):
        folders = [folder for c in self.classes for folder in c.folders]
        if len(folders) != len(set(folders)):
            raise ValueError("a folder name stands for two classes")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order; index 0 is the authentic class."""
        return tuple(c.name for c in self.classes)

    def to_yaml(self) -> str:
        """The spec as YAML that `load_spec` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


MANIFEST_SUFFIXES = (".csv", ".parquet")


def load_spec(name: str, authentic: str | None = None) -> tuple[DatasetSpec, dict[str, Path]]:
    """Resolves `--dataset`: a shipped spec's name, a spec file, a manifest, a folder, or a+b.

    A folder is described by the dataset.yaml in it, as `prepare` and `synthesize` write
    one, by the manifest.csv or manifest.parquet in it, else by its class folders.

    Returns:
        The spec, and the data folder of each dataset that was named by a path.
    """
    folder = Path(name).expanduser()
    if "+" in name and not folder.exists():
        return _union(name.split("+"), authentic)
    if folder.suffix in MANIFEST_SUFFIXES:
        return _at(spec_for_manifest(folder, authentic), folder.parent)
    if folder.is_dir():
        for place in (folder, folder / PREPARED):
            if (file := place / "dataset.yaml").is_file():
                return _at(validate(DatasetSpec, read_yaml(file), str(file), file), place)
        for suffix in MANIFEST_SUFFIXES:
            if (manifest := folder / f"manifest{suffix}").is_file():
                return _at(spec_for_manifest(manifest, authentic), folder)
        return _at(spec_for_folder(folder, authentic), folder)
    if folder.suffix not in (".yaml", ".yml") and ("/" in name or "\\" in name):
        raise UserError(f"There is no folder {name!r}.")
    try:
        path = find("dataset", "data_specs", name)
    except UserError as error:
        raise UserError(f"{error} A path to a folder with class folders works too.") from None
    spec = validate(DatasetSpec, read_yaml(path), str(path), path)
    places = [load_spec(part.dataset)[1] for part in spec.parts]
    return spec, {name: folder for found in places for name, folder in found.items()}


def _at(spec: DatasetSpec, folder: Path) -> tuple[DatasetSpec, dict[str, Path]]:
    return spec, {spec.name: folder.resolve()}


def _union(names: list[str], authentic: str | None) -> tuple[DatasetSpec, dict[str, Path]]:
    """The union of datasets, class by class of the same name; two-class sets just add up.

    Raises:
        UserError: a name stands twice, or classes do not match by name.
    """
    loaded = [load_spec(name, authentic) for name in names]
    specs = [spec for spec, _ in loaded]
    if len({s.name for s in specs}) < len(specs):
        raise UserError(f"{'+'.join(names)} names one dataset twice.")
    first = max(specs, key=lambda s: len(s.class_names))
    parts = []
    for name, spec in zip(names, specs):
        fakes = {f: f for f in spec.class_names[1:]}
        if len(first.class_names) == 2:
            fakes = {spec.class_names[1]: first.class_names[1]}
        elif unknown_ones := [f for f in fakes if f not in first.class_names]:
            raise UserError(
                f"The class {', '.join(unknown_ones)} of {spec.name} is none of {first.name}'s "
                f"({', '.join(first.class_names)}). Describe the union in a YAML file whose "
                "parts map their classes (see CONTRIBUTING)."
            )
        classes = {spec.class_names[0]: first.class_names[0], **fakes}
        parts.append(Part(dataset=name, spec=spec, classes=classes))
    return DatasetSpec(
        name="+".join(s.name for s in specs),
        title="Union of " + ", ".join(s.name for s in specs),
        parts=tuple(parts),
        classes=tuple(ClassSpec(name=n, folders=(n,)) for n in first.class_names),
        experiment=specs[0].experiment,
    ), {name: folder for _, folders in loaded for name, folder in folders.items()}


def spec_for_folder(root: Path, authentic: str | None = None) -> DatasetSpec:
    """Describes a bare folder: class folders, with or without split folders above them.

    Raises:
        UserError: no class folders, only one class, or no authentic class found.
    """
    try:
        children = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        split_folders = {p.name: SPLIT_FOLDERS[p.name.lower()]
                         for p in children if p.name.lower() in SPLIT_FOLDERS}  # fmt: skip
        tops = [p for p in children if p.name in split_folders] or [root]
        classes = sorted({c.name for top in tops for c in top.iterdir()
                          if c.is_dir() and not c.name.startswith(".")})  # fmt: skip
    except PermissionError as error:
        raise UserError(f"Cannot read {root}: {error.strerror}.") from error
    if not classes:
        raise UserError(
            f"{root} has no class folders. Put the images into one folder per class, for "
            "example real/ and fake/, with or without train/, validation/ and test/ above them."
        )
    if split_folders and "train" not in split_folders.values():
        raise UserError(
            f"{root} has {', '.join(split_folders)} but no train folder. Name one 'train', or "
            "put the class folders directly into the folder."
        )
    if len(classes) == 1:
        raise UserError(
            f"{root} has one class only ({classes[0]!r}). A detector needs authentic images and "
            "at least one kind of fake, each in its own folder."
        )
    ordered = _authentic_first(classes, authentic, root)
    split = f"(?P<split>{'|'.join(map(re.escape, split_folders))})/" if split_folders else ""
    return DatasetSpec(
        name=folder_name(root),
        title=f"Folder {root.resolve().name}",
        pattern=f"{split}(?P<class>{'|'.join(map(re.escape, classes))})/.+",
        classes=tuple(ClassSpec(name=c, folders=(c,)) for c in ordered),
        splits=split_folders,
        validation_fraction=0.15,
    )


def spec_for_manifest(path: Path, authentic: str | None = None) -> DatasetSpec:
    """Describes the dataset that a CSV or Parquet table lists.

    Raises:
        UserError: no such file, a column is missing, or no authentic label is found.
    """
    labels = sorted({str(v) for v in read_manifest(path, {})["label"].to_pylist()})
    if not labels:
        raise UserError(f"The manifest {path} lists no files.")
    if len(labels) == 1:
        raise UserError(
            f"{path} has one label only ({labels[0]!r}). A detector needs authentic images and "
            "at least one kind of fake."
        )
    ordered = _authentic_first(labels, authentic, path)
    return DatasetSpec(
        name=folder_name(path.parent if path.stem == "manifest" else path.with_suffix("")),
        title=f"Manifest {path.name}",
        manifest=path.name,
        classes=tuple(ClassSpec(name=c, folders=(c,)) for c in ordered),
        splits=SPLIT_FOLDERS,
        validation_fraction=0.15,
    )


def read_manifest(path: Path, columns: dict[str, str]):
    """Reads a manifest; returns an Arrow table with those of `COLUMNS` that it has.

    Raises:
        UserError: it cannot be read, or has no column path or label.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pacsv.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"There is no manifest {path}.") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"The manifest {path} cannot be read: {error}") from error
    names = {column: columns.get(column, column) for column in COLUMNS}
    for column in COLUMNS:
        if names[column] not in table.column_names:
            if column in ("path", "label") or column in columns:
                raise UserError(
                    f"The manifest {path} has no column {names[column]!r}."
                    f"{nearest(names[column], table.column_names)} It has: "
                    f"{', '.join(table.column_names)}. A dataset spec can map them (columns)."
                )
            del names[column]
    return pa.table({c: _text(table[name]) for c, name in names.items()})


def _text(column):
    """A column as strings, null where empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _authentic_first(classes: list[str], authentic: str | None, where: Path) -> list[str]:
    """The classes in label order.

    Raises:
        UserError: which one is authentic is not plain.
    """
    if authentic is None:
        found = [c for c in classes if c.lower() in AUTHENTIC_NAMES]
        if len(found) != 1:
            what = "No class looks authentic" if not found else "Several classes look authentic"
            raise UserError(
                f"{what} among {', '.join(classes)} in {where}. Say which one is: --authentic NAME."
            )
        authentic = found[0]
    elif authentic not in classes:
        raise unknown("class for --authentic", authentic, classes)
    return [authentic, *(c for c in classes if c != authentic)]


def folder_name(path: Path) -> str:
    """A dataset's name from its folder's."""
    return re.sub(r"[^a-z0-9]+", "_", path.resolve().name.lower()).strip("_") or "folder"
