"""`python -m tfdetect.audit`: checks a dataset for shortcuts, duplicates and leaks."""

import sys
from pathlib import Path

from tfdetect.core import console
from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect audit",
        description="Check a dataset, without a model, for traits that predict the label "
        "(shortcuts), duplicates, groups that leak between splits, imbalance and unreadable files. "
        "The verdict is sound, caution or unreliable; the exit code is 1 if it is unreliable.",
    )
    p.add_argument("--dataset", metavar="NAME", required=True, help="a shipped dataset, a spec "
                   "file, a manifest or a folder; a+b joins several")  # fmt: skip
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="directory that contains the "
                   "dataset (default: $TFDETECT_DATA or the cache)")  # fmt: skip
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a folder without "
                   "a spec")  # fmt: skip
    p.add_argument("--output", type=Path, metavar="DIR", help="directory for audit.html, "
                   "audit.json, traits.parquet and duplicates.csv (default: "
                   "saved_models/audit-NAME)")  # fmt: skip
    p.add_argument("--json", action="store_true", help="print audit.json instead of tables")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    fix = p.add_argument_group("fixing")
    fix.add_argument("--fix", type=Path, metavar="DIR", help="write a fixed copy of the dataset "
                     "into a new directory and audit it; its verdict is the exit code")  # fmt: skip
    fix.add_argument("--fixes", metavar="NAME,NAME", help="fixes to apply: duplicates, formats, "
                     "balance, splits (default: those that the findings call for)")  # fmt: skip
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.data.plan import locate_dataset

    if args.fixes and not args.fix:
        raise UserError("--fixes needs --fix DIR, the directory for the fixed copy.")
    spec, roots = locate_dataset(args.dataset, args.data_dir, args.authentic)
    output = args.output or Path("saved_models") / f"audit-{spec.name}"
    check_writable(output.parent)

    from tfdetect.auditing.audit_dataset import audit_dataset
    from tfdetect.auditing.audit_report import audit_document, format_audit, write_report
    from tfdetect.auditing.findings import UNRELIABLE
    from tfdetect.auditing.fixes import fix_dataset, select_fixes
    from tfdetect.core.spec import load_spec

    audit = audit_dataset(spec, roots, progress=not args.quiet)
    while True:
        write_report(audit, output)
        if not args.json:
            console.result(f"dataset {audit.spec.name}, {audit.traits.num_rows:,} images")
            console.result(format_audit(audit))
            console.result(f"\nreport {output / 'audit.html'}")
        if not args.fix:
            break
        fixed = fix_dataset(audit, args.fix, select_fixes(audit, args.fixes), not args.quiet)
        console.log(f"fixed copy {fixed.folder}: {'; '.join(fixed.steps)}")
        spec, roots = load_spec(str(fixed.folder))
        audit = audit_dataset(spec, roots, progress=not args.quiet)
        output, args.fix = output.with_name(f"{output.name}-fixed"), None
    if args.json:
        console.print_json(audit_document(audit))
    return int(audit.verdict == UNRELIABLE)


if __name__ == "__main__":
    sys.exit(run_command(main))
