"""`tfdetect models`: list the published detectors."""

import sys

from tfdetect.core import cli, console
from tfdetect.core.load_experiment import published
from tfdetect.core.run_command import run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect models",
        description="List the published detectors that 'tfdetect train --model NAME' trains: what "
        "they take, how many trainable parameters they have (with the published head), where they "
        "come from and what they are for.",
        examples=[
            ("tfdetect models", "a table"),
            ("tfdetect train --model npr --dataset path/to/folder", "train one of them"),
        ],
    )
    cli.add_json(p)
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
            "parameters": about.parameters,
            "paper": about.paper,
            "use case": about.use_case,
        }
        for name, experiment in published().items()
        if (about := experiment.published)
    ]
    if args.json:
        return console.print_json(rows)
    shown = [{**row, "parameters": f"{row['parameters']:,}"} for row in rows]
    console.table(shown, max_widths={"paper": 28, "use case": 44})
    console.result("\nnext    python -m tfdetect.train --model NAME --dataset DATASET")


if __name__ == "__main__":
    sys.exit(run_command(main))
