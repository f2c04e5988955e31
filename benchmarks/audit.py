"""Measures how long an audit takes, of real files and of a growing table of synthetic traits.

    python benchmarks/audit.py --data path/to/cifake --rows 1000000

With --data: a full audit with empty caches, into a temporary directory. With --rows: everything
that follows the reading of files, on synthetic traits of an eighth of the rows up to all of them;
time and memory of each size.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from tfdetect.auditing import duplicates, findings, shortcuts
from tfdetect.auditing.audit_dataset import audit_dataset
from tfdetect.auditing.traits import TRAITS, add_derived_traits
from tfdetect.core.load_spec import load_spec

CLASSES = ("real", "fake")


def audit_files(data: Path) -> dict:
    from tfdetect.auditing.audit_report import write_report

    spec, _ = load_spec("cifake")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TFDETECT_CACHE"] = folder
        start = time.perf_counter()
        found = audit_dataset(spec, {"cifake": data}, progress=False)
        write_report(found, Path(folder) / "report")
        seconds = time.perf_counter() - start
    return {"files": found.traits.num_rows, "seconds": round(seconds, 1)}


def synthetic_traits(rows: int) -> pa.Table:
    """Return traits of images without shortcuts, a thousandth of them duplicates."""
    rng = np.random.default_rng(rows)
    number = np.arange(rows)
    number[rng.integers(0, rows, rows // 1000)] = 0
    names = pa.array([f"{n:032x}" for n in number])
    splits = np.where(np.arange(rows) % 10 == 9, "test", "train")
    columns = {
        "dataset": pa.array(["made up"] * rows).dictionary_encode(),
        "path": pa.array([f"{n % 97}/{n:09}.jpg" for n in range(rows)]),
        "label": pa.array(np.arange(rows, dtype=np.int32) % 2),
        "generator": pa.array(np.where(np.arange(rows) % 2, "made", "")).dictionary_encode(),
        "group": names, "hash": names, "pixels": names,
        "split": pa.array(splits).dictionary_encode(),
        "size": pa.array(rng.integers(500, 1500, rows)),
        "width": pa.array(np.full(rows, 32, np.int32)),
        "height": pa.array(np.full(rows, 32, np.int32)),
        "phash": pa.array(rng.integers(0, 2**64, rows, np.uint64)),
    }  # fmt: skip
    words = {"format": "JPEG", "mode": "RGB", "tables": "libjpeg 75", "subsampling": "4:2:0",
             "software": None}  # fmt: skip
    columns |= {name: pa.array([word] * rows, pa.string()) for name, word in words.items()}
    flags = ("progressive", "exif", "icc")
    columns |= {name: pa.array(np.zeros(rows, bool)) for name in flags}
    columns |= {"bits": pa.array(np.full(rows, 8, np.int32))}
    known = {"aspect", "bytes_per_pixel", "gray", "extension"}
    for name in {c for trait in TRAITS for c in trait.columns} | {"contrast"}:
        if name not in columns and name not in known and not name.startswith("name_"):
            columns[name] = pa.array(rng.normal(60, 9, rows).astype(np.float32))
    return add_derived_traits(pa.table(columns))


def analysis_seconds(table: pa.Table) -> float:
    """Return the seconds of everything that follows the reading of files."""
    start = time.perf_counter()
    found = shortcuts.find_shortcuts(table, 2)
    list(findings.shortcut_findings(found, CLASSES))
    list(findings.generator_findings(shortcuts.generator_shortcuts(table)))
    for column in ("pixels", "hash"):
        found = duplicates.exact_duplicates(table, column, 2)
        list(findings.duplicate_findings("exact", found, table, CLASSES))
    duplicates.candidate_pairs(table)
    list(findings.group_findings(table))
    list(findings.balance_findings(table, CLASSES))
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of CIFAKE")
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    if args.data:
        result = audit_files(args.data)
        print(f"{result['files']:,} files audited in {result['seconds']} s, caches empty")
        print(json.dumps(result))
    analysis_seconds(synthetic_traits(20_000))  # imports
    for rows in (args.rows // 8, args.rows // 4, args.rows // 2, args.rows):
        table = synthetic_traits(rows)
        seconds = analysis_seconds(table)
        result = {
            "rows": rows, "seconds": round(seconds, 1),
            "microseconds per row": round(seconds / rows * 1e6, 1),
            "current MiB": psutil.Process().memory_info().rss >> 20,
            "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }  # fmt: skip
        print(json.dumps(result), flush=True)
        del table


if __name__ == "__main__":
    main()
