"""`Suite`: a standard benchmark as a document: subsets, protocol and published tables."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from tfdetect.core.data_settings import Equalize
from tfdetect.core.documents import Document, Name, validate
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.parsing import read_yaml
from tfdetect.core.patterns import PathSearch
from tfdetect.core.text import user_path

# How a suite is measured; every suite is measured in both ways.
ProtocolName = Literal["published", "equalized"]
PUBLISHED: Final = "published"
EQUALIZED: Final = "equalized"
Metric = Literal["accuracy", "ap", "auc", "pixel_f1", "pixel_iou", "pixel_auc"]
METRICS: dict[Metric, str] = {
    "accuracy": "accuracy", "ap": "average precision", "auc": "AUC", "pixel_f1": "pixel F1",
    "pixel_iou": "pixel IoU", "pixel_auc": "pixel AUC",
}  # fmt: skip
_FOLDER = Path(__file__).parent / "suites"


class Subset(Document):
    """One part of a suite that is scored on its own, such as the images of one generator.

    Attributes:
        name: as published tables call it.
        dataset: name of a dataset spec; by default that of the suite.
        match: RE2 expression that is searched in the paths of the dataset's images; those that it
            finds are the subset. By default all are.
        counts: number of images by class name; empty where no source that we could read says it.
    """

    name: str
    dataset: str | None = None
    match: str = ""
    counts: dict[str, int] = {}

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        if value:
            PathSearch(value)
        return value


class Protocol(Document):
    """How the detectors of the published tables were measured.

    Attributes:
        stretch: side in pixels to which every image is resized first, without its aspect ratio.
        shorter_side: length in pixels to which the shorter side is resized first.
        crop: side in pixels of the center that is cut out afterwards; a smaller image stays whole.
        antialias: whether resizing filters (Pillow does, OpenCV's bilinear resizing does not).
        threshold: P(fake), or P(altered) of a pixel, from which the verdict is positive.
        text: the same in words, with what differs between the published rows.
        source: where this can be read.
    """

    stretch: int | None = Field(None, gt=0)
    shorter_side: int | None = Field(None, gt=0)
    crop: int | None = Field(None, gt=0)
    antialias: bool = True
    threshold: float = Field(0.5, gt=0, lt=1)
    text: str
    source: str

    @model_validator(mode="after")
    def _resizes_once(self) -> "Protocol":
        if self.stretch and self.shorter_side:
            raise ValueError("give stretch or shorter_side, not both")
        return self


class PublishedTable(Document):
    """Figures that others published.

    Attributes:
        title: what the table is.
        source: where it can be read.
        note: what a reader must know to compare.
        metric: what its figures are.
        unit: the unit of its figures.
        protocol: which of our figures belong beside them.
        subsets: its columns, names of subsets of the suite; none if only means were published.
        rows: by method, a figure for each subset and their mean; null where none was published.
    """

    title: str
    source: str
    note: str = ""
    metric: Metric = "accuracy"
    unit: Literal["percent", "fraction"] = "percent"
    protocol: ProtocolName = PUBLISHED
    subsets: tuple[str, ...] = ()
    rows: dict[str, tuple[float | None, ...]]

    @model_validator(mode="after")
    def _rows_fit(self) -> "PublishedTable":
        highest = 100 if self.unit == "percent" else 1
        for method, values in self.rows.items():
            if len(values) != len(self.subsets) + 1:
                raise ValueError(
                    f"the row {method!r} of {self.title!r} has {len(values)} figures; expected "
                    f"{len(self.subsets)} and their mean"
                )
            if any(value is not None and not 0 <= value <= highest for value in values):
                raise ValueError(f"the row {method!r} of {self.title!r} leaves 0 to {highest}")
        return self


class Suite(Document):
    """A standard benchmark.

    Attributes:
        name: for the command line.
        title: one line for people.
        paper: authors, venue and year.
        homepage: where the data are.
        task: "images" asks whether an image is fake, "masks" which of its pixels are altered.
        dataset: name of the dataset spec that describes the layout.
        split: the images that are scored, "test", or "all" where nobody divided them.
        equalize: crop and encoding of the format-equalized protocol. The crop is smaller where
            images are smaller; see `subset_data.equalizing`. With masks nothing is cropped.
        protocol: how the published figures were measured.
        counts_source: where the numbers of images can be read.
        subsets: the parts.
        published: the published tables.
        remarks: limits of the data and of comparisons.
    """

    name: Name
    title: str
    paper: str
    homepage: str
    task: Literal["images", "masks"]
    dataset: str
    split: Literal["test", "all"]
    equalize: Equalize = Equalize(side=224, quality=(80, 95))
    protocol: Protocol
    counts_source: str = ""
    subsets: tuple[Subset, ...] = Field(min_length=1)
    published: tuple[PublishedTable, ...] = ()
    remarks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> "Suite":
        names = [subset.name for subset in self.subsets]
        if len(names) > len(set(names)):
            raise ValueError("two subsets have the same name")
        for table in self.published:
            if extra := [name for name in table.subsets if name not in names]:
                raise ValueError(f"{table.title!r} has the column {extra[0]!r}, which is no subset")
        if not self.counts_source and any(subset.counts for subset in self.subsets):
            raise ValueError("counts_source must say where the counts can be read")
        return self

    @property
    def main_metric(self) -> Metric:
        """The metric by which runs are ranked."""
        return "accuracy" if self.task == "images" else "pixel_f1"

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the dataset specs, in order."""
        return tuple(dict.fromkeys(subset.dataset or self.dataset for subset in self.subsets))

    def choose(self, names: tuple[str, ...]) -> "Suite":
        """Return the suite with some of its subsets; all without names.

        Raises:
            UserError: a name is none of a subset.
        """
        known = {subset.name.lower(): subset.name for subset in self.subsets}
        for name in names:
            if name.lower() not in known:
                raise unknown(f"subset of {self.name}", name, [s.name for s in self.subsets])
        wanted = {known[name.lower()] for name in names}
        subsets = tuple(s for s in self.subsets if s.name in wanted) if names else self.subsets
        return self.model_copy(update={"subsets": subsets})


def suite_names() -> dict[str, Path]:
    """Return the files of the shipped suites by name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"))}


def load_suite(name: str) -> Suite:
    """Return a shipped suite by its name, or one of your own by the path of its YAML file.

    Raises:
        UserError: there is none, or it has a mistake.
    """
    path = user_path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in suite_names():
            raise unknown("benchmark suite", name, suite_names())
        path = suite_names()[name]
    elif not path.is_file():
        raise UserError(f"There is no benchmark suite {name!r}. Check the path.")
    return validate(Suite, read_yaml(path), str(path), path)


def list_rows() -> tuple[list[str], list[list[str]]]:
    """Return a table of the shipped suites: what they measure and which data they need."""
    headers = ["suite", "what it measures", "datasets", "subsets", "published rows"]
    rows = []
    for name in suite_names():
        suite = load_suite(name)
        published = sum(len(table.rows) for table in suite.published)
        rows.append([name, suite.title, ", ".join(suite.datasets), str(len(suite.subsets)),
                     str(published)])  # fmt: skip
    return headers, rows
