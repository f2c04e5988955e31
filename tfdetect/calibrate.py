"""`tfdetect calibrate`: make P(fake) of a run a probability, and choose its thresholds."""

import sys
from typing import get_args

from tfdetect.core import cli, console
from tfdetect.core.choices import CalibrationMethod, TilePooling
from tfdetect.core.run_command import run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect calibrate",
        description="Calibrate a run again: fit how scores become probabilities, choose the "
        "verdict threshold, the operating points and the abstention band, measure the run again "
        "and rewrite its exports. Training does so by itself on the validation split; this is "
        "for other images or settings. The run changes as a whole or not at all.",
        examples=[
            ("tfdetect calibrate saved_models/my_run --abstention-error 0.05",
             "a narrower range of inconclusive verdicts"),
            ("tfdetect calibrate saved_models/my_run --dataset path/to/folder",
             "on your own labeled images, none of which was used in training"),
            ("tfdetect calibrate saved_models/my_run --dataset path/to/photos --label authentic",
             "so that at most 5% of photographs like yours are called fake, and at least 90% of "
             "them get an empty mask"),
            ("tfdetect calibrate saved_models/my_run --cost 10 --threshold cost",
             "a false positive is ten times as bad as a missed fake"),
        ],
    )  # fmt: skip
    cli.add_run(p, ". It is changed; of one inside of an installed package or of a hub a copy "
                "below saved_models/ is")  # fmt: skip
    data = p.add_argument_group("images")
    cli.add_dataset(data, "Images to calibrate on, which the run was not trained on (default: the "
                    "run's own dataset)")  # fmt: skip
    data.add_argument("--label", metavar="CLASS", help="class of all images of a --dataset folder "
                      "without class folders: authentic, or a class of the run")  # fmt: skip
    cli.add_split(data, "default: validation; of other images that have no splits, and of "
                  "authentic images alone, all", ("train", "validation", "all"))  # fmt: skip
    how = p.add_argument_group("calibration")
    how.add_argument("--method", choices=get_args(CalibrationMethod), default="auto",
                     help="calibration method (default: auto, the one that does best in "
                     "cross-validation; on up to 100 other images shift, which adds one constant "
                     "to the logit, unless its 95%% interval contains 0)")  # fmt: skip
    how.add_argument("--threshold", metavar="RULE", help="how to choose the verdict threshold: "
                     "balanced (best balanced accuracy), eer, fpr_1, fpr_5, source_fpr_5 (at most "
                     "5%% false positives on sources not seen before), cost, or a number from 0 to "
                     "1 (default: as the run's experiment says, else balanced). With authentic "
                     "images alone, which choose a threshold themselves, it is taken where it is "
                     "higher")  # fmt: skip
    how.add_argument("--false-positive-rate", type=float, metavar="RATE", help="with authentic "
                     "images alone: choose the threshold so that at most this fraction of new "
                     "images like them is called fake (default: 0.05)")  # fmt: skip
    how.add_argument("--empty-masks", type=cli.fraction, default=0.9, metavar="RATE", help="of a "
                     "run that predicts masks: fraction of new authentic images like these whose "
                     "masks are to be empty; 0 shows every mask (default: 0.9)")  # fmt: skip
    how.add_argument("--prior", default="0.5", metavar="P", help="fraction of fakes that P(fake) "
                     "assumes, 0 to 1, or 'validation' for the fraction among the images that "
                     "are calibrated on (default: 0.5)")  # fmt: skip
    how.add_argument("--tile-pooling", choices=get_args(TilePooling), help="of a run with "
                     "the head top_pixels that reads images in tiles, on its own dataset: P(fake) "
                     "of an image is that of the tile most like a fake, or follows from the "
                     "highest pixels of the whole mask (default: as the run has it)")  # fmt: skip
    how.add_argument("--cost", type=cli.positive, metavar="C", help="what a false positive costs, "
                     "where a missed fake costs 1; chooses the operating point 'cost' (default: "
                     "choose none)")  # fmt: skip
    how.add_argument("--abstention-error", type=float, metavar="RATE", help="fraction of each "
                     "class that may get a wrong verdict outside the abstention band; lower makes "
                     "more verdicts inconclusive (default: 0.01, or 0.05 with few "
                     "images)")  # fmt: skip
    out = p.add_argument_group("output")
    out.add_argument("--no-hashes", action="store_true", help="keep no hashes of the training "
                     "images in the run (16 bytes each), by which copies of training images are "
                     "recognized")  # fmt: skip
    cli.add_no_images(out)
    cli.add_batch_size(out)
    cli.add_max_pixels(out, of_spec=True)
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api
    from tfdetect.core.array_files import calibrated_parts
    from tfdetect.core.open_run import open_run

    before = open_run(args.run)
    parts = calibrated_parts(before.path)
    results = api.calibrate(
        args.run, args.dataset, data_dir=args.data_dir, authentic=args.authentic,
        label=args.label, split=args.split, method=args.method, cost=args.cost,
        abstention_error=args.abstention_error, false_positive_rate=args.false_positive_rate,
        empty_masks=args.empty_masks, threshold=cli.number_or_name(args.threshold),
        prior=cli.chosen_prior(args) or 0.5, images_in_report=not args.no_images,
        tile_pooling=args.tile_pooling, keep_hashes=not args.no_hashes, batch_size=args.batch_size,
        max_pixels=args.max_pixels, **cli.progress_of(args),
    )  # fmt: skip
    if args.json:
        return console.print_json(results.values)

    from tfdetect.evaluation.result_tables import format_results

    console.result(format_results(results.values))
    new = [n for n, sum_ in calibrated_parts(results.run.path).items() if parts.get(n) != sum_]
    changed = results.run.info != before.info
    done = ["changed, its exports rewritten"] if changed else []
    done += [f"{' and '.join(new)} written again"] if new else []
    console.result(f"\nrun     {results.run.path} ({'; '.join(done) or 'unchanged'})")
    console.result(f"report  {results.report}")


if __name__ == "__main__":
    sys.exit(run_command(main))
