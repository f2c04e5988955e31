"""Make the two pictures of a verdict page in docs/images anew, with headless Chromium.

    python docs/hooks/make_verdict_images.py

Run it when the shipped localizer or the page has changed. The image is a photograph of
scikit-image, a coffee cup, that `synthesize` alters; it is not in the localizer's training set.
"""

import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data, io

import tfdetect
from tfdetect.synthesis.forge import Settings

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        io.imsave(folder / "photos" / "coffee.png", data.coffee(), check_contrast=False)
        settings = Settings(
            masks=("blob",), fills=("navier_stokes",), coverage=(0.08, 0.15), seed=3
        )
        tfdetect.synthesize(folder / "photos", folder / "forged", settings)
        forged = next((folder / "forged").rglob("*.realfake.webp"))
        forged = forged.rename(folder / "coffee_cup.webp")
        detector = tfdetect.load(ROOT / "saved_models" / "localizer_photos")
        page = detector.predict(forged, pages=folder / "pages").pages[0]
        text = page.read_text(encoding="utf-8")
        # The first picture ends where the second section begins.
        first = folder / "first.html"
        start = text.index("<section", text.index("What the probability means</h2>"))
        first.write_text(text[:start] + "</body></html>", encoding="utf-8")
        screenshot(first, 2600).quantize(128).save(
            ROOT / "docs" / "images" / "verdict_page.png", optimize=True
        )
        top = screenshot(first, 2600).height
        whole = screenshot(page, 6000)
        whole.crop((0, top, WIDTH, whole.height)).quantize(128).save(
            ROOT / "docs" / "images" / "verdict_evidence.png", optimize=True
        )


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
