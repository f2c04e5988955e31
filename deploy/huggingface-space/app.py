"""A Hugging Face Space: drop an image, read the verdict."""

import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

import tfdetect

detector = tfdetect.load(Path(__file__).parent / "run")


def examine(image):
    """Return the probabilities by class, a sentence, and an overlay of the altered regions."""
    with tempfile.TemporaryDirectory() as folder:
        masks = folder if detector.run.predicts_masks else None
        [row] = detector.predict(image, masks=masks, progress=False)
        overlays = list(Path(folder).glob("*overlay*.png"))
        shown = Image.open(overlays[0]).copy() if overlays else None
    verdict = "Inconclusive" if row["inconclusive"] else f"Verdict: {row['verdict']}"
    return {name: row[f"probability_{name}"] for name in detector.class_names}, verdict, shown


gr.Interface(
    examine,
    gr.Image(type="pil", label="Image"),
    [gr.Label(label="Probability"), gr.Textbox(label="Verdict"), gr.Image(label="Altered regions")],
    title="Is this image authentic?",
    description="A detector's verdict is evidence, not proof.",
).launch()
