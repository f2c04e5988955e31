"""`tfdetect train`: train a detector on a dataset and leave a run."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.core import cli, console
from tfdetect.core.run_command import EXIT_INTERRUPTED, run_command
from tfdetect.core.text import shell_command

if TYPE_CHECKING:
    from tfdetect.core.run import Run
    from tfdetect.training.training_job import TrainingJob


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect train",
        description="Train a detector of fake images on a dataset. The result is a run: a "
        "folder with the model (Keras and SavedModel), calibrated probabilities, metrics on the "
        "test split and an HTML report.\n\n"
        "Ctrl-C stops a training, evaluates and keeps what it learned (exit code 130); --resume "
        "continues it.",
        examples=[
            ("tfdetect train --dataset demo",
             "first try, on the built-in demonstration; two to three minutes on a CPU"),
            ("tfdetect train --dataset path/to/folder",
             "your own images: one folder per class, e.g. real/ and fake/"),
            ("tfdetect train --dataset cifake --experiment cifake_small_resnet "
             "--set training.epochs=5",
             "a shipped dataset and experiment, with one value changed"),
            ("tfdetect train --dataset path/to/folder --model npr",
             "a published detector on your own images"),
            ("tfdetect train --from saved_models/RUN --dataset path/to/new --replay 0.3",
             "adapt a run to new images; says what it gained there and forgot of its old data"),
            ("tfdetect train --dataset path/to/folder --cluster 10.0.0.1:7000,10.0.0.2:7000 "
             "--task 0",
             "on two machines: the same command with --task 1 on the second"),
            ("srun --nodes 2 --ntasks-per-node 1 tfdetect train --dataset path/to/folder "
             "--cluster slurm",
             "on two machines of a Slurm cluster"),
            ("tfdetect train --dataset s3://bucket/prepared/mine --output s3://bucket/runs",
             "data and runs in an object store"),
        ],
    )  # fmt: skip
    data = p.add_argument_group("dataset")
    cli.add_dataset(data, "Images to train on (default: those that the experiment names)")
    data.add_argument("--strict", action="store_true", help="refuse data that a quick audit finds "
                      "unreliable, or in which the same image has two labels, instead of "
                      "warning")  # fmt: skip
    experiment = p.add_argument_group("experiment")
    cli.add_experiment(experiment)
    experiment.add_argument("--from", dest="from_run", metavar="RUN", help="start from a finished "
                            "run: its detector and preprocessing are kept, and it is trained with "
                            "the run's settings or, with --experiment, with those (default: "
                            "start a new detector)")  # fmt: skip
    experiment.add_argument("--replay", type=cli.fraction, metavar="FRACTION", help="with --from: "
                            "fraction of each batch that is drawn from the run's own training "
                            "data, so that it forgets less (default: 0)")  # fmt: skip
    devices = p.add_argument_group("devices")
    cli.add_devices(devices)
    devices.add_argument("--virtual-devices", type=cli.count, metavar="N",
                         help="train N replicas on virtual devices of the CPU, to test "
                         "training on several GPUs (default: none)")  # fmt: skip
    devices.add_argument("--cluster", metavar="HOST:PORT,...|slurm",
                         help="workers on several machines that train together; the first writes "
                         "the run; slurm for the tasks that srun started (default: TF_CONFIG, "
                         "else this process alone)")  # fmt: skip
    devices.add_argument("--task", type=cli.count_or_0, metavar="N",
                         help="number of this process in --cluster, from 0; needed with "
                         "addresses")  # fmt: skip
    out = p.add_argument_group("output")
    cli.add_runs_folder(out, "the experiment's")
    out.add_argument("--resume", nargs="?", const=True, default=False, metavar="RUN",
                     help="continue an interrupted run; without RUN the latest one of this "
                     "experiment")  # fmt: skip
    out.add_argument("--dry-run", action="store_true", help="print the data, the detector, how it "
                     "would be trained and where the run would be, and stop")  # fmt: skip
    out.add_argument("--show-config", action="store_true", help="with --dry-run: print every "
                     "setting of the experiment, too, as YAML")  # fmt: skip
    cli.add_no_images(out)
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from tfdetect.api.training_functions import prepare_training, run_training
    from tfdetect.core.cluster import parse_cluster
    from tfdetect.core.errors import UserError

    if args.show_config and not args.dry_run:
        raise UserError("--show-config is for --dry-run.")
    cluster = parse_cluster(args.cluster, args.task, os.environ)
    quiet: dict[str, Any] = {"progress": not args.quiet}
    if args.dry_run:
        cluster = None  # it starts nothing, so it waits for nobody
    if cluster is not None and not cluster.is_chief:  # the chief says the same
        console.log(
            f"worker {cluster.task} of {len(cluster)}; {cluster.addresses[0]} writes the run"
        )
        quiet = {"progress": False, "log": lambda text: None}
    job = prepare_training(
        args.dataset, args.experiment, model=args.model, from_run=args.from_run,
        replay=args.replay, overrides=args.overrides, data_dir=args.data_dir,
        authentic=args.authentic, output=args.output, name=args.name, resume=args.resume,
        gpus=args.gpus, gpu_memory_limit=args.gpu_memory_limit,
        virtual_devices=args.virtual_devices, cluster=cluster, strict=args.strict, **quiet,
    )  # fmt: skip
    if args.dry_run:
        _show_plan(job, args)
        return 0
    if not job.devices.is_chief:
        from tfdetect.train_run import assist_run

        assist_run(job)
        return 0
    run = run_training(job, images_in_report=not args.no_images)
    if args.json:
        _print_json(run)
    else:
        _show_run(run)
    return EXIT_INTERRUPTED if run.info.status == "interrupted" else 0


def _show_plan(job: "TrainingJob", args: argparse.Namespace) -> None:
    """Print what a training would do, and the command that does it."""
    from tfdetect.api.training_plan import describe_job, job_document
    from tfdetect.core.provenance import command_line

    if args.json:
        console.print_json(job_document(job))
        return
    for heading, text in describe_job(job).items():
        console.result(f"{heading:<12}{text}")
    if args.show_config:
        console.result(f"\n{job.plan.experiment.to_yaml()}")
    command = command_line("train", without=("--dry-run", "--show-config"))
    console.result(f"{'next':<12}{command}")


def _print_json(run: "Run") -> None:
    from tfdetect.evaluation.summary import summary

    console.print_json({
        "run": run.path, "status": run.info.status, "test": summary(run.results, "test"),
        "report": _report_of(run), "transfer": run.transfer,
    })  # fmt: skip


def _show_run(run: "Run") -> None:
    """Print the results of a run, its files, and the next command."""
    from tfdetect.evaluation.result_tables import transfer_tables, warnings_of
    from tfdetect.evaluation.summary import summary_rows
    from tfdetect.evaluation.training_history import training_warnings

    if "test" in run.results:
        console.table(summary_rows(run.results), title="Results on the test split")
        console.result()
        for warning in warnings_of("test", run.results["test"]):
            console.result(f"warning: {warning}")
    for warning in training_warnings(run, run.results):
        console.result(f"warning: {warning}\n")
    for found in transfer_tables(run.transfer):
        console.table(found.rows, found.headers, title=found.title)
        console.result()
    console.result(f"run     {run.path}")
    if report := _report_of(run):
        console.result(f"report  {report}")
    if run.info.status == "interrupted":
        console.result(f"next    {shell_command('train', resume=run.path)}   (continue)")
    elif run.info.pretraining:
        weights = f"model.weights={run.path}"
        console.result(f"next    {shell_command('train', '--set', weights)} ...")
    else:
        console.result(f"next    {shell_command('predict', run.path, 'IMAGE_OR_FOLDER')}")


def _report_of(run: "Run") -> Path | None:
    report = run.path / "report.html"
    return report if report.is_file() else None


if __name__ == "__main__":
    sys.exit(run_command(main))
