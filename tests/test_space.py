"""The Hugging Face Space of `deploy/`, with Gradio's own server and client."""

import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from PIL import Image

import tfdetect

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Gradio's own
def test_the_space_gives_the_verdict_of_predict(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from gradio_client import Client, handle_file

    folder = shutil.copytree(ROOT / "deploy" / "huggingface-space", tmp_path / "space")
    shutil.copytree(ROOT / "saved_models" / "localizer_photos", folder / "run")
    path = tmp_path / "photo.png"
    Image.effect_noise((320, 200), 60).convert("RGB").save(path)
    spec = spec_from_file_location("space", folder / "app.py")
    app = module_from_spec(spec)
    spec.loader.exec_module(app)
    _, address, _ = app.demo.launch(prevent_thread_lock=True, quiet=True)
    try:
        ask = Client(address, verbose=False).predict
        label, sentence, overlay = ask(handle_file(path), api_name="/examine")
        [row] = tfdetect.load(folder / "run").predict(path, progress=False)
        found = {each["label"]: each["confidence"] for each in label["confidences"]}
        assert found["inpainted"] == pytest.approx(row["p_fake"], abs=1e-3)
        said = "Inconclusive" if row["inconclusive"] else f"Verdict: {row['verdict']}"
        assert sentence.startswith(said) and Path(overlay).is_file()
        path.write_bytes(b"rubbish")
        with pytest.raises(Exception, match="not an image|cannot identify|rror"):
            ask(handle_file(path), api_name="/examine")
    finally:
        app.demo.close()
