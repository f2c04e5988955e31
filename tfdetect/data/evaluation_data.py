"""The data that a run is evaluated on: dataset and splits, and whether they are the run's own."""

from pathlib import Path

from tfdetect.core import console
from tfdetect.core.class_order import RunClasses
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.run_writer import evaluation_folder
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import printable
from tfdetect.data.catalog import Catalog, changed_counts
from tfdetect.data.locate import find_roots, locate_dataset, present_roots
from tfdetect.data.plan import check_classes_fit, with_splits_of


def evaluation_data(
    run: Run,
    dataset: str | None,
    data_dir: Path | None,
    authentic: str | None,
    output: Path | None,
    label: str | None = None,
) -> tuple[DatasetSpec, dict[str, Path], Path]:
    """Return the data to evaluate a run on: spec, folders by name, and the folder for results.

    Args:
        run: the run to evaluate.
        dataset: a shipped dataset's name or a path. By default the run's own dataset, in the
            folder where it was during training, or else where it is found now. A folder may
            have one class alone, or a test split alone.
        data_dir: folder in which datasets are looked for first.
        authentic: name of the authentic class of a folder, if the folder names do not tell.
        output: folder for results; by default the run's own, or one below it for other data.
        label: class of all images of a folder without class folders: "authentic", "fake" or
            one of the run's class names.

    Raises:
        UserError: The dataset is not available, its labels are not known, or its classes are
            not those of the run.
    """
    if output is not None:
        is_own = dataset is None and output.resolve() == run.path.resolve()
        if output.exists() and not output.is_dir():
            raise UserError(f"--output {output} is a file. Give a folder.")
        if (output / "run.json").is_file() and not is_own:
            raise UserError(
                f"--output {output} is the folder of a run, whose own results would be "
                "overwritten. Give another folder."
            )
    if dataset is not None:
        run_classes = RunClasses(tuple(run.class_names), label)
        spec, roots = locate_dataset(dataset, data_dir, authentic, run_classes)
        check_classes_fit(run, spec)
        spec = with_splits_of(spec, run)
        return spec, roots, output or evaluation_folder(run, spec.name, roots)
    if label is not None:
        raise UserError("--label is for a folder of images. Give the folder: --dataset FOLDER")
    spec = run.dataset_spec()
    known = {} if data_dir else run.roots
    present = present_roots(spec, known)
    try:
        return spec, find_roots(spec, present, data_dir), output or run.path
    except UserError as error:
        gone = [printable(root) for name, root in known.items() if name not in present]
        read = f" The training read {spec.name} in {', '.join(gone)}." if gone else ""
        raise UserError(
            f"{error}{read} The images that a run was trained on do not come with it. To measure "
            "it on other images: --dataset FOLDER"
        ) from error


def is_own_dataset(run: Run, catalog: Catalog) -> bool:
    """Return whether a dataset is the one that a run was trained on.

    Among datasets of the same name the folder decides. Where the run's own folder is not here or
    not known, the content or the number of training images decides: some of the others may be
    missing. Without any training images it is the number of validation images.
    """
    known = run.info.dataset
    if catalog.name != known.name:
        return False
    recorded = {root.resolve() for root in run.roots.values() if root.is_dir()}
    if recorded & {root.resolve() for root in catalog.roots.values()}:
        return True
    if not recorded:
        counts = catalog.counts(run.class_names)
        split = "train" if "train" in counts else "validation"
        if split in counts and counts[split] == known.counts.get(split):
            return True
    return catalog.fingerprint() == known.fingerprint


def lacks_training_images(run: Run, catalog: Catalog) -> bool:
    """Return whether a run's own dataset has fewer training images than it was trained on."""
    trained = sum(run.info.dataset.counts.get("train", {}).values())
    return catalog.split("train").num_rows < trained


def warn_of_changed_data(run: Run, catalog: Catalog) -> None:
    """Warn where a run's own dataset is no longer what it was trained on."""
    known = run.info.dataset
    if is_own_dataset(run, catalog) and catalog.fingerprint() != known.fingerprint:
        changes = changed_counts(known.counts, catalog.counts(run.class_names))
        console.warn(
            f"{catalog.name} is no longer the data that {run.name} was trained on ({changes}): "
            "what is measured now is about the images as they are now, and may differ from what "
            "the training measured"
        )


def splits_to_evaluate(run: Run, catalog: Catalog) -> tuple[str, ...]:
    """Return what a run is evaluated on by default.

    Returns:
        Validation and test; all of a dataset that the run was not trained on and that nobody has
        divided into splits.
    """
    if catalog.divided or is_own_dataset(run, catalog):
        return "validation", "test"
    return ("all",)


def split_to_evaluate(run: Run, catalog: Catalog) -> str:
    """Return the split that a run is measured on by default where only one split is measured.

    Returns:
        Test, or validation where there is no test split; all of a dataset that the run was not
        trained on and that nobody has divided into splits.
    """
    splits = splits_to_evaluate(run, catalog)
    return next((s for s in reversed(splits) if catalog.split(s).num_rows), splits[-1])


def split_to_calibrate_on(run: Run, catalog: Catalog) -> str:
    """Return which images a run is calibrated on by default.

    It was trained on none of another dataset, so all are of use where nobody has divided them.
    """
    if is_own_dataset(run, catalog):
        return "validation"
    labels = catalog.split("all")["label"].to_numpy()
    divided = catalog.divided and catalog.split("validation").num_rows > 0
    return "validation" if divided and (labels > 0).any() else "all"
