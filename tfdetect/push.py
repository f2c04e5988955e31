"""`tfdetect push`: upload a run to Hugging Face's or Kaggle's hub."""

import sys

from tfdetect.core import cli, console
from tfdetect.core.run_command import run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect push",
        description="Upload a run to a hub: its model and exports, its metrics, and a model card. "
        "Directories of this machine, predictions of single images and logs stay here. Everybody "
        "with access can then name the address instead of a folder: tfdetect predict "
        "hf://user/my-run photo.jpg. Log in before: hf auth login, or kagglehub's login(). Needs: "
        'pip install "tfdetect[hub]".',
        examples=[
            ("tfdetect push saved_models/my_run hf://user/my-run", "to Hugging Face"),
            ("tfdetect push saved_models/my_run kaggle://user/my-run/keras/base", "to Kaggle"),
        ],
    )
    cli.add_run(p)
    p.add_argument("target", metavar="ADDRESS", help="hf://USER/REPOSITORY[@BRANCH] or "
                   "kaggle://USER/MODEL/FRAMEWORK/VARIATION")  # fmt: skip
    p.add_argument(
        "--private",
        action="store_true",
        help="make a new repository private (default: it is public)",
    )
    p.add_argument("--license", metavar="NAME", help="license of the model, as the hub calls it, "
                   "such as mit (default: none is named)")  # fmt: skip
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    address = api.push(args.run, args.target, private=args.private, license_name=args.license)
    if args.json:
        return console.print_json({"address": address})
    console.result(f"Load it with: tfdetect predict {address} photo.jpg")


if __name__ == "__main__":
    sys.exit(run_command(main))
