"""Functions of the Python API that explain a run's verdicts: explain, show_front_ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tfdetect.api.arguments import RunLike, own_run, path_of, writing_on
from tfdetect.api.checked import checked
from tfdetect.api.evaluation_job import prepare_evaluation, writing_results
from tfdetect.api.results import Results
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run_writer import evaluation_folder
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.storage import fetched
from tfdetect.core.text import MAX_NAME_BYTES, file_name, user_path


@checked
def explain(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    split: str | None = None,
    count: int = 60,
    stages: Sequence[str] = (),
    output: str | Path | None = None,
    cluster: SparkCluster | None = None,
    max_pixels: int | None = None,
    progress: bool = True,
    log: console.Log = console.log,
) -> Results:
    """Show what moves a run's verdicts on a set of images: mean maps and features by class.

    A single image is explained by `load(run).predict(image, pages="pages")`.

    Args:
        run, dataset, data_dir, authentic: see `evaluate`.
        split: the images to explain; by default test, or validation where there is no test split,
            or all of another dataset that has no splits of its own.
        count: number of images, split evenly among the classes.
        stages: the stages of the backbone whose mean features are shown: "stage1" (the finest),
            "stage2", and so on, or "all"; by default the last features alone.
        output: folder for explanation.html and explanation.json; by default as in `evaluate`.
        cluster: a Spark cluster that explains the images; see `evaluate`.
        max_pixels, progress, log: see `evaluate`.

    Returns:
        The content of explanation.json as `values`, with the sanity checks of the maps.
    """
    job = prepare_evaluation(run, dataset, data_dir, authentic, output, max_pixels=max_pixels)
    import_tensorflow()
    from tfdetect.data.evaluation_data import split_to_evaluate
    from tfdetect.explanation.explain_set import explain_set

    with writing_on(cluster, job.output, job.roots, progress) as work:
        elsewhere = None if work is None else partial(work.explain, job.run.path, stages)
        catalog = job.read_data(progress, log)
        split = split or split_to_evaluate(job.run, catalog)
        with job.writing(progress) as (staged, folder):
            values = explain_set(
                staged, catalog, split, count, folder, log, stages=stages, elsewhere=elsewhere
            )
    return Results(job.run, values, job.output, job.output / "explanation.html")


@checked
def show_front_ends(
    run: RunLike,
    image: str | Path,
    *,
    output: str | Path | None = None,
    progress: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Results:
    """Show what front-ends leave of an image: residual, SRM, Bayar, NPR and DCT, side by side.

    Where the run has a front-end of its own, it is shown before and after training, too.

    Args:
        run: see `evaluate`; its view decides what is cut out of the image.
        image: an image file.
        output: folder for front_ends.html and front_ends.json; by default
            evaluations/front_ends-IMAGE in the run.
        progress: whether to show progress.
        max_pixels: an image with more pixels is refused.

    Returns:
        The content of front_ends.json as `values`.

    Raises:
        UserError: the image cannot be read, or the run is an ensemble.
    """
    run = own_run(run, output)
    path = fetched(user_path(image))
    if not path.is_file():
        raise UserError(f"There is no image {path}.")
    name = file_name(f"front_ends-{path.stem}", most=MAX_NAME_BYTES)
    images = {name: path}
    target = path_of(output) or evaluation_folder(run, name, images)
    check_writable(target)
    import_tensorflow()
    from tfdetect.explanation.front_ends import show_front_ends as show

    with writing_results(run, target, images, progress) as (_, folder):
        values = show(run, path, folder, max_pixels)
    return Results(run, values, target, target / "front_ends.html")
