"""Functions of the Python API on datasets: audit, fix, prepare, synthesize."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tfdetect.api.arguments import path_of, plan_of, writing_on
from tfdetect.api.checked import checked
from tfdetect.core import console, storage
from tfdetect.core.choices import Background
from tfdetect.core.errors import UserError, UserTypeError, shortened, unknown
from tfdetect.core.files import check_writable
from tfdetect.core.process import allowed_cores
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import user_path

if TYPE_CHECKING:
    from tfdetect.auditing.audit_dataset import Audit
    from tfdetect.auditing.fixes import FixedDataset
    from tfdetect.data.prepare_dataset import Prepared
    from tfdetect.synthesis.settings import Settings as SynthesisSettings


@checked
def audit(
    dataset: str | Path,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    output: str | Path | None = None,
    max_pixels: int | None = None,
    cluster: SparkCluster | None = None,
    progress: bool = True,
) -> Audit:
    """Audit a dataset, without a model: label leakage, duplicates, leaks between splits, balance.

    Args:
        dataset, data_dir, authentic: see `train`.
        output: folder for audit.html, audit.json, traits.parquet, duplicates.csv and
            skipped.csv; by default nothing is written.
        max_pixels: images with more pixels are skipped; by default as the dataset spec says.
        cluster: a Spark cluster that reads the files; every machine needs them and the cluster's
            folder, by default `output` with the ending .parts, under the same paths. The same call
            continues an interrupted one.
        progress: whether to show progress.

    Returns:
        The audit: `verdict` is "sound", "caution" or "unreliable"; `findings` says why.

    Raises:
        UserError: no usable image is there.
    """
    from tfdetect.data.locate import locate_dataset

    spec, roots = locate_dataset(str(dataset), path_of(data_dir), authentic)
    spec = spec.with_values(max_pixels=max_pixels)
    if output is not None:
        if user_path(output).exists() and not user_path(output).is_dir():
            raise UserError(f"The output {output} is a file. Give a folder.")
        check_writable(user_path(output).absolute().parent)

    from tfdetect.auditing.audit_dataset import audit_dataset

    if cluster is None:
        found = audit_dataset(spec, roots, progress=progress)
    else:
        from tfdetect.spark.dataset_jobs import dataset_jobs

        folder = cluster.folder
        if folder is None and output is not None:
            folder = user_path(output).with_name(f"{user_path(output).name}.parts")
        if folder is None:
            raise UserError("An audit on a cluster needs a folder: SparkCluster(folder=...).")
        with dataset_jobs(cluster, folder, roots, progress):
            found = audit_dataset(spec, roots, progress=progress)
    if output is not None:
        from tfdetect.auditing.audit_report import write_report

        write_report(found, user_path(output))
    return found


@checked
def fix(
    audit: Audit,
    folder: str | Path,
    fixes: Sequence[str] | None = None,
    *,
    progress: bool = True,
) -> FixedDataset:
    """Write a fixed copy of an audited dataset; the original stays unchanged.

    Args:
        audit: what `audit` returned.
        folder: a new folder for the copy, which is a dataset of its own.
        fixes: any of "duplicates", "formats", "balance" and "splits"; by default those that the
            findings call for.
        progress: whether to show progress.

    Returns:
        The copy: its `folder` and what was done, `steps`.

    Raises:
        UserError: an unknown fix, a folder that is not empty, or nothing to fix.
    """
    from tfdetect.auditing.audit_dataset import Audit
    from tfdetect.auditing.fixes import fix_dataset, select_fixes

    if not isinstance(audit, Audit):
        raise UserTypeError(
            "fix takes what audit returned: fix(audit('folder'), 'copy'). Received: "
            f"{shortened(audit)}."
        )
    return fix_dataset(audit, Path(folder), select_fixes(audit, fixes), progress)


@checked
def prepare(
    dataset: str | Path,
    output: str | Path,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    size: int | tuple[int, int] | None = None,
    resize: str = "crop",
    encode: str = "keep",
    quality: int = 95,
    foreground: str | None = None,
    mask_options: dict[str, Any] | None = None,
    background: Background = "gray",
    shard_mebibytes: float = 32,
    workers: int | None = None,
    cluster: SparkCluster | None = None,
    progress: bool = True,
) -> Prepared:
    """Write a dataset as TFRecord shards, from which training reads faster than from files.

    The same call continues an interrupted one.

    Args:
        dataset, data_dir, authentic: see `train`.
        output: folder for datasets; NAME/1.0.0 is made in it, which `train` and TensorFlow
            Datasets read.
        size: store copies of this size in pixels, one number or (height, width).
        resize: how to bring images to `size`: as data.resize of an experiment.
        encode: "keep" the files' bytes, or store copies as "png" or "jpeg".
        quality: JPEG quality, 1 to 100.
        foreground: "objects", "panoptic", "yolo" or "person", a mask maker of `synthesize`: only
            what it finds stays of an image, and images in which it finds nothing are left out.
            Copies are stored as png where `encode` is "keep".
        mask_options: arguments of the mask maker, for example {"model": "selfie.tflite"}.
        background: with `foreground`, fill the background with "gray" (128), or "keep" it, to
            train on the same images with it.
        shard_mebibytes: size of a shard.
        workers: shards written at a time; by default one per core.
        cluster: a Spark cluster that reads the files and writes the shards, which are those of one
            machine; every machine needs dataset, output and the cluster's folder, by default
            `output` with the ending .parts, under the same paths.
        progress: whether to show progress.

    Returns:
        Number of images and shards, and the folder.

    Raises:
        UserError: the dataset cannot be read, or there is another one in the folder.
    """
    if foreground is not None:
        from tfdetect.core.registry import FOREGROUND_MASKS

        if foreground not in FOREGROUND_MASKS:
            raise unknown("mask maker that finds a foreground", foreground, FOREGROUND_MASKS)
        if cluster is not None:
            raise UserError(
                "--foreground takes no --spark: its network runs in the command itself."
            )
    if background not in get_args(Background):
        raise unknown("background", background, get_args(Background))
    if shard_mebibytes <= 0:
        raise UserError(f"shard_mebibytes must be above 0. Received: {shard_mebibytes}.")
    plan = plan_of(dataset, None, None, (), data_dir, authentic)
    check_writable(user_path(output))
    import_tensorflow()
    from tfdetect.data.plan import find_data, roots_of
    from tfdetect.data.prepare_dataset import write_shards
    from tfdetect.data.shard_writer import Copies

    remove = how = None
    if foreground is not None:
        from tfdetect.synthesis.foreground import Foreground

        remove = Foreground(foreground, mask_options or {}, background)
        how = f"{foreground} {mask_options or ''}, background: {background}"
        encode = "png" if encode == "keep" else encode
    copies = Copies((size, size) if isinstance(size, int) else size, resize, encode, quality, how)
    with writing_on(cluster, user_path(output), roots_of(plan), progress) as jobs:
        return write_shards(
            find_data(plan, progress, console.log if progress else None), plan.spec,
            user_path(output), copies, shard_bytes=round(shard_mebibytes * 2**20),
            workers=workers or len(allowed_cores()), progress=progress, remove_background=remove,
            elsewhere=None if jobs is None else jobs.write_shards,
        )  # fmt: skip


@checked
def synthesize(
    source: str | Path,
    output: str | Path,
    settings: SynthesisSettings | None = None,
    *,
    workers: int | None = None,
    autoencoder_steps: int = 1500,
    cluster: SparkCluster | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Make forgeries with masks out of photographs: a dataset to train and test localizers on.

    The same call continues an interrupted one.

    Args:
        source: folder of photographs.
        output: folder of the new dataset.
        settings: masks, fills and more; a `tfdetect.synthesis.settings.Settings`.
        workers: processes; by default one per core.
        autoencoder_steps: training steps of the autoencoder, if a fill needs one.
        cluster: a Spark cluster that makes the forgeries, except for those that need a network;
            every machine needs source, output and the cluster's folder, by default `output` with
            the ending .parts, under the same paths.
        progress: whether to show progress.

    Returns:
        One row per forgery, with its `error` if it could not be made.

    Raises:
        UserError: no photographs, or none that can be altered.
    """
    from tfdetect.synthesis.settings import WITH_MODEL, Settings

    settings = settings or Settings()
    if not storage.fetched(user_path(source)).is_dir():
        raise UserError(f"There is no folder {source}.")
    check_writable(user_path(output))
    if set(WITH_MODEL) & {*settings.fills, *settings.masks}:
        import_tensorflow()
    from tfdetect.synthesis import synthesize_dataset

    arguments = (
        user_path(source), user_path(output), settings, workers or len(allowed_cores()),
        autoencoder_steps, progress,
    )  # fmt: skip
    with writing_on(cluster, user_path(output), {"": user_path(source)}, progress) as jobs:
        elsewhere = None if jobs is None else jobs.make_forgeries
        return synthesize_dataset.synthesize(*arguments, elsewhere=elsewhere)
