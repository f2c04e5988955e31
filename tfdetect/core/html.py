"""The style and the building blocks of every HTML page that tfdetect writes.

A page is one self-contained file: no script, no font and no image from elsewhere. It begins with a
headline block (a verdict, the figures that matter, warnings), goes on with a table of contents, and
then has its sections. It follows the reader's light or dark mode and is readable on a telephone.

    page = render_page(
        "Audit of cifake",
        verdict=Verdict("Sound", "No shortcut was found.", "good"),
        cards=[Card("120,000", "images"), Card("0", "exact duplicates", tone="good")],
        sections=[Section("Findings", join(text("..."), table(["trait"], rows), figures([plot])))],
    )

Text that is given as `str` is escaped, its control characters too; only `Markup` is taken as HTML.
"""

import base64
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from PIL import Image

from tfdetect.core.files import write_bytes
from tfdetect.core.text import printable

Tone = Literal["good", "caution", "bad", "neutral"]

_DPI = 150  # of a figure's file; it is shown at CSS pixels, so it stays sharp when enlarged
_CSS_DPI = 96
_QUALITY = 85  # of WebP, of figures with photographs: no loss that one sees, a sixth of the bytes
_WEBP_SIDE = 16383  # pixels, at most
_PLOT_COLORS = 6000  # at most, of a figure that gets a palette; a photograph has more
# Widths in CSS pixels: of the place beside the contents on a desktop page, and of a digit and the
# space after a column, in usual type and in the small type of tables that would not fit.
_PLACE, _USUAL, _SMALL = 960, (9.75, 19.2), (8.45, 6.4)
_CARDS_IN_ROW = 6  # headline figures beside each other on a wide page
_LONG = 14  # letters of a name that gets a column of some width
_LONG_NOTE = 180  # letters of a message, above which it is folded; four lines on a telephone
_SENTENCE_END = re.compile(r"(?<=[^.\s][^.\s][.!?]) (?=[^\Wa-z_])")
_CLAUSE_END = re.compile(r"(?<=[:;]) ")
_BREAKS = re.compile(r" |(?<=\w)-(?=\w)")
_BOLD = 1.1  # how much wider headings are
# A number with sign, unit and interval: "12,345", "+0.4%", "0.91 [0.90, 0.92]", "0.6 at 0.3", "-".
_NUMBER = re.compile(
    r"^(\* )?[-+<>]?"
    r"\s?\d[\d.,]*(e[-+]?\d+)?\s?%?( s)?( [\[(][^\])]*[\])]| at \d[\d.]*)?( [*~])?$|^-?$"
)


def _shown(value: Any) -> Any:
    """Return a value as a page shows it: text without control and invisible characters."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, lines=True)
    return value


def _filled(template: str, *values: str) -> Markup:
    """Return HTML with values in its braces."""
    return Markup(template).format(*map(_shown, values))


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("pages")), autoescape=True,
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_shown,
)  # fmt: skip


def _rendered(template: str, **values: Any) -> Markup:
    """Return a template of the folder pages/ with values, which are escaped."""
    return Markup(_ENVIRONMENT.get_template(template).render(**values))


@dataclass(frozen=True)
class Verdict:
    """The sentence that a reader must see first.

    Attributes:
        title: a few words.
        detail: one line, or several.
        tone: its color; the words must say the same.
    """

    title: str
    detail: str | Sequence[str]
    tone: Tone = "neutral"

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.detail,) if isinstance(self.detail, str) else tuple(self.detail)


@dataclass(frozen=True)
class Card:
    """One headline figure.

    Attributes:
        value: such as "98.1%".
        label: what it is.
        detail: for example its interval.
        tone: its color.
    """

    value: str
    label: str
    detail: str = ""
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Picture:
    """An image with its text alternative.

    Attributes:
        data: the file, PNG or WebP, in base64.
        alt: what it shows, for readers who cannot see it.
        title: a few words below the image.
        caption: a sentence below the image.
        size: width and height in CSS pixels.
        pixelated: whether the browser enlarges it without smoothing.
        format: of the file, "png" or "webp".
    """

    data: str
    alt: str
    title: str
    caption: str
    size: tuple[int, int]
    pixelated: bool = False
    format: Literal["png", "webp"] = "png"

    @classmethod
    def of_image(cls, image: "Image.Image", alt: str, title: str, caption: str,
                 pixelated: bool, exact: bool = True) -> "Picture":  # fmt: skip
        """Return a Pillow image as a picture.

        Args:
            image: the image.
            alt, title, caption: see `Picture`.
            pixelated: whether the browser enlarges it without smoothing.
            exact: keep every pixel as it is; else a photograph is compressed.
        """
        content = _as_png(image)
        small = None if exact or pixelated else _as_webp(image, len(content))
        encoded = base64.b64encode(small or content).decode()
        return cls(encoded, alt, title, caption, image.size, pixelated, "webp" if small else "png")


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading, which the table of contents lists.

    Attributes:
        title: the heading.
        body: HTML, made by `text`, `table`, `figures`, `note`, `join` or `fragment`.
    """

    title: str
    body: Markup


def render_page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    verdict: Verdict | None = None,
    cards: Sequence[Card] = (),
    notes: Sequence[Markup] = (),
    lead: Markup | None = None,
    footer: str = "",
) -> str:
    """Return a complete HTML page.

    Args:
        title: the page's name and main heading.
        sections: the parts, in order. Those with an empty body are left out.
        subtitle: one line below the heading.
        verdict: the first thing to read.
        cards: headline figures, the most important first.
        notes: warnings, made by `note`.
        lead: HTML that ends the headline block, for example an image.
        footer: small print at the end.
    """
    kept = [section for section in sections if str(section.body).strip()]
    return str(_rendered(
        "report.html", title=title, subtitle=subtitle, verdict=verdict, cards=cards,
        columns=_columns(len(cards)), notes=notes, lead=lead or "", footer=footer,
        sections=list(zip(_anchors(kept), kept)),
    ))  # fmt: skip


def _columns(cards: int) -> int:
    """Return how many cards are in a wide row, so that no row has one card alone."""
    rows = max(1, math.ceil(cards / _CARDS_IN_ROW))
    return max(1, math.ceil(cards / rows))


def text(*paragraphs: str, small: bool = False) -> Markup:
    """Return paragraphs; empty ones are left out."""
    start = Markup('<p class="small">') if small else Markup("<p>")
    return Markup("\n").join(start + escape(_shown(p)) + Markup("</p>") for p in paragraphs if p)


def heading(title: str) -> Markup:
    """Return a heading below a section's own."""
    return _filled("<h3>{}</h3>", title)


def note(message: str, tone: Tone = "caution", detail: str = "") -> Markup:
    """Return a highlighted message, for warnings and findings.

    Of a long one a small screen shows the first sentence until the reader opens it.
    """
    more = _filled("<p><small>{}</small></p>", detail) if detail else Markup("")
    begin, rest = _first_sentence(message)
    if not rest:
        return _filled('<div class="note tone-{}"><p>{}</p>{}</div>', tone, message, more)
    return _filled(
        '<details class="note tone-{}"><summary>{}</summary><p>{}</p>{}</details>',
        tone, begin, rest, more,
    )  # fmt: skip


def _first_sentence(message: str) -> tuple[str, str]:
    """Return what of a long message to show at first, and the rest; "" of a short one.

    The first part ends with a sentence or, where that is long itself, with a colon or semicolon.
    """
    if len(message) <= _LONG_NOTE:
        return message, ""
    ends = [*_SENTENCE_END.finditer(message), *_CLAUSE_END.finditer(message)]
    for found in ends:
        begin, rest = message[: found.start()], message[found.end() :]
        if _LONG_NOTE / 4 <= len(begin) <= _LONG_NOTE and len(rest) > _LONG_NOTE / 4:
            return begin, rest
    return message, ""


def code(source: str) -> Markup:
    """Return preformatted text."""
    return _filled('<pre tabindex="0"><code>{}</code></pre>', source)


def details(summary: str, body: Markup) -> Markup:
    """Return a part that is folded until the reader opens it."""
    return _filled("<details><summary>{}</summary>{}</details>", summary, body)


def join(*parts: Markup | None) -> Markup:
    """Join pieces of HTML; None is left out."""
    return Markup("\n").join(part for part in parts if part)


def fragment(source: str, **values: Any) -> Markup:
    """Return a piece of HTML from a Jinja2 template; the values are escaped."""
    return Markup(_ENVIRONMENT.from_string(source).render(**values))


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", label: str = ""
) -> Markup:
    """Return a table that scrolls sideways where the page is too narrow.

    Columns of numbers are aligned right; more columns than fit are set closely. Cells are escaped.

    Args:
        headers: one for each column; all empty for a table of names and values.
        rows: the cells; the first of each row names it.
        caption: a sentence above the table.
        label: the name for screen readers; by default the caption or the first header.

    Returns:
        The table; nothing where there are no rows.
    """
    cells = [[cell if isinstance(cell, Markup) else str(cell) for cell in row] for row in rows]
    if not cells:
        return Markup("")
    kinds = [
        "",
        *(_kind([row[i] for row in cells if i < len(row)]) for i in range(1, len(cells[0]))),
    ]
    numbers = {column for column, kind in enumerate(kinds) if kind == "number"}
    cells = [[_number(cell) if i in numbers else cell for i, cell in enumerate(row)]
             for row in cells]  # fmt: skip
    label = label or caption or next((h for h in headers if h), "table")
    long = max(len(row[0]) for row in cells) > _LONG
    names = 224 if long else 0  # report.css: th.name
    dense = _width(headers, cells, *_USUAL, names) > _PLACE
    if dense:  # their long names may be broken
        headers = [escape(_shown(h)).replace("_", Markup("_<wbr>")) for h in headers]
    upright = dense and _width(headers, cells, *_SMALL) > _PLACE
    # On a small screen intervals may be broken, too; see report.css.
    cells = [[_breakable(cell) if i in numbers else cell for i, cell in enumerate(row)]
             for row in cells]  # fmt: skip
    return _rendered(
        "table.html", headers=headers, rows=cells, caption=caption, kinds=kinds, label=label,
        long=long, dense=dense, upright=upright,
    )  # fmt: skip


def _width(
    headers: Sequence[str], cells: list[list[str]], digit: float, space: float, names: float = 0
) -> float:
    """Return about how wide a table is in pixels if no word and no interval is broken.

    Args:
        headers, cells: the headers and cells of the table.
        digit, space: see `_USUAL`.
        names: least width of the first column.
    """

    def width(cell: str) -> float:
        if isinstance(cell, Markup):
            cell = Markup(cell.replace("<wbr>", " ")).striptags()
        parts = _BREAKS.split(cell)
        return max(len(part) - len(re.findall(r"[\[\](),.\s]", part)) / 2 for part in parts)

    columns = zip_longest(headers, *cells, fillvalue="")
    first, *others = (
        digit * max(_BOLD * width(head), *map(width, column)) for head, *column in columns
    )
    return max(first, names) + sum(others) + len(others) * space


def figures(
    pictures: Sequence[Picture], layout: Literal["", "small", "thumbnails", "wide"] = ""
) -> Markup:
    """Return figures in white frames, which are readable in dark mode too.

    Args:
        pictures: the figures.
        layout: "" beside each other at their own size, "small" or "thumbnails" in a grid of equal
            columns, "wide" one below the other. On a small screen "wide" ones
            keep a legible size and are scrolled, and the others shrink.

    Returns:
        The figures; nothing where there are none.
    """
    if not pictures:
        return Markup("")
    return _rendered("figures.html", pictures=pictures, layout=layout)


def picture_of(
    figure: Figure, alt: str, title: str = "", caption: str = "", path: Path | None = None
) -> Picture:
    """Render a matplotlib figure.

    Args:
        figure: the figure.
        alt: what it shows, in words.
        title, caption: shown below it.
        path: where to write it as PNG as well.

    Returns:
        The figure as PNG or, with photographs in it, as WebP.
    """
    # Pages without figures need not wait for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    draw_plainly(figure)
    figure.dpi = _DPI
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():  # names in scripts that the font lacks are boxes there
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        canvas.draw()
    figure.set_layout_engine(None)  # drawn again, it looks the same
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    plot = drawn.convert("RGB").getcolors(_PLOT_COLORS) is not None
    content = _with_palette(drawn) if plot else _as_png(drawn)
    if path is not None:
        write_bytes(path, content)
    width, height = (round(inches * _CSS_DPI) for inches in figure.get_size_inches())
    small = None if plot else _as_webp(drawn, len(content))
    encoded = base64.b64encode(small or content).decode()
    return Picture(encoded, alt, title, caption, (width, height), format="webp" if small else "png")


def _as_png(image: Image.Image) -> bytes:
    """Return an image as a PNG with all its colors."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _as_webp(image: Image.Image, png: int) -> bytes | None:
    """Return a photograph as WebP; None if it is too large for that or has few colors.

    Args:
        image: the photograph.
        png: bytes of its PNG; of a WebP with more than half of them, None is returned.
    """
    image = image.convert("RGB")
    if max(image.size) > _WEBP_SIDE or image.getcolors(_PLOT_COLORS) is not None:
        return None
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY)
    return data.getvalue() if data.tell() < png / 2 else None


def _with_palette(image: Image.Image) -> bytes:
    """Return an opaque PNG with a palette of 256 colors, which has a third of the bytes.

    A plot has few colors, with shades of them along its lines, and looks the same.
    """
    data = io.BytesIO()
    plain = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    plain.save(data, "PNG", optimize=True)
    return data.getvalue()


def draw_plainly(figure: Figure) -> None:
    """Draw all texts of a figure as they are: a dollar sign in a name begins no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text(), lines=True))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FuncFormatter):  # of `set_xticks(places, names)`
                formatter.func = partial(_tick, formatter.func)


def _tick(function: Callable[[float, int], str], value: float, position: int) -> str:
    return printable(function(value, position), lines=True)


def _kind(cells: list[str]) -> str:
    """Return the style of a column: "number", "wide" (long text) or ""."""
    if all(_NUMBER.match(cell) for cell in cells) and any(cells):
        return "number"
    return "wide" if max(map(len, cells), default=0) > 40 else ""


def _number(cell: str) -> str:
    """Return a number that may be broken before its interval alone."""
    return type(cell)(re.sub(r" (?![\[(])", "\N{NO-BREAK SPACE}", cell))


def _breakable(cell: str) -> str:
    """Return a number with a place in its interval where a line may be broken."""
    if not cell.endswith("]"):
        return cell
    return Markup(
        escape(_shown(cell)).replace(",\N{NO-BREAK SPACE}", Markup(",\N{NO-BREAK SPACE}<wbr>"))
    )


def _anchors(sections: Sequence[Section]) -> list[str]:
    """Return a unique anchor for each section, made of its title."""
    anchors: list[str] = []
    for section in sections:
        base = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        count = sum(a == base or a.rpartition("--")[0] == base for a in anchors)
        anchors.append(f"{base}--{count + 1}" if count else base)
    return anchors
