"""The parser of all commands, and the arguments that several commands have."""

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tfdetect.core.errors import UserError, nearest, shortened
from tfdetect.core.image_names import IMAGE_SUFFIXES, suffix_of
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.packages import PROGRAM, has_tensorflow
from tfdetect.core.run_command import EXIT_ERROR, EXIT_INTERRUPTED
from tfdetect.core.text import as_number, user_path

if TYPE_CHECKING:
    from tfdetect.core.spark_cluster import SparkCluster

_FULL_ONLY = ("--explain", "--spark")  # options of predict that tfdetect-light lacks
_MISTAKE = "a mistake in the command, or something it needs is missing; stderr says what to do"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **kwargs: Any):
        width = min(100, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=28, width=width, **kwargs)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap paragraphs; keep blocks that are indented, such as examples, as they are."""
        wrap = argparse.HelpFormatter._fill_text
        return "\n\n".join(
            part
            if part.startswith(("examples:", " "))
            else "\n".join(textwrap.fill(line, width, subsequent_indent=" " * 7)
                           for line in part.splitlines())
            if part.startswith("exit codes:")
            else wrap(self, part, width, indent)
            for part in text.split("\n\n")
        )  # fmt: skip


def _own_program(command: str) -> str:
    """Return a command line that begins with the program installed here: tfdetect or -light."""
    return command.replace("tfdetect ", f"{PROGRAM} ", 1)


def full_help(text: str) -> str:
    """Return the help of an option of `_FULL_ONLY`; where it is lacking, what hides the option.

    The option can be given nevertheless: the error says what to install.
    """
    return text if has_tensorflow() else argparse.SUPPRESS


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest flag when one is misspelled.

    Args:
        prog: the command, for example "tfdetect train".
        description: what the command does and what it leaves; paragraphs are separated by an
            empty line.
        examples: (command line, what it does), shown after the arguments.
        incomplete: what exit code 1 means; "" if the command never ends with it.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        examples: Sequence[tuple[str, str]],
        incomplete: str = "",
        **kwargs: Any,
    ):
        kwargs.setdefault("allow_abbrev", False)
        if not has_tensorflow():
            examples = [each for each in examples if not any(o in each[0] for o in _FULL_ONLY)]
        shown = "\n".join(f"  # {text}\n  {_own_program(command)}" for command, text in examples)
        codes = {
            0: "done",
            1: incomplete,
            EXIT_ERROR: _MISTAKE,
            EXIT_INTERRUPTED: "stopped by Ctrl-C",
        }
        ends = "\n".join(f"  {code:<5}{text}" for code, text in codes.items() if text)
        super().__init__(
            prog=_own_program(prog), description=description, formatter_class=_Formatter,
            epilog=(f"examples:\n{shown}\n\n" if examples else "") + f"exit codes:\n{ends}",
            **kwargs,
        )  # fmt: skip

    def parse_args(self, args=None, namespace=None):
        for each in sys.argv[1:] if args is None else args:
            if each == "--":
                break
            is_file = suffix_of(each) in IMAGE_SUFFIXES or os.path.lexists(each)
            if is_file and each.startswith("-") and not each.startswith("--"):
                self.error(f"{each!r} begins with a dash, as options do. Give it as ./{each}")
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            hint = nearest(rest[0].split("=")[0], flags)
            if not rest[0].startswith("-") and "--dataset" in flags:
                hint = f" Did you mean '--dataset {rest[0]}'?"
            if suffix_of(rest[0]) in IMAGE_SUFFIXES:
                hint = (" Single images are for 'tfdetect predict', which explains each on a page "
                        "with --explain DIR.")  # fmt: skip
            self.error(f"unknown argument {rest[0]!r}.{hint}")
        return parsed

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Return the value of an argument; errors have tfdetect's messages, not argparse's."""
        try:
            if action.type is Path:
                return user_path(arg_string)
            if action.type in (int, float):
                return number(arg_string, whole=action.type is int)
        except (UserError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentError(action, str(error)) from None
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"unknown value {str(value)!r}.{nearest(str(value), choices)} "
                f"Available: {', '.join(choices)}.",
            )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\nSee: {self.prog} --help")


Arguments = argparse.ArgumentParser | argparse._ArgumentGroup


RUN_HELP = (
    "a finished run: its folder, such as saved_models/demo; the name of one that comes with "
    "tfdetect, such as photo_detector; or its address, such as hf://user/run"
)


def add_run(p: Arguments, text: str = "") -> None:
    """Add RUN; `text` is added to its help."""
    p.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP + text)


def add_runs(p: Arguments) -> None:
    """Add two or more RUNs."""
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=f"two or more; {RUN_HELP}")


def add_dataset(p: Arguments, text: str, required: bool = False) -> None:
    """Add --dataset, --data-dir and --authentic; `text` says what the dataset is for."""
    p.add_argument("--dataset", metavar="NAME|PATH", required=required, help=f"{text}. NAME is a "
                   "shipped dataset (demo, cifake, genimage, ...); PATH is a folder with one "
                   "folder per class, a CSV manifest or a dataset spec (YAML), or the address "
                   "of one, such as s3://bucket/folder. A+B joins two")  # fmt: skip
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="directory that contains the "
                   "dataset's files (default: $TFDETECT_DATA, then the cache, then a "
                   "download)")  # fmt: skip
    p.add_argument("--authentic", metavar="CLASS", help="name of the class folder that holds the "
                   "authentic images (default: a folder named real, authentic, original, "
                   "nature, ...); of a union, the name in the part that needs it, or several, "
                   "separated by commas")  # fmt: skip


def add_experiment(
    p: Arguments,
    default: str = "the dataset's own, or one that suits the size of its images and its masks",
) -> None:
    """Add --experiment, --model and --set."""
    p.add_argument("--experiment", metavar="NAME|FILE", help="training configuration: a shipped "
                   f"experiment or a YAML file (default: {default})")  # fmt: skip
    p.add_argument("--model", metavar="NAME", help="a published detector ('tfdetect models' lists "
                   "them), trained with its own settings or, with --experiment, with "
                   "those (default: the experiment's detector)")  # fmt: skip
    add_set(p)


def add_set(p: Arguments) -> None:
    """Add --set."""
    p.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                   help="change one value of the experiment, for example training.epochs=5; "
                   "repeatable")  # fmt: skip


def add_split(
    p: Arguments, note: str, choices: Sequence[str] = ("train", "validation", "test", "all")
) -> None:
    """Add --split, which takes one split; `note` says what happens without it."""
    p.add_argument("--split", choices=choices, metavar="SPLIT",
                   help=f"one of {', '.join(choices)} ({note})")  # fmt: skip


def add_devices(p: Arguments, each: str = "") -> None:
    """Add --gpus and --gpu-memory-limit.

    Args:
        each: to what the memory limit applies, such as " per worker", if not to the whole command.
    """
    p.add_argument("--gpus", metavar="N,N", help="numbers of the GPUs to use, for example 0,1, or "
                   "none for the CPU (default: all GPUs)")  # fmt: skip
    p.add_argument("--gpu-memory-limit", metavar="LIMIT", help=f"GPU memory to use{each}: a "
                   "fraction (0.95), a size (14GiB), or one for each GPU (0=0.9,1=10GiB) "
                   "(default: as much as needed)")  # fmt: skip


def add_runs_folder(p: Arguments, name_default: str) -> None:
    """Add --output, the folder for runs, and --name."""
    p.add_argument("--output", type=Path, default=Path("saved_models"), metavar="DIR",
                   help="folder in which the new folder is made (default: "
                   "saved_models)")  # fmt: skip
    p.add_argument("--name", metavar="NAME",
                   help=f"name of the new folder (default: {name_default})")  # fmt: skip


def add_batch_size(p: Arguments) -> None:
    """Add --batch-size, of predictions."""
    p.add_argument("--batch-size", type=number_above(0, True, 65_536), default=64, metavar="N",
                   help="images per step; lower it when memory is short (default: 64)")  # fmt: skip


def add_max_pixels(p: Arguments, of_spec: bool = False) -> None:
    """Add --max-pixels.

    Args:
        of_spec: whether the default is None, which leaves the limit to the dataset spec.
    """
    default = f"as the dataset spec says, {MAX_PIXELS:,} if it does not"
    p.add_argument("--max-pixels", type=count, metavar="N", default=None if of_spec else MAX_PIXELS,
                   help="refuse images with more pixels, before they are decoded, because a small "
                   "file can claim a size that takes all memory (default: "
                   f"{default if of_spec else f'{MAX_PIXELS:,}'})")  # fmt: skip


def add_spark(p: Arguments, default: str) -> None:
    """Add --spark, --spark-conf and --spark-dir.

    Args:
        default: the default of the folder for the parts.
    """
    p.add_argument("--spark", metavar="MASTER", help=full_help(
        "do the work on a Spark cluster, for example spark://host:7077, or local[4] for 4 "
        "processes on this machine. Every machine needs the files under the same path. The same "
        "command continues an interrupted one. Needs: pip install \"tfdetect[spark]\" and Java 17 "
        "(default: no cluster)"
    ))  # fmt: skip
    p.add_argument("--spark-conf", action="append", default=[], metavar="KEY=VALUE", help=full_help(
        "property of Spark, for example spark.executor.memory=4g; repeatable"
    ))  # fmt: skip
    p.add_argument("--spark-dir", type=Path, metavar="DIR", help=full_help(
        f"folder for the finished parts, on storage that all machines see (default: {default})"
    ))  # fmt: skip


def chosen_cluster(args: argparse.Namespace) -> "SparkCluster | None":
    """Return the cluster that --spark, --spark-conf and --spark-dir describe; None without --spark.

    Raises:
        UserError: a property of Spark is not of the form KEY=VALUE, or --spark is missing.
    """
    from tfdetect.core.spark_cluster import SparkCluster, parse_conf

    if args.spark is None:
        for value, flag in ((args.spark_conf, "--spark-conf"), (args.spark_dir, "--spark-dir")):
            if value:
                raise UserError(f"{flag} is for --spark MASTER, which is missing.")
        return None
    return SparkCluster(args.spark, parse_conf(args.spark_conf), args.spark_dir)


def add_views(p: Arguments) -> None:
    """Add --crops and --flips."""
    p.add_argument("--crops", type=int, choices=[1, 5, 9], help="read this many parts (crops) of "
                   "each image, spread over it, and average their probabilities: steadier, but "
                   "takes as many times longer (default: as the run was trained)")  # fmt: skip
    p.add_argument("--flips", action="store_true", help="read each image and its mirror image, and "
                   "average their probabilities: takes twice as long")  # fmt: skip


def add_verdict(p: Arguments) -> None:
    """Add --threshold, --at, --prior and --mask-threshold."""
    p.add_argument("--threshold", type=float, metavar="P", help="P(fake) from which the verdict "
                   "is fake, 0 to 1 (default: the threshold of the run). Verdicts stay "
                   "inconclusive in the run's abstention band, and between it and P")  # fmt: skip
    p.add_argument("--at", metavar="POINT", help="use the threshold of one of the run's operating "
                   "points instead: fpr_1 or fpr_5 (1%% or 5%% false positives on validation), "
                   "source_fpr_5 (5%% on sources not seen before), eer (equal error rate: as large "
                   "a fraction of false positives as of missed fakes), balanced (best balanced "
                   "accuracy), cost (lowest cost, by 'calibrate --cost'). The abstention band "
                   "stays where it is: images in it are inconclusive at every point, as with "
                   "--threshold. fpr_1 exists if at least 100 authentic images were in "
                   "validation, fpr_5 if 20, source_fpr_5 if they are of 19 named "
                   "sources")  # fmt: skip
    p.add_argument("--prior", metavar="P", help="fraction of fakes to expect among such images, "
                   "0 to 1, or 'validation' for the fraction in the run's validation split "
                   "(default: as the run was calibrated, which is with 0.5 unless it was told "
                   "otherwise). P(fake) and the run's own thresholds change together")  # fmt: skip
    p.add_argument("--mask-threshold", type=fraction, metavar="P", help="P(fake) from which the "
                   "mask of an image is shown, below it the mask is empty; 0 shows every mask "
                   "(default: the run's, which leaves the masks of most authentic images "
                   "empty); for detectors that predict masks")  # fmt: skip


def chosen_threshold(args: argparse.Namespace) -> float | str | None:
    """Return the threshold of --threshold, or the operating point of --at; None without both.

    Raises:
        UserError: both were given, or the number is out of range.
    """
    if args.threshold is None:
        return args.at
    if args.at:
        raise UserError("--threshold and --at both choose the threshold. Give one of them.")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold must be from 0 to 1. Received: {args.threshold}.")
    return args.threshold


def number_or_name(text: str | None) -> float | str | None:
    """Return the number that `text` holds, or else the text itself."""
    found = as_number(text)
    return text if found is None else found


def chosen_prior(args: argparse.Namespace) -> float | str | None:
    """Return the fraction of --prior, or "validation"; None without it.

    Raises:
        UserError: it is neither.
    """
    if args.prior in (None, "validation"):
        return args.prior
    value = as_number(args.prior) or 0.0
    if not 0 < value < 1:
        raise UserError(
            "--prior must be a fraction above 0 and below 1, or 'validation'. "
            f"Received: {args.prior}."
        )
    return value


def add_no_images(p: Arguments) -> None:
    """Add --no-images."""
    p.add_argument("--no-images", action="store_true",
                   help="keep images of the dataset out of the report")  # fmt: skip


def add_json(p: Arguments) -> None:
    """Add --json."""
    p.add_argument("--json", action="store_true", help="print the result as one JSON document on "
                   "stdout (messages stay on stderr)")  # fmt: skip


def add_quiet(p: Arguments) -> None:
    """Add --quiet."""
    p.add_argument("--quiet", action="store_true", help="show no progress")


def progress_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments `progress` and `log` of the API for which --quiet is short."""
    return {"progress": False, "log": lambda text: None} if args.quiet else {}


def number(text: str, whole: bool = False) -> float:
    """Return the finite number that a text holds; with `whole`, a whole number below 2**63.

    Raises:
        argparse.ArgumentTypeError: it holds none.
    """
    try:
        value = int(text) if whole else float(text)
        if abs(value) < (2**63 if whole else float("inf")):
            return value
    except ValueError:
        pass
    kind = "a whole number" if whole else "a number"
    raise argparse.ArgumentTypeError(f"expected {kind}, received {shortened(text)}")


def number_above(
    low: float, whole: bool = False, most: float = 1_000_000_000
) -> Callable[[str], float]:
    """Return an argument type: a number above `low`, or a whole number from `low` + 1 on.

    Args:
        low: the bound that is not allowed itself.
        whole: whether only whole numbers are allowed.
        most: the largest allowed number.
    """

    def parse(text: str) -> float:
        try:
            value = number(text, whole)
        except argparse.ArgumentTypeError:
            value = low
        if not low < value <= most:
            kind = f"a whole number of at least {low + 1:g}" if whole else f"a number above {low:g}"
            most_text = f" and at most {most:,}" if value > most else ""
            raise argparse.ArgumentTypeError(
                f"expected {kind}{most_text}, received {shortened(text)}"
            )
        return value

    return parse


def number_from(low: float, high: float, whole: bool = False) -> Callable[[str], float]:
    """Return an argument type: a number from `low` to `high`, both allowed."""

    def parse(text: str) -> float:
        with suppress(argparse.ArgumentTypeError):
            if low <= (value := number(text, whole)) <= high:
                return value
        kind = "a whole number" if whole else "a number"
        raise argparse.ArgumentTypeError(
            f"expected {kind} from {low} to {high}, received {shortened(text)}"
        )

    return parse


count = number_above(0, whole=True)
count_or_0 = number_above(-1, whole=True)
positive = number_above(0)
fraction = number_from(0, 1)


def names(text: str) -> list[str]:
    """Return the names in a text that are separated by commas."""
    return [name for each in text.split(",") if (name := each.strip())]
