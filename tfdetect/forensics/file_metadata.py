"""Reads what an image file says about itself: format, EXIF, notes of generators, XMP, C2PA."""

import io
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.packages import with_extra
from tfdetect.core.text import printable
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.headers import admitted
from tfdetect.imaging.jpeg_tables import jpeg_quality
from tfdetect.imaging.pillow import opened

MAX_LENGTH = 300  # characters of a value that are shown
MAX_TEXT = 200_000  # characters of a note, of XMP or of content credentials that are searched
_CAMERA = ("Make", "Model", "LensModel", "DateTimeOriginal", "ExposureTime", "FNumber",
           "ISOSpeedRatings", "FocalLength")  # fmt: skip
_EXPOSURE = ("ExposureTime", "FNumber", "ISOSpeedRatings", "FocalLength")
# Keys of PNG text chunks in which programs store how they generated an image.
_NOTES = {
    "parameters": "Stable Diffusion web UI", "prompt": "ComfyUI", "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI", "invokeai_graph": "InvokeAI", "invokeai_workflow": "InvokeAI",
    "sd-metadata": "InvokeAI", "Dream": "InvokeAI", "fooocus_scheme": "Fooocus",
    "sui_image_params": "SwarmUI", "generation_data": "a diffusion service",
}  # fmt: skip
# Programs that are named in fields for programs and credits.
_GENERATORS = re.compile(
    r"stable.?diffusion|sdxl|midjourney|dall.?e\b|openai|chatgpt|gpt-4o|gpt-image|firefly|novelai|"
    r"comfyui|invokeai|fooocus|swarmui|draw things|automatic1111|sd-webui|google imagen|"
    r"\bimagen ?\d|gemini|nano.?banana|flux[. _-]?1|black.?forest.?labs|leonardo\.ai|ideogram|"
    r"dreamstudio|dream ?studio|bing image creator|made with google ai|\bgrok\b|recraft|"
    r"stability ai|runwayml", re.I,
)  # fmt: skip
# What a description must say to be more than a mention of a name: "Gemini" is a constellation,
# too, and "imagen" is Spanish for picture.
_DECLARATIONS = re.compile(
    r"made with google ai|midjourney|generated (?:by|with|using) (?:ai\b|stable|dall|firefly)|"
    r"ai[- ]generated|\bjob id: ?[0-9a-f]{8}-|stable.?diffusion|novelai|\bdall.?e [23]\b|comfyui",
    re.I,
)
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
    "computationalCapture": ("camera", "captured by a camera that computes"),
}
_MIME = {
    "JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp", "TIFF": "image/tiff",
    "GIF": "image/gif", "AVIF": "image/avif", "HEIF": "image/heic",
}  # fmt: skip
_IPTC = {(2, 110): "credit", (2, 115): "source", (2, 120): "caption", (2, 65): "program",
         (2, 40): "instructions"}  # fmt: skip
C2PA = "content credentials (C2PA)"


@dataclass(frozen=True)
class Fact:
    """One statement of a file about itself.

    Attributes:
        name: the name of the statement, such as "software".
        value: as the file has it, shortened, without control characters.
        meaning: in words; "" where the value needs no explanation.
        kind: "generated", "edited" or "camera" where the file declares that; else "".
        signature: for content credentials "Trusted", "Valid" or "Invalid"; "" of anything else.
    """

    name: str
    value: str
    meaning: str
    kind: str
    signature: str


def read_metadata(file: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> list[Fact]:
    """Return what a file says about itself. Everything except a signature can be rewritten.

    Args:
        file: a path, or the bytes of a file.
        max_pixels: of larger images nothing is read.
    """
    facts: list[Fact] = []
    try:
        data = file if isinstance(file, bytes) else read_bytes(file, max_pixels)
        container = admitted(data, max_pixels).container
    except ImageError as error:
        return [_fact("metadata", f"cannot be read: {error}")]
    try:
        with opened(data, max_pixels) as image:
            for read in (_format, _exif, _notes, _iptc, _xmp):
                facts += read(image, data)
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        facts.append(_fact("metadata", f"cannot be read: {error}"))
    return [*facts, *_c2pa(data, container)]


def format_of(path: str | Path, max_pixels: int) -> str:
    """Return a file's format as Pillow calls it, such as JPEG; "" if Pillow cannot read it.

    Args:
        path: the file.
        max_pixels: an image with more pixels is not read.
    """
    try:
        with opened(path, max_pixels) as image:
            return str(image.format)
    except Exception:  # Pillow's plugins raise many kinds for damaged files
        return ""


def _fact(name: str, value: Any, meaning: str = "", kind: str = "", signature: str = "") -> Fact:
    """Return a fact with a value of one line, shortened."""
    text = " ".join(str(value)[:MAX_TEXT].split())
    text = text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."
    return Fact(name, printable(text), meaning, kind, signature)


_ORIENTATION = 0x0112  # from 5 on, width and height change places


def _format(image: Image.Image, data: bytes) -> list[Fact]:
    """Return format, size and JPEG quality."""
    facts = [
        _fact("format", f"{image.format}, {image.mode}"),
        _fact("size", f"{_size(image)} pixels, {len(data):,} bytes"),
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


def _plain(value: object) -> str:
    """Return a value of EXIF as text; a fraction such as an exposure time as 1/15."""
    if isinstance(value, IFDRational) and value.denominator:
        exact = Fraction(int(value.numerator), int(value.denominator)).limit_denominator(10_000)
        return str(exact) if exact.numerator == 1 else f"{float(value):g}"
    return str(value).strip("\0 ")


def _size(image: Image.Image) -> str:
    """Return width and height as stored, and as shown where EXIF says that the image is turned."""
    stored = f"{image.width} x {image.height}"
    with suppress(Exception):  # Pillow raises many kinds for damaged EXIF
        if image.getexif().get(_ORIENTATION, 1) >= 5:
            return f"{image.height} x {image.width} (stored as {stored})"
    return stored


def _exif(image: Image.Image, _data: bytes) -> list[Fact]:
    """Return camera, location, software and comments in EXIF."""
    from PIL import ExifTags

    try:
        exif = image.getexif()
        tags = dict(exif) | dict(exif.get_ifd(ExifTags.IFD.Exif))
        gps = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
    except Exception as error:  # Pillow raises many kinds for damaged EXIF
        return [_fact("EXIF", f"damaged: {error}")]
    named = {ExifTags.TAGS.get(tag, str(tag)): value for tag, value in tags.items()}
    facts = _camera(named)
    if gps:
        meaning = "where the camera says that it was; it is easily changed or copied"
        facts.append(_fact("location (EXIF)", _location(gps), meaning))
    for tag in ("Software", "ProcessingSoftware"):
        if text := str(named.get(tag, "")).strip("\0 "):
            facts.append(_program("software (EXIF)", text))
    for tag, name in (("ImageDescription", "description"), ("Artist", "artist")):
        if text := str(named.get(tag, "")).strip("\0 "):
            facts.append(_description(f"{name} (EXIF)", text))
    comment = named.get("UserComment", b"")
    if isinstance(comment, bytes) and (text := _comment(comment[:MAX_TEXT]).strip()):
        facts.append(_settings("comment (EXIF)", text))
    return facts


def _camera(named: dict[str, Any]) -> list[Fact]:
    """Return camera, exposure and maker note of EXIF's fields by their names."""
    camera = {key: text for key in _CAMERA if (text := _plain(named.get(key, "")))}
    facts: list[Fact] = []
    if camera:
        text = ", ".join(f"{key} {value}" for key, value in camera.items())
        meaning = "cameras write this; it is easily copied into another file"
        facts.append(_fact("camera (EXIF)", text, meaning, "camera" if "Make" in camera else ""))
        if any(key in camera for key in _EXPOSURE):
            facts.append(_fact("exposure (EXIF)", "present"))
    if len(note := named.get("MakerNote", b"")) > 0:
        facts.append(_fact("maker note (EXIF)", f"{len(note):,} bytes"))
    return facts


def _location(gps: dict[int, Any]) -> str:
    """Return coordinates, direction and time of EXIF's GPS fields, as far as they can be read."""
    from PIL.ExifTags import GPS

    places = []
    for axis, largest in ((GPS.GPSLatitude, 90), (GPS.GPSLongitude, 180)):
        with suppress(TypeError, ValueError, ZeroDivisionError):
            degrees, minutes, seconds = (float(number) for number in gps.get(axis, ()))
            degrees += minutes / 60 + seconds / 3600
            side = _plain(gps.get(axis - 1, ""))  # N, S, E or W
            if 0 <= degrees <= largest and side in ("N", "S", "E", "W"):
                places.append(f"{degrees:.5f}\N{DEGREE SIGN} {side}")
    told = [" ".join(places) if len(places) == 2 else "present, without readable coordinates"]
    with suppress(TypeError, ValueError, ZeroDivisionError):
        direction = float(gps[GPS.GPSImgDirection]) if GPS.GPSImgDirection in gps else math.nan
        if 0 <= direction <= 360:
            told.append(f"facing {direction:.0f}\N{DEGREE SIGN}")
    if date := _plain(gps.get(GPS.GPSDateStamp, "")):
        with suppress(TypeError, ValueError, ZeroDivisionError):
            clock = ":".join(f"{int(number):02}" for number in gps.get(GPS.GPSTimeStamp, ()))
            told.append(f"{date} {clock} UTC".replace("  ", " "))
    return ", ".join(told)


def _comment(data: bytes) -> str:
    """Return an EXIF user comment, whose first eight bytes name the encoding, as text."""
    if data.startswith(b"UNICODE"):
        order = "utf-16-be" if data[8:9] == b"\0" else "utf-16-le"
        return data[8:].decode(order, "replace")
    return data[8:].decode("utf-8", "replace").strip("\0")


def _settings(name: str, text: str) -> Fact:
    """Return a comment, which may hold the settings of a generator."""
    if "Steps:" in text and "Sampler" in text:
        meaning = "the form in which Stable Diffusion web UI stores its settings"
        return _fact(name, text, meaning, "generated")
    return _description(name, text)


def _program(name: str, value: str) -> Fact:
    """Return the name of a program, with what kind of program it is."""
    searched = value[:MAX_TEXT]
    if _GENERATORS.search(searched):
        return _fact(name, value, "names an image generator", "generated")
    if _EDITORS.search(searched):
        return _fact(name, value, "names an image editor", "edited")
    return _fact(name, value)


def _description(name: str, value: str) -> Fact:
    """Return free text, in which the name of a program alone says nothing."""
    if _DECLARATIONS.search(value[:MAX_TEXT]):
        return _fact(name, value, "says that the image was generated", "generated")
    return _fact(name, value)


def _notes(image: Image.Image, _data: bytes) -> list[Fact]:
    """Return text chunks and comments."""
    facts: list[Fact] = []
    for key, value in image.info.items():
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        name = f"text {key!r}"
        if key in _NOTES and isinstance(value, str):
            if _is_settings(key, text):
                meaning = f"the form in which {_NOTES[key]} stores its settings"
                facts.append(_fact(name, value, meaning, "generated"))
            else:
                facts.append(_fact(name, value))
        elif key == "Software":
            facts.append(_program(name, text))
        elif key in ("Comment", "comment", "Description", "Source", "Title"):
            facts.append(_settings(name, text))
    return facts


def _is_settings(key: str, text: str) -> bool:
    """Return whether a note has the form of a generator's settings, not just a usual name."""
    if key in ("prompt", "workflow"):  # ComfyUI: a graph of nodes
        return text.lstrip()[:1] in ("{", "[") and ("class_type" in text or '"nodes"' in text)
    if key == "parameters":
        return "Steps:" in text or text.lstrip()[:1] == "{"
    return True


def _iptc(image: Image.Image, _data: bytes) -> list[Fact]:
    """Return credits and programs in IPTC's older records."""
    from PIL import IptcImagePlugin

    try:
        records = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    except Exception as error:  # Pillow raises many kinds for damaged records
        return [_fact("IPTC", f"damaged: {error}")]
    facts = []
    for key, name in _IPTC.items():
        value = records.get(key)
        for each in (value if isinstance(value, list) else [value])[:8]:
            if isinstance(each, bytes) and each.strip():
                text = each.decode("utf-8", "replace")
                free = name in ("caption", "instructions")
                facts.append((_description if free else _program)(f"{name} (IPTC)", text))
    return facts


def _xmp(image: Image.Image, _data: bytes) -> list[Fact]:
    """Return programs and digital source type in XMP."""
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    data = data[:MAX_TEXT]
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    facts: list[Fact] = []
    for name in ("CreatorTool", "Credit", "softwareAgent"):
        # As an attribute or as an element.
        for first, second in re.findall(rf'{name}="([^"]+)"|{name}>([^<]+)<', text):
            value = (first or second).strip()
            if value and all(f.value != value for f in facts):
                facts.append(_program(f"{name} (XMP)", value))
    return facts + _sources(text, "digital source type (XMP)")


def _sources(text: str, name: str, signature: str = "") -> list[Fact]:
    """Return the digital source types of IPTC that a text names."""
    facts: list[Fact] = []
    for source in dict.fromkeys(re.findall(r"digitalsourcetype/(\w{1,60})", text[:MAX_TEXT])):
        kind, meaning = _SOURCES.get(source, ("", ""))
        facts.append(_fact(name, source, f"the file declares: {meaning}" if meaning else "", kind,
                           signature))  # fmt: skip
    return facts


UNREAD = f"Present, but not read. To read them: pip install '{with_extra('c2pa')}'"


def _c2pa(data: bytes, container: str) -> Iterator[Fact]:
    """Yield the content credentials, read by the C2PA project's own library (c2pa-python)."""
    try:
        import c2pa
    except ImportError:
        if b"jumb" in data and b"c2pa" in data:
            yield _fact(C2PA, UNREAD, signature="Unread")
        return
    if container not in _MIME:
        return
    try:
        with c2pa.Reader(_MIME[container], io.BytesIO(data)) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        if not re.search("ManifestNotFound|NotSupported", f"{type(error).__name__} {error}"):
            yield _fact(C2PA, f"cannot be read: {error}", signature="Invalid")
        return
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    state = str(store.get("validation_state", "unknown"))
    meanings = {
        "Trusted": "signed by somebody on the trust list, and unchanged since",
        "Valid": "unchanged since it was signed; the signer is not on the trust list",
        "Invalid": "changed since it was signed, or not signed correctly",
    }
    generators = [str(g.get("name", "")) for g in manifest.get("claim_generator_info", [])]
    generator = " ".join(generators) or str(manifest.get("claim_generator", "unknown"))
    issuer = manifest.get("signature_info", {}).get("issuer", "unknown")
    fact = _program(C2PA, f"by {generator}, signed by {issuer}")
    kind = fact.kind if state in ("Trusted", "Valid") else ""
    yield Fact(fact.name, fact.value, meanings.get(state, printable(state)), kind, state)
    if kind or state in ("Trusted", "Valid"):
        yield from _sources(
            json.dumps(manifest.get("assertions", [])), f"digital source type ({C2PA})", state
        )
