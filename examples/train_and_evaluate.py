"""Audit a dataset, train a detector on it, and measure it on other images.

python examples/train_and_evaluate.py my_images other_images
python examples/train_and_evaluate.py demo
"""

import argparse

import tfdetect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="folder with one folder per class, or a dataset's name")
    parser.add_argument("other", nargs="?", help="other images to measure the detector on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", default="saved_models")
    args = parser.parse_args()

    audit = tfdetect.audit(args.dataset, output=f"{args.output}/audit")
    print("Audit:", audit.verdict)

    run = tfdetect.train(
        args.dataset, overrides={"training.epochs": args.epochs}, output=args.output
    )
    print("Test AUC:", repr(run.metrics["test"]["auc"]))

    if args.other:
        results = tfdetect.evaluate(run, args.other)
        for split, metrics in results.metrics.items():
            print(split, {name: round(value, 4) for name, value in metrics.items()})


if __name__ == "__main__":
    main()
