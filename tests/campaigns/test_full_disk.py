"""Commands on a disk that fills up: one message, and nothing that was finished before is lost.

    python tests/campaigns/test_full_disk.py WORK_FOLDER TRIES SEED [COMMAND ...]

Each try mounts a small memory disk, copies the inputs of the campaign of kills there, leaves a
random part of the space that the command needs, and runs the command. It needs the right to mount.
Prints one JSON line for each try, and a summary.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_kills import (
    CASES,
    Campaign,
    check_file,
    check_run,
    digests,
    leftovers,
    log_of,
    processes_left,
)

KIB = 1024


def size_of(folder: Path) -> int:
    """The bytes that a folder takes on a memory disk, whose blocks have 4 KiB."""
    return sum(-(-max(1, p.lstat().st_size) // 4096) * 4096 for p in folder.rglob("*"))


class Disk:
    """A memory disk of some size, with a copy of a folder."""

    def __init__(self, path: Path, source: Path, free: int):
        self.path, self._source = path, source
        self._size = size_of(source) + 64 * KIB + free

    def __enter__(self) -> Path:
        self.path.mkdir(exist_ok=True)
        options = f"size={self._size // KIB}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path], check=True)
        shutil.copytree(self._source, self.path / "work")
        return self.path / "work"

    def __exit__(self, *raised: object) -> None:
        subprocess.run(["umount", self.path], check=True)


class FullDisk(Campaign):
    """Runs commands where the disk fills up."""

    def try_once(self, name: str) -> dict[str, Any]:
        """Run a command with too little space; return what happened."""
        case = CASES[name]
        _, names, _ = self.reference(name)
        needed = size_of(self.root / "whole") - size_of(self.base)
        free = int(self.rng.uniform(0.05, 0.9) * needed)
        with Disk(self.root / "disk", self.base, free) as work:
            result = work / case.result
            before = digests(result)
            # The log is elsewhere; temporary files and caches are on the full disk.
            child = self.server.start(case.argv, work, self.root / "log")
            code = self.server.wait(child)
            assert not processes_left(child), name
            text = log_of(self.root)
            found = {"command": name, "free_kib": free // KIB, "code": code}
            assert "Traceback" not in text, (found, text)
            assert not leftovers(work), (found, leftovers(work))
            if code == 0 or (code == 1 and name in ("audit", "fix", "pages")):
                return {**found, "result": "fitted"}
            assert code == 2 and text.count("error: ") == 1, (found, text)
            message = text[text.index("error: ") :].splitlines()[0]
            assert re.search("No space (is )?left", message), message
            found["message"] = message[:160]
            after = digests(result)
            if after == before:
                return {**found, "result": "old" if before else "none"}
            if name not in ("synthesize", "extract-faces", "prepare", "search", "matrix", "pages",
                            "train"):  # fmt: skip
                assert set(after) == names, (found, set(after) ^ names)
                if case.result.startswith("runs/") and "evaluations" not in case.result:
                    check_run(result)
            for path in [result] if result.is_file() else result.rglob("*"):
                if path.is_file() and not path.parent.name.endswith(".partial"):
                    check_file(path)
            return {**found, "result": "begun"}

    def run(self, tries: int, names: list[str]) -> Counter:
        counts: Counter = Counter()
        chosen = names[:tries] + self.rng.choices(names, k=max(0, tries - len(names)))
        for number, name in enumerate(chosen):
            try:
                found = self.try_once(name)
            except AssertionError as error:
                found = {"command": name, "failed": str(error)[:4000]}
            counts["failed" if "failed" in found else found["result"]] += 1
            print(json.dumps({"try": number, **found}), flush=True)
        self.server.close()
        return counts


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts disks")
def test_a_full_disk_loses_nothing(tmp_path):
    try:
        (tmp_path / "empty").mkdir()
        with Disk(tmp_path / "disk", tmp_path / "empty", 64 * KIB):
            pass
    except subprocess.CalledProcessError:
        pytest.skip("no disk can be mounted here")
    counts = FullDisk(tmp_path / "campaign", seed=0).run(len(CASES), list(CASES))
    assert not counts["failed"], counts


if __name__ == "__main__":
    chosen = sys.argv[4:] or list(CASES)
    print(json.dumps(FullDisk(Path(sys.argv[1]), int(sys.argv[3])).run(int(sys.argv[2]), chosen)))
