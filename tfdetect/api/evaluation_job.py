"""`EvaluationJob`: which run is measured on which images, and where the results go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.api.arguments import RunLike, own_run, path_of, text_of
from tfdetect.core import console
from tfdetect.core.files import check_writable, merged
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_writer import evaluating, evaluation_folder, updating

if TYPE_CHECKING:
    from tfdetect.core.spec import DatasetSpec
    from tfdetect.data.catalog import Catalog


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation whose run, data and output are resolved and checked, not yet begun.

    Attributes:
        run: the run, with the settings that it is measured with.
        spec: the dataset.
        roots: the folder of the dataset, or of each part of a union, by its name.
        output: folder for the results: the run's own, one below its evaluations/, or one that the
            user named.
    """

    run: Run
    spec: DatasetSpec
    roots: dict[str, Path]
    output: Path

    def read_data(self, progress: bool, log: console.Log) -> Catalog:
        """Return the catalog of the dataset.

        Raises:
            UserError: the data cannot be read.
        """
        from tfdetect.data.describe import read_data
        from tfdetect.data.evaluation_data import warn_of_changed_data

        catalog = read_data(self.spec, self.roots, progress, log)
        warn_of_changed_data(self.run, catalog)
        return catalog

    @contextmanager
    def writing(self, progress: bool) -> Iterator[tuple[Run, Path]]:
        """Yield the run and the folder to write results into; see `writing_results`."""
        with writing_results(self.run, self.output, self.roots, progress) as found:
            yield found


def prepare_evaluation(
    run: RunLike,
    dataset: str | Path | None,
    data_dir: str | Path | None,
    authentic: str | None,
    output: str | Path | None,
    *,
    label: str | None = None,
    max_pixels: int | None,
) -> EvaluationJob:
    """Resolve and check everything that `evaluate` needs, with the same arguments; start nothing.

    Results of other settings than the run's own do not go into the run itself.

    Raises:
        UserError: the data cannot be found, do not fit the run, or the output cannot be written.
    """
    from tfdetect.data.evaluation_data import evaluation_data
    from tfdetect.evaluation.prediction_columns import check_parts

    run = own_run(run, output)
    spec, roots, target = evaluation_data(
        run, text_of(dataset), path_of(data_dir), authentic, path_of(output), label
    )
    if target == run.path and open_run(target).info != run.info:
        target = evaluation_folder(run, spec.name, roots)
    check_writable(target)
    check_parts(run)
    return EvaluationJob(run, spec.with_values(max_pixels=max_pixels), roots, target)


@contextmanager
def writing_results(
    run: Run, target: Path, images: Mapping[str, Path], progress: bool
) -> Iterator[tuple[Run, Path]]:
    """Yield the run and the folder to write results into, which change in one swap at the end.

    Args:
        run: the run, with the settings that results are computed for.
        target: the run's own folder, one below its evaluations/, or one that the user named,
            which may hold other things.
        images: what the results are about; see `evaluation_folder`.
        progress: whether to show progress meanwhile.
    """
    with console.quiet(not progress):
        if target == run.path:
            with updating(run) as copy:
                yield copy, copy.path
        else:
            inside = target.parent == run.path / "evaluations"
            where = evaluating(run, target, images) if inside else merged(target)
            with where as folder:
                yield run, folder
