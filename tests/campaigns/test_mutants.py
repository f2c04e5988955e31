"""Five thousand damaged image files through every decoder: no crash, bounded memory, no silence.

python -m pytest tests/campaigns/test_mutants.py -m slow -s
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

MUTANTS = int(os.environ.get("TFDETECT_MUTANTS", "5000"))
BATCH = 500  # in one process
MAX_BYTES = 3 * 2**30  # of memory of a process, TensorFlow included
SCRIPT = Path(__file__).with_name("decode_mutants.py")


@pytest.mark.slow
def test_no_mutant_crashes_a_decoder_or_vanishes():
    rows, peak = [], 0
    for first in range(0, MUTANTS, BATCH):
        command = [sys.executable, str(SCRIPT), str(first), str(min(BATCH, MUTANTS - first))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3_600)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert done.returncode == 0, (lines[-1:], done.stderr[-2_000:])
        rows += [line for line in lines if "name" in line]
        peak = max(peak, lines[-1]["peak"])
    kinds = Counter((row["pillow"], row["reader"]) for row in rows)
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    odd = [row for row in rows if row["pillow"] != row["reader"]]
    print(
        f"\n{len(rows):,} mutants: decoded by both {kinds[True, True]:,}, refused by both "
        f"{kinds[False, False]:,}, by Pillow alone {kinds[True, False]:,}, by the reader alone "
        f"{kinds[False, True]:,} ({Counter(row['container'] for row in odd)}); pixels equal "
        f"{sum(d == 0 for d in differences):,}, within 3 levels "
        f"{sum(0 < d <= 3 for d in differences):,}, more {sum(d > 3 for d in differences):,}; "
        f"largest process {peak / 2**20:,.0f} MiB"
    )
    assert len(rows) == MUTANTS
    assert all(row["graph_is_reader"] for row in rows)
    assert peak < MAX_BYTES
    # Two decoders of one format agree on what is damaged but for rare pixels of WebP and JPEG.
    assert len(odd) <= max(2, MUTANTS / 200)
    # Lossless formats never differ; a damaged JPEG may.
    different = [row for row in rows if (row["difference"] or 0) > 3]
    assert not [row for row in different if row["container"] not in ("JPEG", "WebP")], different
