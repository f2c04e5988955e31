"""The road from an experiment to a finished run, in the order things happen."""

import csv
import hashlib
import io
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tfdetect.data import hubs
from tfdetect.data.catalogue import Catalogue, build_catalogue, check_trainable
from tfdetect.data.locate import locate
from tfdetect.documents import read_yaml, validate
from tfdetect.errors import UserError
from tfdetect.experiment import Experiment, load_experiment, load_model, override, with_model
from tfdetect.run import PARTIAL, SCHEMA, Run, RunWriter, provenance
from tfdetect.spec import DatasetSpec, load_spec


@dataclass(frozen=True)
class Plan:
    """What a training will do: resolved and checked, nothing started.

    Attributes:
        folders: folder of each dataset that was named by its path, or is known.
        data_dir: where else to look, from --data-dir.
        chosen: how the experiment was chosen, to tell the user.
    """

    experiment: Experiment
    spec: DatasetSpec
    folders: dict[str, Path]
    data_dir: Path | None
    chosen: str


def make_plan(
    dataset: str | None = None,
    experiment: str | None = None,
    overrides: list[str] = (),
    data_dir: Path | None = None,
    authentic: str | None = None,
    model: str | None = None,
) -> Plan:
    """Resolves names and overrides; imports no TensorFlow.

    Args:
        model: a published detector: with its own experiment, or in that of `experiment`.

    Raises:
        UserError: an unknown dataset, experiment or key, or an illegal value.
    """
    if experiment is None and dataset is None:
        raise UserError("Give --dataset, --experiment or both. For a first try: --dataset demo")
    published = load_model(model) if model else None
    if experiment is not None and dataset is None:
        dataset = load_experiment(experiment).data.dataset
        if dataset is None:
            raise UserError(f"The experiment {experiment!r} names no dataset. Give --dataset.")
    spec, folders = load_spec(_local(dataset), authentic)
    if published is None:
        chosen = "as asked" if experiment else f"the default of {spec.name}"
        resolved = load_experiment(experiment or spec.experiment, overrides)
    elif experiment is None:
        chosen, resolved = "its own recipe", load_experiment(model, overrides)
    else:
        chosen = f"in the experiment {experiment}"
        resolved = override(with_model(load_experiment(experiment), published), overrides)
    is_path = Path(dataset).exists()
    data = resolved.data.model_copy(
        update={"dataset": str(Path(dataset).resolve()) if is_path else dataset}
    )
    return Plan(resolved.model_copy(update={"data": data}), spec, folders, data_dir, chosen)


def find_data(plan: Plan, progress: bool = True) -> Catalogue:
    """Locates the planned dataset, downloading it if need be, and builds its catalogue."""
    catalogue = build_catalogue(plan.spec, roots_of(plan), progress)
    check_trainable(plan.spec, catalogue)
    return catalogue


def check_believable(plan: Plan, catalogue: Catalogue, strict: bool = False) -> None:
    """Warns of what a quick audit finds wrong with the planned data.

    Raises:
        UserError: strict, and results from this data should not be believed.
    """
    from tfdetect.audit.findings import NOTE, REFUSE
    from tfdetect.audit.workflow import quick_findings

    if plan.spec.pretraining:  # no label that anything could give away
        return
    found = [f for f in quick_findings(plan.spec, catalogue) if f.level != NOTE]
    refused = [f.text for f in found if f.level == REFUSE]
    whole = f"The whole audit: python -m tfdetect.audit --dataset {plan.experiment.data.dataset}"
    if refused and strict:
        lines = "".join(f"\n  {text}" for text in refused)
        raise UserError(f"Results from {catalogue.name} should not be believed:{lines}\n{whole}")
    for finding in found:
        print(f"warning: {catalogue.name}: {finding.text}", file=sys.stderr)
    if found:
        print(f"{whole}", file=sys.stderr)


def _local(dataset: str) -> str:
    """The same with what hubs hold brought into folders."""
    if not any(prefix in dataset for prefix in hubs.PREFIXES) or Path(dataset).exists():
        return dataset
    return "+".join(map(hubs.unpack, dataset.split("+")))


def locate_dataset(
    dataset: str, data_dir: Path | None = None, authentic: str | None = None
) -> tuple[DatasetSpec, dict[str, Path]]:
    """Resolves `--dataset`: its spec and its folder, or that of each part, by name."""
    spec, folders = load_spec(_local(dataset), authentic)
    return spec, _find_roots(spec, folders, data_dir)


def roots_of(plan: Plan) -> dict[str, Path]:
    """The folder of the planned dataset, or of each part of a union, by its name."""
    return _find_roots(plan.spec, plan.folders, plan.data_dir)


def _find_roots(
    spec: DatasetSpec, folders: dict[str, Path], data_dir: Path | None
) -> dict[str, Path]:
    """The folder of a dataset, or of each part of a union, by its name."""
    specs = [part.spec for part in spec.parts] or [spec]
    return {s.name: folders.get(s.name) or locate(s, data_dir) for s in specs}


def load_plan(path: Path) -> Plan:
    """The plan of an unfinished or interrupted run, to resume it.

    Raises:
        UserError: nothing there to resume.
    """
    partial = path if path.name.endswith(PARTIAL) else path.with_name(path.name + PARTIAL)
    folder = partial if partial.is_dir() else path
    if not (folder / "experiment.yaml").is_file() or not (folder / "run.json").is_file():
        raise UserError(f"There is no unfinished run at {path}.")
    if folder is path and not (folder / "state").is_dir():
        raise UserError(f"The run {path} is complete; there is nothing to resume.")
    files = {name: folder / f"{name}.yaml" for name in ("experiment", "dataset")}
    models = {"experiment": Experiment, "dataset": DatasetSpec}
    parts = {
        name: validate(models[name], read_yaml(file), str(file), file)
        for name, file in files.items()
    }
    roots = Run(folder, read_yaml(folder / "run.json")).roots
    return Plan(parts["experiment"], parts["dataset"], roots, None, "of the run")


def train_run(
    plan: Plan,
    catalogue: Catalogue,
    path: Path,
    devices,
    pictures: bool = True,
    verbose: int = 1,
    say=print,
    tell: Callable[[int, float], bool] | None = None,
    trial: str | None = None,
    command: str | None = None,
) -> Run:
    """Trains, saves, exports and evaluates; resumes where `path` has a state.

    Args:
        path: the run's final folder.
        devices: from `configure_devices`.
        pictures: whether the report may show images of the dataset.
        verbose: Keras's, 0 to 2.
        tell: called after each epoch with its number and the monitored value; where it returns
            true, the training ends.
        trial: of a search, the command that would repeat it: measured on validation alone,
            without report and SavedModel.
        command: that would repeat it; by default the one that this process was started with.

    Returns:
        The finished run, of status "complete" or, after Ctrl-C, "interrupted".
    """
    from tfdetect.data.pipeline import training_data, untouched_images, validation_data
    from tfdetect.evaluation.evaluate import Calibrate, evaluate_run
    from tfdetect.models.saved_model import export_saved_model
    from tfdetect.training.fit import fit, prepare, save_detector

    experiment, classes = plan.experiment, len(plan.spec.class_names)
    writer = RunWriter(path)
    writer.acquire()
    try:
        _begin(writer, plan, catalogue, devices, trial or command or command_line("train"))
        skipped = _Skipped(writer, catalogue)

        writer.update_info(precision=prepare(experiment, devices, say))
        with_masks = experiment.model.mask_head is not None
        data = training_data(
            catalogue, catalogue.split("train"), experiment.data, classes,
            experiment.training.batch_size, experiment.seed, with_masks,
        )  # fmt: skip
        skipped.add(data.broken)
        held_out = validation_data(
            catalogue, catalogue.split("validation"), experiment.data, classes,
            experiment.training.batch_size, with_masks,
        )  # fmt: skip

        def untouched():
            return untouched_images(
                catalogue, catalogue.split("train"), experiment.data, experiment.training.batch_size
            )

        def told(epoch: int, value: float) -> bool:
            stop = tell is not None and tell(epoch, value)
            if stop:
                writer.update_info(stopped_early=True)
            return stop

        detector, state, interrupted = fit(
            experiment, classes, data, held_out, untouched, devices, writer.path, skipped.add, say,
            verbose, told,
        )  # fmt: skip

        save_detector(detector, writer.path / "model.keras")
        writer.write_text("history.csv", _csv(state.history))
        status = "interrupted" if interrupted else "complete"
        info = writer.update_info(
            status=status,
            epochs=state.epoch,
            best=state.best,
            training_seconds=round(state.seconds),
            parameters=detector.count_params(),
        )
        run = Run(writer.path, info)
        if trial is not None:
            evaluate_run(run, catalogue, ("validation",), say=say, report=False)
        elif plan.spec.pretraining:
            say(f"weights for other trainings: --set model.weights={writer.final}")
        else:
            evaluate_run(run, catalogue, pictures=pictures, say=say, calibrate=Calibrate())
            export_saved_model(run.reread())
        if not interrupted:
            state.remove()
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def convert_run(
    weights: Path, experiment: Experiment, path: Path, names: Path | None = None
) -> Run:
    """Makes a run, of status "converted", of published PyTorch weights.

    What went where is in the run's conversion.csv: ours, theirs, and whether it was matched by
    its name or, where names are not known, by order and shape.

    Args:
        weights: their file.
        experiment: of the published detector.
        path: the run's folder.
        names: such a table, to be followed instead.

    Raises:
        UserError: the file cannot be read, or holds other weights.
    """
    from tfdetect.models.detector import build_detector
    from tfdetect.models.saved_model import export_saved_model
    from tfdetect.models.weights import convert, convertible, read_state
    from tfdetect.training.fit import save_detector

    name = experiment.name
    if name not in convertible():
        raise UserError(
            f"The published weights of {name} cannot be converted. Those of "
            f"{', '.join(convertible())} can."
        )
    wanted = _read_names(names) if names else {}
    state = read_state(weights)
    changes = {} if name == "probe" else {"weights": "none"}  # its file has the head alone
    if name == "f3net":
        changes["options"] = {**experiment.model.options, "public_code": True}
    model = experiment.model.model_copy(update=changes)
    experiment = experiment.model_copy(update={"model": model})
    detector = build_detector(experiment, 2)
    matched = [
        {"ours": ours, "theirs": theirs, "by": "name" if known else "order"}
        for ours, theirs, known in convert(detector, name, state, wanted)
    ]
    writer = RunWriter(path)
    writer.acquire()
    try:
        writer.write_text("experiment.yaml", experiment.to_yaml())
        writer.write_text("conversion.csv", _csv(matched))
        save_detector(detector, writer.path / "model.keras")
        info = writer.update_info(
            schema=SCHEMA, status="converted", classes=["real", "fake"],
            image_size=list(experiment.data.image_size), resize=experiment.data.resize,
            crops=experiment.data.test_crops, threshold=0.5,
            dataset={"name": f"published weights of {name}", "roots": {}, "counts": {},
                     "fingerprint": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
                     "skipped": 0, "warnings": []},
            seed=experiment.seed, devices="-", command=command_line("convert"), **provenance(),
        )  # fmt: skip
        export_saved_model(Run(writer.path, info))
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def is_matched_by_order(run: Run) -> bool:
    """Whether some of a converted run's weights were matched by order and shape."""
    return ",order\n" in (run.path / "conversion.csv").read_text(encoding="utf-8")


def _read_names(file: Path) -> dict[str, str]:
    """The published name of each of our variables, of a table as conversion.csv."""
    try:
        with file.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not rows or not {"ours", "theirs"} <= rows[0].keys():
        raise UserError(f"{file} needs the columns ours and theirs, as a run's conversion.csv.")
    return {row["ours"]: row["theirs"] for row in rows}


def _begin(writer: RunWriter, plan: Plan, catalogue: Catalogue, devices, command: str) -> None:
    """Writes what the run starts from, or checks that a resumed one starts from the same."""
    fingerprint = catalogue.fingerprint()
    if not writer.path.joinpath("run.json").exists() and (writer.final / "state").is_dir():
        writer.adopt()
    if (writer.path / "run.json").exists():
        before = Run(writer.path, read_yaml(writer.path / "run.json")).info["dataset"]
        if before["fingerprint"] != fingerprint:
            raise UserError(
                f"The data of {catalogue.name} changed since the run began (fingerprint "
                f"{before['fingerprint']}, now {fingerprint}). Start a new run."
            )
        return
    writer.write_text("experiment.yaml", plan.experiment.to_yaml())
    writer.write_text("dataset.yaml", plan.spec.to_yaml())
    writer.update_info(
        schema=SCHEMA,
        status="training",
        classes=list(plan.spec.class_names),
        image_size=list(plan.experiment.data.image_size),
        resize=plan.experiment.data.resize,
        crops=plan.experiment.data.test_crops,
        threshold=0.5,
        dataset={
            "name": plan.spec.name, "fingerprint": fingerprint,
            "roots": {name: str(root) for name, root in catalogue.roots.items()},
            "counts": catalogue.counts(plan.spec.class_names), "seen": catalogue.seen("train"),
            "skipped": catalogue.skipped.num_rows, "warnings": list(catalogue.warnings),
        },
        **({"pretraining": True} if plan.spec.pretraining else {}),
        seed=plan.experiment.seed,
        devices=devices.text,
        command=command,
        **provenance(),
    )  # fmt: skip


def command_line(name: str) -> str:
    """The command line that this process, a command of that name, was started with."""
    arguments = sys.argv[1:] if sys.argv[1:2] != [name] else sys.argv[2:]
    return shlex.join(["python", "-m", f"tfdetect.{name}", *arguments])


class _Skipped:
    """The run's list of files that could not be used, in skipped.csv."""

    def __init__(self, writer: RunWriter, catalogue: Catalogue):
        self._writer = writer
        self._rows = {row["path"]: row["error"] for row in catalogue.skipped.to_pylist()}
        self._write()

    def add(self, broken: dict[str, str]) -> None:
        """Lists files that broke after the scan, with the reasons."""
        if broken:
            self._rows |= {name: f"broke after the scan: {e}" for name, e in broken.items()}
            self._write()
            names = ", ".join(list(broken)[:3])
            print(f"\n{len(broken)} files became unreadable and are left out: {names}",
                  file=sys.stderr)  # fmt: skip

    def _write(self) -> None:
        rows = [{"path": path, "error": error} for path, error in self._rows.items()]
        self._writer.write_text("skipped.csv", _csv(rows, ["path", "error"]))


def _csv(rows: list[dict], columns: list[str] | None = None) -> str:
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def prepare_shards(
    plan: Plan, output: Path, copies, shard_bytes: int, workers: int, progress: bool = True
):
    """Writes the planned dataset as shards; see `data.shards.prepare`.

    Raises:
        UserError: it is prepared already.
    """
    from tfdetect.data.shards import prepare

    catalogue = find_data(plan, progress)
    if "shard" in catalogue.table.column_names:
        raise UserError(f"{catalogue.name} is prepared already. Start from its files.")
    return prepare(catalogue, plan.spec, output, copies, shard_bytes, workers, progress)


def synthesize(
    source: Path, output: Path, settings, workers: int, steps: int, progress: bool = True
) -> list[dict]:
    """Makes forgeries and draws contact_sheet.png of some; see `synthesis.forge`."""
    from tfdetect.evaluation.figures import forgeries, read_picture
    from tfdetect.synthesis import forge

    rows = forge.synthesize(source, output, settings, workers, steps, progress)
    by_fill = {fill: [r for r in rows if r["fill"] == fill and not r["error"]]
               for fill in settings.fills}  # fmt: skip
    some = [row for group in zip_longest(*by_fill.values()) for row in group if row][:8]
    pictures = [
        ([read_picture(path) for path in forge.files(output, row, settings)], row["fill"])
        for row in some
    ]
    forgeries(pictures).savefig(output / "contact_sheet.png", dpi=100)
    return rows


def describe_data(plan: Plan, catalogue: Catalogue) -> str:
    """One line on splits, classes and skipped files."""
    parts = [
        f"{split} {' + '.join(f'{count:,} {name}' for name, count in classes.items())}"
        for split, classes in catalogue.counts(plan.spec.class_names).items()
    ]
    if catalogue.skipped.num_rows:
        names = ", ".join(catalogue.skipped["path"].to_pylist()[:3])
        more = ", ..." if catalogue.skipped.num_rows > 3 else ""
        parts.append(f"{catalogue.skipped.num_rows} files skipped ({names}{more})")
    return "; ".join(parts)


def describe_plan(plan: Plan) -> str:
    """The resolved experiment and the size of its detector, for --dry-run."""
    from tfdetect.models.detector import build_detector, describe

    detector = build_detector(plan.experiment, len(plan.spec.class_names))
    return f"{plan.experiment.to_yaml()}\n{describe(detector)}"


def evaluation_data(
    run: Run, dataset: str | None, data_dir: Path | None, authentic: str | None,
    output: Path | None,
) -> tuple[DatasetSpec, dict[str, Path], Path]:  # fmt: skip
    """What to evaluate a run on: the spec, its folders by name, and where to write.

    Without `dataset` it is what the run was trained on: where it lay then, or,
    on another machine, where it is found now.
    """
    if dataset is not None:
        spec, roots = locate_dataset(dataset, data_dir, authentic)
        check_classes_fit(run, spec)
        return spec, roots, output or run.path / "evaluations" / spec.name
    file = run.path / "dataset.yaml"
    if not file.is_file():
        raise UserError(f"{run.name} was trained on no dataset that is known here. Give --dataset.")
    spec = validate(DatasetSpec, read_yaml(file), str(file), file)
    there = {name: root for name, root in run.roots.items() if root.is_dir() and not data_dir}
    return spec, _find_roots(spec, there, data_dir), output or run.path


def check_classes_fit(run: Run, spec: DatasetSpec) -> None:
    """Refuses a dataset whose number of classes is not the run's; names may differ.

    Raises:
        UserError: the numbers differ.
    """
    if len(spec.class_names) != len(run.classes):
        raise UserError(
            f"The run has the classes {', '.join(run.classes)}, but {spec.name} has "
            f"{', '.join(spec.class_names)}."
        )


def draw_augmentation(plan: Plan, catalogue: Catalogue, count: int, variants: int):
    """A sheet of training images: each as loaded, then as the policy changes it.

    Args:
        count: number of images, rows of the sheet.
        variants: number of changed pictures in each row.

    Returns:
        A PIL image. Masks are drawn in red where the dataset has any.

    Raises:
        UserError: none of the images can be read, or a step refuses.
    """
    import numpy as np
    import tensorflow as tf

    from tfdetect.data.pipeline import augment, check_policy, load_images
    from tfdetect.data.sources import image_source, mask_source
    from tfdetect.evaluation.figures import contact_sheet

    data, table = plan.experiment.data, catalogue.split("train")
    check_policy(data.augment)
    picked = np.random.default_rng(plan.experiment.seed).permutation(table.num_rows)[:count]
    table = table.take(np.sort(picked))
    drawn = mask_source(catalogue, table) if table["mask"].null_count < len(table) else None
    kept, images, masks = load_images(
        image_source(catalogue, table), data.image_size, data.resize, drawn
    )
    if not len(kept):
        raise UserError(f"None of {len(table)} images of {catalogue.name} can be read.")
    if masks is not None:
        masks = tf.constant(masks)
    targets = tf.one_hot(table["label"].to_numpy()[kept], len(plan.spec.class_names))
    columns = [(images, masks)]
    for number in range(variants):
        position = tf.constant(number * len(kept), tf.int64)
        changed, _, moved = augment(
            tf.constant(images), data.augment, data.image_size, plan.experiment.seed, position,
            targets, masks,
        )  # fmt: skip
        columns.append((changed.numpy(), moved))
    drawn = None if masks is None else np.stack([m for _, m in columns], axis=1)
    return contact_sheet(np.stack([i for i, _ in columns], axis=1), drawn)
