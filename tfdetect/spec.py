"""`DatasetSpec`: what a dataset is, where it comes from, how its folders map to labels."""

import re
from pathlib import Path

import yaml
from pydantic import Field, field_validator, model_validator

from tfdetect.documents import Document, find, read_yaml, validate
from tfdetect.errors import UserError, unknown

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


class ClassSpec(Document):
    """One class and the folder names that hold it."""

    name: str
    folders: tuple[str, ...]


class Source(Document):
    """Where the data can be had. At most one of `kaggle` and `builtin`."""

    kaggle: str | None = None
    builtin: str | None = None
    homepage: str = ""
    license: str = ""
    size: str = ""


class DatasetSpec(Document):
    """A dataset, described.

    Attributes:
        pattern: regular expression on a file's path relative to the root, with
            forward slashes. Named groups: `klass` (the class folder, required), `split`,
            `generator`, `group`.
        classes: class 0 is the authentic one.
        splits: what the text found by the group `split` means; a split that no
            folder provides is carved by group from train (validation, and test
            when `carve_test` is set).
        generators: pieces of a path's `generator` text (lower case) and the
            generator's name; the first that is contained wins.
        expected: number of files by split folder and class; another count warns.
        max_bad_share: share of unreadable files above which reading stops.
    """

    name: str
    title: str = ""
    source: Source = Source()
    pattern: str
    classes: tuple[ClassSpec, ...] = Field(min_length=2)
    splits: dict[str, str] = {}
    generators: dict[str, str] = {}
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    test_share: float = Field(0.15, gt=0, lt=0.5)
    expected: dict[str, dict[str, int]] = {}
    max_bad_share: float = Field(0.05, ge=0, le=1)
    max_pixels: int = Field(100_000_000, gt=0)
    experiment: str = "small_images"

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        allowed = {"klass", "split", "generator", "group"}
        if "klass" not in groups:
            raise ValueError("the pattern needs a group (?P<klass>...)")
        if extra := set(groups) - allowed:
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


def load_spec(name: str, authentic: str | None = None) -> tuple[DatasetSpec, Path | None]:
    """Resolves `--dataset`: a shipped spec's name, a spec file, or a folder of classes.

    Returns:
        The spec, and the data folder when `name` was a folder.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return spec_for_folder(folder, authentic), folder
    if folder.suffix not in (".yaml", ".yml") and ("/" in name or "\\" in name):
        raise UserError(f"There is no folder {name!r}.")
    try:
        path = find("dataset", "data_specs", name)
    except UserError as error:
        raise UserError(f"{error} A path to a folder with class folders works too.") from None
    return validate(DatasetSpec, read_yaml(path), str(path), path), None


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
    if authentic is None:
        found = [c for c in classes if c.lower() in AUTHENTIC_NAMES]
        if len(found) != 1:
            what = "No class looks authentic" if not found else "Several classes look authentic"
            raise UserError(
                f"{what} among {', '.join(classes)} in {root}. Say which one is: --authentic NAME."
            )
        authentic = found[0]
    elif authentic not in classes:
        raise unknown("class for --authentic", authentic, classes)
    ordered = [authentic, *(c for c in classes if c != authentic)]
    split = f"(?P<split>{'|'.join(map(re.escape, split_folders))})/" if split_folders else ""
    return DatasetSpec(
        name=re.sub(r"[^a-z0-9]+", "_", root.resolve().name.lower()).strip("_") or "folder",
        title=f"Folder {root.resolve().name}",
        pattern=f"{split}(?P<klass>{'|'.join(map(re.escape, classes))})/.+",
        classes=tuple(ClassSpec(name=c, folders=(c,)) for c in ordered),
        splits=split_folders,
        validation_share=0.15,
    )
