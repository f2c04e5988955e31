"""`python -m tfdetect.audit`: what a dataset gives away, before anything is trained on it."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect audit",
        description="Audits a dataset, without a model: what tells the label that should not, "
        "duplicates, leaking groups, balance, broken files. Exit code 1 where results from it "
        "should not be believed.",
    )
    p.add_argument("--dataset", metavar="NAME", required=True, help="as for train: a shipped "
                   "dataset, a spec file, a manifest, a folder, or a+b")  # fmt: skip
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument("--output", type=Path, metavar="DIR", help="folder for audit.html, audit.json, "
                   "traits.parquet, duplicates.csv (default: saved_models/audit-NAME)")  # fmt: skip
    p.add_argument("--json", action="store_true", help="print audit.json instead of tables")
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    mend = p.add_argument_group("mending")
    mend.add_argument("--repair", type=Path, metavar="DIR", help="write a mended copy, a dataset "
                      "of its own, into this new folder and audit it")  # fmt: skip
    mend.add_argument("--repairs", metavar="NAME,NAME", help="of duplicates, formats, balance, "
                      "splits (default: what the audit calls for)")  # fmt: skip
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.data.plan import locate_dataset

    if args.repairs and not args.repair:
        raise UserError("--repairs needs --repair DIR, where the mended copy goes.")
    spec, roots = locate_dataset(args.dataset, args.data_dir, args.authentic)
    output = args.output or Path("saved_models") / f"audit-{spec.name}"
    check_writable(output.parent)
    return _audit(spec, roots, output, args)


def _audit(spec, roots: dict[str, Path], output: Path, args) -> int:
    from tfdetect.auditing.audit_dataset import audit
    from tfdetect.auditing.audit_report import terminal, write_report
    from tfdetect.auditing.findings import VERDICTS
    from tfdetect.auditing.fixes import chosen_repairs, repair
    from tfdetect.core.spec import load_spec

    found = audit(spec, roots, progress=not args.quiet)
    write_report(found, output)
    if args.json:
        print((output / "audit.json").read_text(), end="")
    else:
        print(f"dataset {spec.name}, {found.traits.num_rows:,} images\n")
        print(terminal(found))
        print(f"report {output / 'audit.html'}")
    if args.repair:
        done = repair(found, args.repair, chosen_repairs(found, args.repairs), not args.quiet)
        if not args.json:
            print("\nmended: " + "; ".join(done.steps))
            print(f"dataset {done.folder}; audit of it:\n")
        args.repair = None
        mended, places = load_spec(str(done.folder))
        return _audit(mended, places, output.with_name(f"{output.name}-mended"), args)
    return int(found.verdict == list(VERDICTS.values())[-1])


if __name__ == "__main__":
    sys.exit(run_command(main))
