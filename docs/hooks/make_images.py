"""Make the pictures in docs/images that show the shipped localizer at work, with headless Chromium.

    python docs/hooks/make_images.py

Run it when the shipped localizer or the page about an image has changed. The photographs, a coffee
cup and a cat, come with scikit-image; `synthesize` alters them. They are not in the localizer's
training set. The other pictures are figures of reports: docs/results names the commands.
"""

import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data, io

import tfdetect
from tfdetect.synthesis.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
WIDTH = 1000


def main() -> None:
    """Write the pictures."""
    detector = tfdetect.load(ROOT / "saved_models" / "localizer_photos")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forged, _ = forgery(folder, "coffee", "navier_stokes", (0.08, 0.15))
        verdict_page(detector, forged.rename(folder / "coffee_cup.webp"), folder)
        rows = [forgery(folder, "cat", "navier_stokes", (0.2, 0.4)),
                forgery(folder, "coffee", "copy_move", (0.1, 0.3))]  # fmt: skip
        localized(detector, rows, folder)


def forgery(
    folder: Path, photo: str, fill: str, coverage: tuple[float, float]
) -> tuple[Path, Path]:
    """Return the paths of a forgery of a photograph and of its mask."""
    place = folder / f"{photo}-{fill}"
    (place / "photos").mkdir(parents=True)
    io.imsave(place / "photos" / f"{photo}.png", getattr(data, photo)(), check_contrast=False)
    settings = Settings(masks=("blob",), fills=(fill,), coverage=coverage, seed=3)
    tfdetect.synthesize(place / "photos", place / "forged", settings)
    forged = next((place / "forged").rglob("*.realfake.webp"))
    return forged, forged.with_name(forged.name.replace(".realfake.", ".mask."))


def verdict_page(detector: tfdetect.Detector, image: Path, folder: Path) -> None:
    """Write the page about an image in three pictures, each of which begins with a section."""
    page = detector.predict(image, pages=folder / "pages").pages[0]
    text = page.read_text(encoding="utf-8")
    whole, top = screenshot(page, 8000), 0
    for name, following in (("page", "What is known about the image"),
                            ("known", "Does the verdict survive re-encoding?"),
                            ("evidence", None)):  # fmt: skip
        bottom = whole.height
        if following:
            part = folder / f"{name}.html"
            start = text.rindex("<section", 0, text.index(f"{following}</h2>"))
            part.write_text(text[:start] + "</body></html>", encoding="utf-8")
            bottom = screenshot(part, 8000).height
        whole.crop((0, top, WIDTH, bottom)).quantize(128).save(
            IMAGES / f"verdict_{name}.png", optimize=True
        )
        top = bottom


def localized(detector: tfdetect.Detector, rows: list[tuple[Path, Path]], folder: Path) -> None:
    """Write a picture with a row for each forgery: the image, its mask, the predicted mask."""
    width, height, gap = 300, 200, 6
    sheet = Image.new(
        "RGB", (3 * width + 2 * gap, len(rows) * (height + gap) - gap), (255, 255, 255)
    )
    for number, (image, mask) in enumerate(rows):
        detector.predict(image, masks=folder / f"masks{number}")
        overlay = next((folder / f"masks{number}").glob("*.overlay.png"))
        for column, path in enumerate((image, mask, overlay)):
            picture = Image.open(path).convert("RGB").resize((width, height))
            sheet.paste(picture, (column * (width + gap), number * (height + gap)))
    sheet.save(IMAGES / "localized.jpg", quality=90)


def screenshot(page: Path, height: int) -> Image.Image:
    """Return what Chromium draws of a page, without the empty rest at its bottom."""
    target = page.with_suffix(".png")
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu",
         f"--user-data-dir={page.parent / 'profile'}", f"--screenshot={target}",
         f"--window-size={WIDTH},{height}", page.resolve().as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip
    image = Image.open(target).convert("RGB")
    gray = image.convert("L").point(lambda v: 255 if v < 250 else 0)
    return image.crop((0, 0, WIDTH, min(image.height, gray.getbbox()[3] + 30)))


if __name__ == "__main__":
    main()
