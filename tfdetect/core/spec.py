"""`DatasetSpec`: the description of a dataset: its origin, classes, splits and layout."""

import string
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tfdetect.core.documents import Document, Name
from tfdetect.core.folder_names import class_polarity
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.patterns import PathPattern
from tfdetect.core.run_migration import SPEC_KEYS

SPLITS = ("train", "validation", "test")
PREPARED = "1.0.0"  # version, and folder, of datasets that `prepare` writes
CATALOG = "catalog.parquet"  # the catalog of a prepared dataset
AuthenticBy = Literal["name", "flag", "spec"]  # how it is known which class is authentic
COLUMNS = ("path", "label", "generator", "mask", "group", "split")  # of a manifest
MaskChannel = Literal["gray", "red", "green", "blue", "color", "alpha"]
_PATTERN_GROUPS = ("class", "split", "generator", "group", "folder", "stem")


class ClassSpec(Document):
    """One class, and the folder names or manifest labels that stand for it.

    Attributes:
        name: the class name in runs and reports.
        folders: texts of the pattern's group `class`, or of the manifest's column label. It may
            be empty in data for evaluation alone, which lacks the class.
        mask: path of an image's mask relative to the root. `{group}`, `{stem}` and the other
            groups of the pattern are replaced by what they matched. If it ends in `.*`, the mask
            may have any suffix.
        generator: the generator of all images of the class, unless the pattern or the manifest
            names one.
    """

    name: Name
    folders: tuple[str, ...]
    mask: str | None = None
    generator: str | None = None


class Source(Document):
    """Where a dataset is available.

    Attributes:
        kaggle: name of a Kaggle dataset, owner/name.
        builtin: name of a dataset that the package makes itself.
        homepage: address for people.
        license: the dataset's license.
        size: size of the download, for people.
    """

    kaggle: str | None = None
    builtin: str | None = None
    homepage: str = ""
    license: str = ""
    size: str = ""


class Part(Document):
    """One dataset of a union.

    Attributes:
        dataset: a shipped dataset's name or a path, as for `--dataset`.
        classes: maps the part's class names to those of the union; the same name by default.
        spec: the part's spec; `load_spec` fills it in.
    """

    dataset: str
    classes: dict[str, str] = {}
    spec: "DatasetSpec"


class DatasetSpec(Document):
    """The description of a dataset.

    Exactly one of `pattern`, `manifest`, `parts` and `shards` says where its images are.

    Attributes:
        name: short name, used for folders and `--dataset`.
        title: one line for people.
        source: where the dataset is available.
        pattern: regular expression (RE2's, without look-ahead and look-behind) for a file's path
            relative to the root, with forward slashes. Named groups: `class` (required), `split`,
            `generator`, `group`, and `folder` and `stem` for use in masks.
        manifest: CSV or Parquet table below the root with the columns path and label, and
            optionally generator, mask, group and split. Paths are relative to the table.
        columns: a manifest's own names of these columns, for example `label: class`.
        parts: the datasets of a union.
        shards: the catalog of a prepared dataset, below the root.
        group_separator: splits the names of groups into pieces. Groups that share a piece stay
            in one split: with "_" the videos 000_003, 003_000 and 003 do.
        classes: the classes in label order; class 0 is the authentic one.
        authentic: name of the authentic class, which then is class 0 wherever it is listed.
        authentic_by: how it is known which class is authentic: by its name or by --authentic,
            if the dataset has no spec; else by the spec.
        leave_out: words in the names of folders that are no part of the dataset, at any depth,
            for example "masks". Case does not matter.
        splits: maps the text of the pattern's group `split`, or of the manifest's column, to
            train, validation or test.
        split_files: by split, files below the root that list what is in it: one path or group a
            line, or any JSON that holds paths or groups. They take precedence over folders.
        default_split: split of files whose path or manifest row names none.
        generators: maps pieces of a file's `generator` text (lower case) to generator names; the
            first piece that the text contains decides.
        validation_fraction: fraction of the groups in train that becomes the validation split,
            if no file is in validation.
        test_fraction: fraction of all groups that becomes the test split, if no file names a
            split.
        split_rule: how splits are carved: 2 gives each of them enough of every class and keeps
            copies in the parts of a union together; 1 does neither, as runs of earlier versions.
        expected_counts: number of files by split text and class; other counts give a warning.
        max_unreadable_fraction: fraction of unusable images above which reading stops. One or two
            unusable images are allowed in any case if more than half of all can be used.
        max_pixels: images with more pixels are skipped.
        mask_channel: which number of a mask's pixel says whether it is altered: gray, red, green,
            blue, color (the largest of these three) or alpha. By default it is detected.
        mask_values: values of unaltered and of altered pixels in masks, such as [0, 1]; a pixel
            counts as altered above the middle between them. By default they are detected.
        mask_inverted: whether the smaller values mean altered instead. It is never inferred; if
            masks look inverted, commands that need them ask for true or false.
        experiment: the experiment that `train` runs by default; without it, `train` chooses by
            masks and by the images' size.
        pretraining: the classes are what authentic images show, and none of them is fake. Runs
            provide weights for other experiments and give no verdicts.
    """

    old_keys = SPEC_KEYS

    name: Name
    title: str = ""
    source: Source = Source()
    pattern: str | None = None
    manifest: str | None = None
    columns: dict[Literal[COLUMNS], str] = {}  # type: ignore[valid-type]
    shards: str | None = None
    group_separator: str = ""
    parts: tuple[Part, ...] = ()
    classes: tuple[ClassSpec, ...] = Field(min_length=2)
    authentic: str | None = None
    authentic_by: AuthenticBy = "spec"
    leave_out: tuple[str, ...] = ()
    splits: dict[str, str] = {}
    split_files: dict[Literal[SPLITS], tuple[str, ...]] = {}  # type: ignore[valid-type]
    default_split: Literal["train", "validation", "test"] = "train"
    generators: dict[str, str] = {}
    validation_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.15, gt=0, lt=0.5)
    split_rule: Literal[1, 2] = 2
    expected_counts: dict[str, dict[str, int]] = {}
    max_unreadable_fraction: float = Field(0.05, ge=0, le=1)
    max_pixels: int = Field(MAX_PIXELS, gt=0)
    mask_channel: MaskChannel | None = None
    mask_values: tuple[int, int] | None = None
    mask_inverted: bool | None = None
    experiment: str | None = None
    pretraining: bool = False

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, value: str | None) -> str | None:
        if value is None:
            return None
        groups = PathPattern(value).groups
        if "class" not in groups:
            raise ValueError("the pattern needs a group (?P<class>...)")
        if extra := set(groups) - set(_PATTERN_GROUPS):
            raise ValueError(
                f"unknown groups: {', '.join(sorted(extra))}; allowed: {', '.join(_PATTERN_GROUPS)}"
            )
        return value

    @field_validator("mask_values")
    @classmethod
    def _values_ascend(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 65_535:
            raise ValueError(
                "give the value of unaltered pixels and a larger one of altered pixels, from 0 to "
                "65535; if the smaller value means altered, add mask_inverted: true"
            )
        return value

    @field_validator("splits")
    @classmethod
    def _splits_exist(cls, value: dict[str, str]) -> dict[str, str]:
        for split in value.values():
            if split not in SPLITS:
                raise ValueError(f"{split!r} is not a split; use one of {', '.join(SPLITS)}")
        return value

    @field_validator("split_files")
    @classmethod
    def _lists_are_below(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in (name for names in value.values() for name in names):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name!r} is not below the dataset's folder")
        return value

    @model_validator(mode="before")
    @classmethod
    def _authentic_is_first(cls, data: Any) -> Any:
        authentic = data.get("authentic") if isinstance(data, dict) else None
        classes = data.get("classes") if authentic is not None else None
        if not isinstance(classes, list | tuple):
            return data

        def name_of(one: Any) -> Any:
            return one.get("name") if isinstance(one, dict) else getattr(one, "name", None)

        if authentic not in (names := [name_of(one) for one in classes]):
            raise ValueError(
                f"authentic is {authentic!r}, which is no class; the classes are "
                f"{', '.join(map(str, names))}"
            )
        return {**data, "classes": sorted(classes, key=lambda one: name_of(one) != authentic)}

    @model_validator(mode="after")
    def _authentic_looks_so(self) -> "DatasetSpec":
        if self.pretraining or self.authentic is not None or self.authentic_by == "flag":
            return self
        first, *others = self.class_names
        real = [name for name in others if class_polarity(name) == "authentic"]
        if class_polarity(first) == "fake" or (real and class_polarity(first) is None):
            raise ValueError(
                f"the first class is the authentic one, and that is {first!r}. List the authentic "
                f"class first, or name it: authentic: {(real or [first])[0]}"
            )
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> "DatasetSpec":
        sources = [self.pattern, self.manifest, self.parts or None, self.shards]
        if len(sources) - sources.count(None) != 1:
            raise ValueError("give exactly one of pattern, manifest, parts and shards")
        return self

    @model_validator(mode="after")
    def _masks_are_of_files(self) -> "DatasetSpec":
        keys = ("mask_channel", "mask_values", "mask_inverted")
        if (given := [key for key in keys if getattr(self, key) is not None]) and (
            self.parts or self.shards
        ):
            where = "the specs of the parts" if self.parts else "the spec that was prepared"
            raise ValueError(f"{', '.join(given)} belongs in {where}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "DatasetSpec":
        for part in self.parts:
            targets = [part.classes.get(name, name) for name in part.spec.class_names]
            if extra := [name for name in targets if name not in self.class_names]:
                raise ValueError(
                    f"the class {', '.join(extra)} of the part {part.spec.name} is not among the "
                    f"union's ({', '.join(self.class_names)}): map it in the part's classes"
                )
            if targets[0] != self.class_names[0] or self.class_names[0] in targets[1:]:
                raise ValueError(
                    f"in the part {part.spec.name} only {part.spec.class_names[0]} may count as "
                    f"{self.class_names[0]}, the authentic class"
                )
        return self

    @model_validator(mode="after")
    def _masks_use_groups(self) -> "DatasetSpec":
        if self.pattern is None:
            return self
        known = PathPattern(self.pattern).groups
        for c in self.classes:
            if extra := _fields_of(c.mask or "", f"classes.{c.name}.mask") - set(known):
                raise ValueError(
                    f"classes.{c.name}.mask uses {', '.join(sorted(extra))}, for which the "
                    "pattern has no group"
                )
        return self

    @model_validator(mode="after")
    def _folders_are_unique(self) -> "DatasetSpec":
        folders = [folder for c in self.classes for folder in c.folders]
        if len(folders) != len(set(folders)):
            raise ValueError("a folder name belongs to two classes")
        return self

    @property
    def datasets(self) -> tuple["DatasetSpec", ...]:
        """The specs of its parts, or itself if it is no union."""
        return tuple(part.spec for part in self.parts) or (self,)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order; index 0 is the authentic class."""
        return tuple(c.name for c in self.classes)

    def with_values(self, **values: Any) -> "DatasetSpec":
        """Return the spec, and those of its parts, with other values; None for no change."""
        changes = {key: value for key, value in values.items() if value is not None}
        parts = tuple(
            part.model_copy(update={"spec": part.spec.with_values(**changes)})
            for part in self.parts
        )
        return self.model_copy(update={**changes, "parts": parts})


def _fields_of(template: str, what: str) -> set[str]:
    """Return the names in braces of a template.

    Raises:
        ValueError: braces hold more than a name.
    """
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    for _, name, width, conversion in fields:
        if not str(name).isidentifier() or width or conversion:
            raise ValueError(f"{what}: braces hold the name of a group alone, as in {{stem}}")
    return {str(name) for _, name, _, _ in fields}
