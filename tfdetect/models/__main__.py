"""`python -m tfdetect.models`: lists the published detectors."""

import sys

from tabulate import tabulate

from tfdetect.core.cli import Parser, run_command
from tfdetect.core.experiment import published


def parser() -> Parser:
    p = Parser(
        prog="tfdetect models",
        description="Lists the published detectors, which train --model trains. Parameters are "
        "trainable ones, with the published head.",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    rows = [
        {
            "model": name,
            "input": "x".join(map(str, experiment.data.image_size)),
            "front-end": experiment.model.front_end,
            "backbone": experiment.model.backbone,
            "output": "label" if experiment.model.mask_head is None else "label, mask",
            "parameters": experiment.published.parameters,
            "paper": experiment.published.paper,
            "good at": experiment.published.good_at,
        }
        for name, experiment in published().items()
    ]
    if args.json:
        import json

        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            row["parameters"] = f"{row['parameters']:,}"
        columns = [None] * 6 + [28, 44]
        print(
            tabulate(
                rows, headers="keys", maxcolwidths=columns, colalign=("left",) * 5 + ("right",)
            )
        )
        print("\nTrain one: python -m tfdetect.train --model NAME --dataset DATASET")


if __name__ == "__main__":
    sys.exit(run_command(main))
