"""The road from runs to an ensemble: score images, fit, measure, build, leave a run."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from tfdetect.core.errors import UserError
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import Run
from tfdetect.core.run_info import RunInfo, TrainingImages
from tfdetect.core.run_writer import RunWriter, write_info
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.catalog import Catalog, build_catalog
from tfdetect.data.plan import dataset_info, make_plan, roots_of
from tfdetect.fusion.fusions import FUSIONS, Fusion, Scores, fit, used
from tfdetect.fusion.members import Members, open_members


def find_data(
    members: Members, dataset: str | None, data_dir: Path | None, authentic: str | None
) -> tuple[DatasetSpec, Catalog]:
    """The data to fuse on: a dataset, or all that the members were trained on.

    Raises:
        UserError: it has no validation split, or other classes than the members.
    """
    if dataset is None:
        dataset = "+".join(dict.fromkeys(_trained_on(run) for run in members.runs))
    plan = make_plan(dataset, None, [], data_dir, authentic)
    roots = {name: root for run in members.runs for name, root in run.roots.items()
             if root.is_dir() and not data_dir}  # fmt: skip
    plan = replace(plan, folders={**roots, **plan.folders})
    classes = plan.spec.class_names
    if len(classes) != len(members.classes):
        raise UserError(
            f"The members have the classes {', '.join(members.classes)}, but {plan.spec.name} has "
            f"{', '.join(classes)}. Name another --dataset."
        )
    catalog = build_catalog(plan.spec, roots_of(plan))
    labels = catalog.split("validation")["label"].to_numpy()
    if len(np.unique(labels > 0)) < 2:
        raise UserError(f"The validation split of {plan.spec.name} lacks a class to fuse on.")
    return plan.spec, catalog


def _trained_on(run: Run) -> str:
    """The dataset of a run, as `--dataset` takes it."""
    named = None if run.is_ensemble else run.experiment().data.dataset
    if named is None or not (run.path / "dataset.yaml").is_file():
        raise UserError(f"{run.name} was trained on no dataset that is known here. Give --dataset.")
    return named


def score(
    network, members: Members, catalog: Catalog, splits: tuple[str, ...], batch_size: int = 64
) -> dict[str, Scores]:
    """What the members say of each split's images, in one pass; unreadable ones are left out."""
    import tensorflow as tf
    from tqdm import tqdm

    from tfdetect.data.loading import view_dataset
    from tfdetect.data.sources import image_source

    model = network.scores()

    @tf.function(reduce_retracing=True)
    def answer(views: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        if len(views) == 1:
            [windows] = views
            _, count, *shape = windows.shape
            found = model(tf.reshape(tf.cast(windows, tf.float32), [-1, *shape]), training=False)
            return tuple(
                tf.reduce_mean(tf.reshape(found[k], [-1, count, found[k].shape[-1]]), axis=1)
                for k in ("odds", "features")
            )
        parts = [tf.cast(v[:, 0] if v.shape[1] == 1 else v, tf.float32) for v in views]
        found = model(parts, training=False)
        return found["odds"], found["features"]

    scores = {}
    for split in splits:
        rows = catalog.split(split)
        if not rows.num_rows:
            continue
        indices, odds, features = [], [], []
        bar = tqdm(total=rows.num_rows, desc=f"scoring {split}", unit=" images", disable=None,
                   delay=1)  # fmt: skip
        with bar:
            for index, views in view_dataset(
                image_source(catalog, rows), members.views, batch_size
            ):
                both = answer(views)
                indices.append(index.numpy())
                odds.append(both[0].numpy())
                features.append(both[1].numpy())
                bar.update(len(index))
        if not indices:
            raise UserError(f"None of the images of {split} can be read.")
        kept = np.concatenate(indices)
        table = rows.take(kept)
        scores[split] = Scores(
            np.concatenate(odds).astype(np.float64), table["label"].to_numpy() > 0,
            *(np.array(table[name].to_pylist(), object) for name in ("group", "dataset")),
            np.concatenate(features),
        )  # fmt: skip
    return scores


def fuse(
    members: Members, wanted: str, spec: DatasetSpec, catalog: Catalog, path: Path,
    masks: bool, batch_size: int, epochs: int, rate: float, say=print,
) -> tuple[Run, str]:  # fmt: skip
    """Fuses runs into one, and measures what that gains.

    Args:
        wanted: one of `FUSIONS`; the others are measured beside it.
        epochs: of fine-tuning all of it, 0 for none.

    Returns:
        The run, and tables for the terminal.
    """
    from tfdetect.fusion import fusion_report as report
    from tfdetect.fusion.network import Network

    network = Network(members, masks)
    scores = score(network, members, catalog, ("validation", "test"), batch_size)
    # A gate of many members takes long; it is fitted if it is asked for.
    names = [n for n in FUSIONS if n != "gated" or n == wanted or len(members.runs) <= 4]
    fusions = {name: fit(name, scores["validation"]) for name in names}
    measured = report.measure(scores, fusions, members.names, wanted)
    found = report.results(measured)
    kept, detector, fusion = build(members, network, fusions[wanted], path.name, masks)
    if epochs:
        from tfdetect.fusion.fine_tune import fine_tune

        detector = fine_tune(detector, kept.views, len(kept.classes), catalog, epochs, rate,
                             batch_size, say)  # fmt: skip
    spent = report.cost(members, network.parameters, detector, kept.views)
    shared = ", ".join(f"{members.names[a]} and {members.names[b]}" for a, b in network.shared)

    warnings = _warnings(members, spec, kept, wanted, epochs)

    def tell(run: Run) -> None:
        report.write(run.path, found, measured, spent, warnings, spec.name, shared)

    run = write_run(path, kept, detector, fusion, spec, catalog, masks, tell, say)
    return run, report.terminal(found, spent)


def _warnings(
    members: Members, spec: DatasetSpec, kept: Members, wanted: str, epochs: int
) -> list[str]:
    found = []
    own = {part.spec.name for part in spec.parts} or {spec.name}
    selected = [
        name for name, run in zip(members.names, members.runs)
        if run.info.dataset.name in own
    ]  # fmt: skip
    if selected:
        found.append(
            f"The best epochs of {', '.join(selected)} were chosen on images of this validation "
            "split, so that validation flatters them, and the weights may favor them a little."
        )
    if members.masked and any(view.policy.startswith("window") for view in members.views):
        found.append(
            "Members read whole images by tiles, but the weights and these tables are of their "
            "middle windows; report.html has the figures of whole images."
        )
    if len(kept.runs) < len(members.runs):
        gone = [n for n in members.names if n not in kept.names]
        found.append(f"Left out, as their weight is next to nothing: {', '.join(gone)}.")
    if wanted == "fisher":
        found.append(
            "Fisher's method is for fakes of kinds that this validation split lacks. What it gains "
            "there these tables cannot show; what it costs here they do. Evaluate it on such a set."
        )
    if epochs:
        found.append(f"The tables are of the members as they were; the run was then trained for "
                     f"{epochs} epochs more. Its own figures stand in report.html.")  # fmt: skip
    return found


def build(
    members: Members, network, fusion: Fusion, name: str, masks: bool
) -> tuple[Members, object, Fusion]:
    """The fused detector, without members that have next to no weight.

    Returns:
        The members that are left, the detector, and their fusion.
    """
    from tfdetect.fusion.network import Network

    kept = used(fusion)
    if 2 <= kept.sum() < len(kept):
        members = open_members([run.path for run, k in zip(members.runs, kept) if k])
        fusion = replace(
            fusion, temperatures=fusion.temperatures[kept], weights=fusion.weights[kept]
        )
        network = Network(members, masks)
    return members, network.fused(fusion, name, members.place), fusion


def write_run(
    path: Path, members: Members, detector, fusion: Fusion, spec: DatasetSpec,
    catalog: Catalog, masks: bool, report, say=print,
) -> Run:  # fmt: skip
    """Leaves the ensemble as a run: model, SavedModel, predictions, metrics, reports.

    Args:
        report: called with the run's folder, to write the report on the fusion.
    """
    from tfdetect.evaluation.evaluate_run import Calibrate, evaluate_run
    from tfdetect.models.saved_model import export_saved_model
    from tfdetect.models.saving import write_model

    writer = RunWriter(path)
    writer.acquire()
    try:
        writer.write_text(
            "ensemble.yaml", yaml.safe_dump(_document(members, fusion), sort_keys=False)
        )
        writer.write_text("dataset.yaml", spec.to_yaml())
        write_model(detector, writer.path / "model.keras")
        run = writer.begin(
            RunInfo(
                status="complete",
                class_names=tuple(members.classes),
                views=tuple(members.views),
                predicts_masks=bool(masks and members.masked),
                fusion=fusion.name,
                members=tuple(members.names),
                dataset=dataset_info(spec, catalog, training_images_of(members.runs)),
                parameters=detector.count_params(),
                command=command_line("ensemble"),
                **provenance(),
            )
        )
        run = evaluate_run(run, catalog, log=say, calibrate=Calibrate()).run
        write_info(run)
        export_saved_model(run)
        report(run)
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def training_images_of(runs: list[Run]) -> TrainingImages:
    """Return what the members were trained on; empty where one of them does not say."""
    every = [run.info.dataset.training_images for run in runs]
    if not all(every):
        return TrainingImages()
    sides = [images.shorter_side for images in every]
    side = None
    if all(sides):
        smallest, middle, largest = zip(*sides)
        side = (min(smallest), int(np.median(middle)), max(largest))
    return TrainingImages(
        generators=tuple(dict.fromkeys(name for images in every for name in images.generators)),
        formats=tuple(dict.fromkeys(name for images in every for name in images.formats)),
        shorter_side=side,
    )


def _document(members: Members, fusion: Fusion) -> dict:
    """What the ensemble is made of."""
    return {
        "fusion": fusion.name,
        "bias": round(float(fusion.bias), 6),
        "members": [
            {
                "name": name, "run": str(run.path),
                "dataset": run.info.dataset.name,
                "model": hashlib.sha256(run.model_path.read_bytes()).hexdigest()[:16],
                "temperature": round(float(t), 6), "weight": round(float(w), 6),
                "view": {"size": list(view.size), "policy": view.policy, "crops": view.crops},
            }
            for name, run, t, w, view in zip(
                members.names, members.runs, fusion.temperatures, fusion.weights,
                [members.views[place] for place in members.place],
            )
        ],
    }  # fmt: skip
