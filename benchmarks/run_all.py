"""Compares tfdetect with its peers on this machine, and writes one table.

    python benchmarks/run_all.py --peers PEERS/bin/python --cifake CIFAKE --photographs DIR
    python benchmarks/run_all.py --guard            # compare a new record with the stored one

Training and prediction against PyTorch and Keras on JAX, prediction from files against bare loops,
input against other loaders, searches against Optuna. Each figure is a ratio of images (or trials)
per second, ours to the peer's: the median of paired rounds, and the range of the rounds. The record
is a JSON file per benchmark and the table `speed.md` in the folder `--results`; what it has already
is not measured again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from timing import Results

HERE = Path(__file__).parent
STORED = HERE / "record"
RECORDS = ("peers", "predict_peers", "input_peers", "search_peers")
TOLERANCE = 0.9  # a ratio may fall so far below what was stored before it counts as a regression


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--cifake", type=Path, metavar="DIR", help="folder with 32-pixel JPEG")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="folder with JPEG")
    parser.add_argument("--results", type=Path, default=Path("record"), help="folder (record)")
    parser.add_argument("--guard", action="store_true", help="measure nothing; exit with 1 if a "
                        "ratio in --results is lower than in benchmarks/record")  # fmt: skip
    args = parser.parse_args()
    if args.guard:
        return guard(args.results)
    args.results.mkdir(exist_ok=True)
    if args.peers:
        peers = ["--peers", args.peers]
        run(args.results, "peers", *peers)
        for side, folder in ((32, args.cifake), (224, args.photographs)):
            if folder:
                for name in ("predict_peers", "input_peers"):
                    run(args.results, name, *peers, "--data", folder, "--side", side)
        run(args.results, "search_peers", *peers)
    text = table(args.results)
    (args.results / "speed.md").write_text(text)
    print(text)


def run(results, name, *arguments):
    command = [HERE / f"{name}.py", *arguments, "--results", results / f"{name}.json"]
    subprocess.run([sys.executable, *map(str, command)], check=True)


def table(folder):
    """Return the record as Markdown: one row for each case and peer."""
    lines, about = ["| Case | Peer | By the clock | By processor time |", "|---|---|---|---|"], {}
    for name in RECORDS:
        for case, found in Results(folder / f"{name}.json").cases.items():
            about[", ".join(f"{key} {value}" for key, value in found["machine"].items())] = None
            for peer in found["clock"]["ratios"]:
                facts = found["facts"][peer]
                packages = [f"{k} {v}" for k, v in facts.items() if k != "parameters"]
                both = [found[by]["ratios"][peer] for by in ("clock", "processor")]
                cells = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in both]
                lines.append(f"| {case} | {peer} ({', '.join(packages)}) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"Machine: {each}" for each in about), ""])


def guard(folder):
    """Print the ratios that fell below the stored ones; return 1 if there are any."""
    worse = 0
    for name in RECORDS:
        stored, now = (Results(each / f"{name}.json").cases for each in (STORED, folder))
        for case in sorted(stored.keys() & now.keys()):
            # By processor time, which other work on the machine hardly changes.
            ratios = now[case]["processor"]["ratios"]
            for peer, (middle, low, _) in stored[case]["processor"]["ratios"].items():
                new = ratios.get(peer)
                # The rounds of both records must disagree, too.
                if new and new[0] < TOLERANCE * middle and new[2] < low:
                    worse += 1
                    print(f"{case} against {peer}: {new[0]:.2f}, was {middle:.2f}")
    print(f"{worse} ratios are lower than in {STORED}" if worse else "No ratio is lower.")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
