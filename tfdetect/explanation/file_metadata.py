"""Reads what an image file says about itself: format, EXIF, notes of generators, XMP, C2PA."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tfdetect.auditing.traits import jpeg_quality
from tfdetect.imaging.pillow import opened

MAX_LENGTH = 300  # characters of a value that are shown
_CAMERA = ("Make", "Model", "LensModel", "DateTimeOriginal", "ExposureTime", "FNumber",
           "ISOSpeedRatings", "FocalLength")  # fmt: skip
# Keys of PNG text chunks in which programs store how they generated an image.
_NOTES = {
    "parameters": "Stable Diffusion web UI", "prompt": "ComfyUI", "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI", "invokeai_graph": "InvokeAI", "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI", "generation_data": "a diffusion service",
}  # fmt: skip
_GENERATORS = re.compile(
    r"stable.?diffusion|sdxl|midjourney|dall.?e|openai|firefly|novelai|comfyui|invokeai|"
    r"automatic1111|imagen|gemini|flux\.1|leonardo\.ai|ideogram|dreamstudio|bing image creator|"
    r"made with google ai|grok", re.I,
)  # fmt: skip
_EDITORS = re.compile(
    r"photoshop|gimp|lightroom|affinity|snapseed|facetune|faceapp|picsart|canva|pixelmator|"
    r"capture one|darktable|luminar|paint\.net|krita|meitu|remini", re.I,
)  # fmt: skip
# IPTC's controlled vocabulary of digital source types.
_SOURCES = {
    "trainedAlgorithmicMedia": ("generated", "made by a trained generator"),
    "compositeWithTrainedAlgorithmicMedia": ("generated", "partly made by a trained generator"),
    "compositeSynthetic": ("generated", "composed with synthetic elements"),
    "algorithmicMedia": ("generated", "made by an algorithm"),
    "algorithmicallyEnhanced": ("edited", "enhanced by an algorithm"),
    "humanEdits": ("edited", "edited by a person"),
    "minorHumanEdits": ("edited", "edited a little by a person"),
    "digitalCapture": ("camera", "captured by a camera"),
}


@dataclass(frozen=True)
class Fact:
    """One statement of a file about itself.

    Attributes:
        name: of the statement, such as "software".
        value: as the file has it, shortened.
        meaning: in words; "" where the value needs no explanation.
        kind: "generated", "edited" or "camera" where the file declares that; else "".
    """

    name: str
    value: str
    meaning: str = ""
    kind: str = ""


def read_metadata(path: str | Path) -> list[Fact]:
    """Return what a file says about itself. Everything except a signature can be rewritten."""
    path, facts = Path(path), []
    try:
        with opened(path) as image:
            for read in (_format, _exif, _notes, _xmp):
                facts += read(image, path)
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        facts.append(_fact("metadata", f"cannot be read: {error}"))
    return [*facts, *_c2pa(path)]


def format_of(path: str | Path) -> str:
    """Return a file's format as Pillow calls it, such as JPEG; "" if Pillow cannot read it."""
    try:
        with opened(path) as image:
            return str(image.format)
    except Exception:  # Pillow's plugins raise many kinds for damaged files
        return ""


def _fact(name: str, value: Any, meaning: str = "", kind: str = "") -> Fact:
    """Return a fact with a value of one line, shortened."""
    text = " ".join(str(value).split())
    text = text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."
    return Fact(name, text, meaning, kind)


def _format(image: Image.Image, path: Path) -> list[Fact]:
    """Return format, size and JPEG quality."""
    facts = [
        _fact("format", f"{image.format}, {image.mode}"),
        _fact("size", f"{image.width} x {image.height} pixels, {path.stat().st_size:,} bytes"),
    ]
    tables = getattr(image, "quantization", None)
    if tables:
        quality, standard = jpeg_quality(tables)
        how = "tables of libjpeg" if standard else "nearest; the tables are of another program"
        if quality is not None:
            facts.append(_fact("JPEG quality", f"{quality:.0f} ({how})"))
    if "icc_profile" in image.info:
        facts.append(_fact("color profile", f"{len(image.info['icc_profile']):,} bytes"))
    return facts


def _exif(image: Image.Image, _path: Path) -> list[Fact]:
    """Return camera, location, software and comments in EXIF."""
    from PIL import ExifTags

    try:
        exif = image.getexif()
        tags = dict(exif) | dict(exif.get_ifd(ExifTags.IFD.Exif))
        location = bool(exif.get_ifd(ExifTags.IFD.GPSInfo))
    except Exception as error:  # Pillow raises many kinds for damaged EXIF
        return [_fact("EXIF", f"damaged: {error}")]
    named = {ExifTags.TAGS.get(tag, str(tag)): value for tag, value in tags.items()}
    camera = {key: str(named[key]).strip("\0 ") for key in _CAMERA if key in named}
    facts: list[Fact] = []
    if camera:
        text = ", ".join(f"{key} {value}" for key, value in camera.items())
        meaning = "cameras write this; it is easily copied into another file"
        facts.append(_fact("camera (EXIF)", text, meaning, "camera" if "Make" in camera else ""))
    if location:
        facts.append(_fact("location (EXIF)", "present"))
    facts += [
        _program(f"{name} (EXIF)", str(named[tag]))
        for tag, name in (("Software", "software"), ("ProcessingSoftware", "software"),
                          ("ImageDescription", "description"), ("Artist", "artist"))
        if str(named.get(tag, "")).strip("\0 ")
    ]  # fmt: skip
    comment = named.get("UserComment", b"")
    if isinstance(comment, bytes) and len(comment) > 8:
        text = _comment(comment)
        sampled = "Steps:" in text and "Sampler" in text
        note = (
            ("the form in which Stable Diffusion web UI stores its settings", "generated")
            if sampled
            else ()
        )
        facts.append(_fact("comment (EXIF)", text, *note))
    return facts


def _comment(data: bytes) -> str:
    """Return an EXIF user comment, whose first eight bytes name the encoding, as text."""
    if data.startswith(b"UNICODE"):
        order = "utf-16-be" if data[8:9] == b"\0" else "utf-16-le"
        return data[8:].decode(order, "replace")
    return data[8:].decode("utf-8", "replace").strip("\0")


def _program(name: str, value: str) -> Fact:
    """Return the name of a program, with what kind of program it is."""
    if _GENERATORS.search(value):
        return _fact(name, value, "names an image generator", "generated")
    if _EDITORS.search(value):
        return _fact(name, value, "names an image editor", "edited")
    return _fact(name, value)


def _notes(image: Image.Image, _path: Path) -> list[Fact]:
    """Return text chunks and comments."""
    facts: list[Fact] = []
    for key, value in image.info.items():
        if key in _NOTES and isinstance(value, str):
            meaning = f"the form in which {_NOTES[key]} stores its settings"
            facts.append(_fact(f"text {key!r}", value, meaning, "generated"))
        elif key in ("Software", "Comment", "comment", "Description", "Source", "Title"):
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            facts.append(_program(f"text {key!r}", text))
    return facts


def _xmp(image: Image.Image, _path: Path) -> list[Fact]:
    """Return programs and digital source type in XMP."""
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    facts: list[Fact] = []
    for name in ("CreatorTool", "Credit", "softwareAgent"):
        # As an attribute or as an element.
        for first, second in re.findall(rf'{name}="([^"]+)"|{name}>([^<]+)<', text):
            value = (first or second).strip()
            if value and all(f.value != value for f in facts):
                facts.append(_program(f"{name} (XMP)", value))
    return facts + _sources(text, "digital source type (XMP)")


def _sources(text: str, name: str) -> list[Fact]:
    """Return the digital source types of IPTC that a text names."""
    facts: list[Fact] = []
    for source in dict.fromkeys(re.findall(r"digitalsourcetype/(\w+)", text)):
        kind, meaning = _SOURCES.get(source, ("", ""))
        facts.append(_fact(name, source, f"the file declares: {meaning}" if meaning else "", kind))
    return facts


def _c2pa(path: Path) -> list[Fact]:
    """Return the content credentials, read by the C2PA project's own library (c2pa-python)."""
    name = "content credentials (C2PA)"
    try:
        import c2pa
    except ImportError:
        there = b"c2pa" in path.read_bytes()
        text = "present, not read: pip install 'tfdetect[c2pa]'" if there else "not looked for"
        return [_fact(name, text)] if there else []
    try:
        with c2pa.Reader(str(path)) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in f"{type(error).__name__} {error}":
            return []
        if "NotSupported" in f"{type(error).__name__} {error}":
            return []
        return [_fact(name, f"cannot be read: {error}")]
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    state = store.get("validation_state", "unknown")
    meanings = {
        "Trusted": "signed by somebody on the trust list, and unchanged since",
        "Valid": "unchanged since it was signed; the signer is not on the trust list",
        "Invalid": "changed since it was signed, or not signed correctly",
    }
    generators = [str(g.get("name", "")) for g in manifest.get("claim_generator_info", [])]
    generator = " ".join(generators) or str(manifest.get("claim_generator", "unknown"))
    issuer = manifest.get("signature_info", {}).get("issuer", "unknown")
    fact = _program(name, f"by {generator}, signed by {issuer}")
    facts = [Fact(fact.name, fact.value, meanings.get(state, state),
                  "" if state == "Invalid" else fact.kind)]  # fmt: skip
    sources = _sources(json.dumps(manifest.get("assertions", [])), f"digital source type ({name})")
    return facts + (sources if state != "Invalid" else [])
