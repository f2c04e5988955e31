"""A Hugging Face Space: drop an image, read the verdict."""

import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

import tfdetect

detector = tfdetect.load(Path(__file__).parent / "run")


def examine(path):
    """Return the probabilities by class, a sentence, and an overlay of the altered regions."""
    if path is None:
        raise gr.Error("Choose an image first.")
    with tempfile.TemporaryDirectory() as folder:
        masks = folder if detector.run.predicts_masks else None
        [row] = detector.predict(path, masks=masks, progress=False)
        if row["error"]:
            raise gr.Error(row["error"])
        overlays = list(Path(folder).glob("*overlay*.png"))
        shown = Image.open(overlays[0]).copy() if overlays else None
    verdict = "Inconclusive." if row["inconclusive"] else f"Verdict: {row['verdict']}."
    if row["in_domain"] is False:
        verdict += f" The detector was not made for such images: unlike in {row['domain_reasons']}."
    return {name: row[f"probability_{name}"] for name in detector.class_names}, verdict, shown


demo = gr.Interface(
    examine,
    gr.Image(type="filepath", label="Image"),  # the file itself: a copy would hide its traces
    [gr.Label(label="Probability"), gr.Textbox(label="Verdict"), gr.Image(label="Altered regions")],
    title="Is this image authentic?",
    description="A detector's verdict is evidence, not proof.",
)

if __name__ == "__main__":
    demo.launch()
