"""`tfdetect audit`: check a dataset for shortcuts, duplicates and leaks before training."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import cli, console
from tfdetect.core.run_command import run_command
from tfdetect.core.text import counted, shell_command

if TYPE_CHECKING:
    from tfdetect.auditing.audit_dataset import Audit


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect audit",
        description="Check a dataset, without a model, for traits that predict the label "
        "(shortcuts, such as all fakes being PNG files), duplicates, groups that leak between "
        "splits, imbalance and unreadable files. The verdict is sound, caution or unreliable.",
        incomplete="the verdict is unreliable",
        examples=[
            ("tfdetect audit --dataset path/to/folder", "before the first training"),
            ("tfdetect audit --dataset path/to/folder --fix path/to/fixed",
             "write a fixed copy and audit it"),
            ("tfdetect audit --dataset path/to/folder --spark spark://host:7077",
             "for a million files, which the machines of a Spark cluster read"),
        ],
    )  # fmt: skip
    cli.add_dataset(p.add_argument_group("dataset"), "Images to check", required=True)
    fix = p.add_argument_group("fixes")
    fix.add_argument(
        "--fix",
        type=Path,
        metavar="DIR",
        help="write a fixed copy of the dataset into a new folder and audit the copy; its verdict "
        "decides the exit code. With the fix 'formats' the copy has images of its own; otherwise "
        "its manifest names the original files, which must not be moved",
    )
    fix.add_argument("--fixes", type=cli.names, metavar="NAME,NAME", help="fixes to apply: "
                     "duplicates (remove them, and images with conflicting labels), formats (crop "
                     "all images to one size and encode them alike, without metadata), balance "
                     "(keep equally many images of each class), splits (split again by group) "
                     "(default: those that the findings call for)")  # fmt: skip
    out = p.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help="folder for audit.html, "
                     "audit.json, traits.parquet, duplicates.csv and skipped.csv (default: "
                     "saved_models/audit-NAME)")  # fmt: skip
    cli.add_max_pixels(out, of_spec=True)
    cli.add_json(out)
    cli.add_quiet(out)
    cli.add_spark(p.add_argument_group("cluster"), "DIR.parts beside --output DIR")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cluster = cli.chosen_cluster(args)

    from tfdetect import api
    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable

    if args.fixes and not args.fix:
        raise UserError("--fixes needs --fix DIR, the folder for the fixed copy.")
    check_writable(args.output.absolute().parent if args.output else Path("saved_models"))
    if cluster is not None and cluster.folder is None:
        name = args.output or Path("saved_models") / f"audit-{Path(args.dataset).name}"
        cluster = replace(cluster, folder=name.with_name(f"{name.name}.parts"))
    audit = api.audit(
        args.dataset, data_dir=args.data_dir, authentic=args.authentic,
        max_pixels=args.max_pixels, cluster=cluster, progress=not args.quiet,
    )  # fmt: skip
    from tfdetect.auditing.fixes import NOTHING_TO_FIX, needed_fixes

    output = args.output or Path("saved_models") / f"audit-{audit.spec.name}"
    _report(audit, output, args.json)
    is_fixed = bool(args.fix and (args.fixes or needed_fixes(audit)))
    if args.fix and not is_fixed:
        console.log(f"{args.fix} is not written: {NOTHING_TO_FIX}")
    if is_fixed:
        fixed = api.fix(audit, args.fix, args.fixes, progress=not args.quiet)
        console.log(f"Fixed copy in {fixed.folder}: {'; '.join(fixed.steps)}")
        audit = api.audit(fixed.folder, progress=not args.quiet)
        _report(audit, output.with_name(f"{output.name}-fixed"), args.json)

    from tfdetect.auditing.audit_report import audit_document
    from tfdetect.auditing.findings import UNRELIABLE

    if args.json:
        console.print_json(audit_document(audit))
    elif command := _next_command(args, audit, is_fixed):
        console.result(f"next    {command}")
    return int(audit.verdict == UNRELIABLE)


def _next_command(args: argparse.Namespace, audit: "Audit", is_fixed: bool) -> str | None:
    """Return the next command to run; None if no fix helps and none is worth running."""
    from tfdetect.auditing.findings import NOTE, UNRELIABLE
    from tfdetect.core.provenance import command_line
    from tfdetect.data.check_catalog import too_many_unusable

    if is_fixed:
        return shell_command("train", dataset=args.fix)
    if any(f.fix for f in audit.findings if f.level != NOTE):
        return f"{command_line('audit')} --fix DIR   (writes a fixed copy)"
    bad, used = audit.catalog.skipped.num_rows, audit.catalog.table.num_rows
    if audit.verdict == UNRELIABLE or too_many_unusable(audit.spec, bad, bad + used):
        return None
    setting = next((f.setting for f in audit.findings if f.setting), None)
    return shell_command("train", dataset=args.dataset, data_dir=args.data_dir,
                         authentic=args.authentic, set=setting)  # fmt: skip


def _report(audit: "Audit", output: Path, silent: bool) -> None:
    """Write the report of an audit and print its findings."""
    from tfdetect.auditing.audit_report import format_audit, write_report
    from tfdetect.data.describe import describe_data

    write_report(audit, output)
    if not silent:
        console.result(f"dataset {audit.spec.name}, {counted(audit.traits.num_rows, 'image')}")
        for line in describe_data(audit.spec, audit.catalog):
            console.result(line)
        console.result()
        console.result(format_audit(audit))
        console.result(f"\nreport  {output / 'audit.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
