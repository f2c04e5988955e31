"""`tfdetect matrix`: train on each generator or fill, test on all of them."""

import sys

from tfdetect.core import cli, console
from tfdetect.core.run_command import continuing, run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect matrix",
        description="Measure how well detectors generalize to unseen generators: train one "
        "detector on each generator of a dataset (or on all but one), test each on every one, and "
        "write the table with intervals, a heat map, CSV and LaTeX. For detectors that predict "
        "masks, the table is about IoU and pixel AP: train on each fill of a dataset that "
        "'tfdetect synthesize' made, test on all.\n\n"
        "The same command continues an interrupted one; finished runs are reused.",
        examples=[
            ("tfdetect matrix --dataset genimage --leave-one-out",
             "how good on a generator that was not in training?"),
            ("tfdetect matrix --dataset path/to/folder --by 'fake/([^/]+)/'",
             "your own folders: the part is the folder below fake/"),
            ("tfdetect matrix --dataset path/to/forged --experiment localizer_small",
             "how well a localizer finds fills that it was not trained on"),
            ("tfdetect matrix --dataset path/to/forged --experiment localizer_small --by "
             "'(realfake|fakefake)'",
             "the same by kind: new content (realfake), or only re-encoded (fakefake)"),
            ("tfdetect matrix --dataset genimage --spark spark://host:7077",
             "the trainings divided among the machines of a Spark cluster"),
            ("tfdetect matrix --clusters genimage_resnet50",
             "which generators belong together, by a published matrix"),
        ],
    )  # fmt: skip
    cli.add_dataset(p.add_argument_group("dataset"), "Images of several generators (default: those "
                    "of the experiment)")  # fmt: skip
    cli.add_experiment(p.add_argument_group("experiment"))
    how = p.add_argument_group("matrix")
    how.add_argument("--by", default="generator", metavar="WHAT", help="what the parts are: "
                     "generator, dataset (the parts of A+B), or a regular expression on paths "
                     "whose group names the part (default: generator)")  # fmt: skip
    how.add_argument("--leave-one-out", action="store_true",
                     help="train on all parts but one, instead of on one")  # fmt: skip
    how.add_argument("--leave-sources-out", action="store_true", help="with --leave-one-out: each "
                     "training also lacks some sources of authentic images (the column generator "
                     "of authentic images), and is tested on them")  # fmt: skip
    how.add_argument("--published", metavar="TABLE", help="a published table to show for "
                     "comparison: genimage_resnet50, or a CSV file")  # fmt: skip
    how.add_argument("--clusters", metavar="MATRIX", help="train nothing; draw which generators "
                     "belong together by a finished matrix: its folder, a published table or a CSV "
                     "file. Writes clusters.png and clusters.json into --output")  # fmt: skip
    cli.add_devices(p.add_argument_group("devices"))
    out = p.add_argument_group("output")
    cli.add_runs_folder(out, "matrix-EXPERIMENT-DATASET")
    out.add_argument("--dry-run", action="store_true", help="print which trainings there would be, "
                     "and which finished runs would be reused, and stop")  # fmt: skip
    cli.add_json(out)
    cli.add_quiet(out)
    cli.add_spark(p.add_argument_group("cluster"), "FOLDER.parts beside the matrix's folder")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    cluster = cli.chosen_cluster(args)

    from tfdetect import api

    if args.clusters is not None:
        found = api.cluster_generators(args.clusters, output=args.output)
        if args.json:
            return console.print_json(found)

        from tfdetect.generalization.clusters import format_clusters

        console.result(format_clusters(found))
        return console.result(f"\nfigure  {args.output / 'clusters.png'}")
    with continuing("Finished trainings are"):
        results = api.matrix(
            args.dataset, args.experiment, model=args.model, overrides=args.overrides,
            data_dir=args.data_dir, authentic=args.authentic, by=args.by,
            leave_one_out=args.leave_one_out, leave_sources_out=args.leave_sources_out,
            published=args.published, gpus=args.gpus, gpu_memory_limit=args.gpu_memory_limit,
            output=args.output, name=args.name, cluster=cluster, dry_run=args.dry_run,
            progress=not args.quiet,
        )  # fmt: skip
    values = results.values
    if "trainings" in values:
        from tfdetect.generalization.planned import show_planned

        return show_planned(values, "matrix", args.json)
    if args.json:
        return console.print_json(values)

    from tfdetect.generalization.matrix_report import format_matrix

    console.result(format_matrix(values))
    console.result(f"\nreport  {results.report}")


if __name__ == "__main__":
    sys.exit(run_command(main))
