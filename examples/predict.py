"""Print a verdict for each image that is named on the command line.

python examples/predict.py saved_models/localizer_photos photo.jpg folder/
"""

import sys

import tfdetect


def main(run: str, *images: str) -> None:
    detector = tfdetect.load(run)
    for row in detector.predict(images):
        if row["error"]:
            print(f"{row['path']}: {row['error']}")
            continue
        verdict = "inconclusive" if row["inconclusive"] else row["verdict"]
        print(f"{row['path']}: {verdict}, P(fake) = {row['p_fake']:.3f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
