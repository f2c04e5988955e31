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
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from tfdetect.core.files import write_bytes
from tfdetect.core.text import printable

if TYPE_CHECKING:
    from PIL import Image

Tone = Literal["good", "caution", "bad", "neutral"]

_DPI = 150  # of a figure's file; it is shown at CSS pixels, so it stays sharp when enlarged
_CSS_DPI = 96
# A number with sign, unit and interval: "12,345", "+0.4%", "0.91 [0.90, 0.92]", "0.6 at 0.3", "-".
_NUMBER = re.compile(
    r"^[-+<>]?\s?\d[\d.,]*(e[-+]?\d+)?\s?%?( s)?( [\[(][^\])]*[\])]| at \d[\d.]*)?( \*)?$|^-?$"
)

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1d232b; --muted: #57606a;
  --line: #d5dae0; --panel: #f5f7f9; --link: #0b57a4;
  --good: #e3f3e5; --good-edge: #2c7a3f; --caution: #fdf3d0; --caution-edge: #8f6a00;
  --bad: #fbe3e3; --bad-edge: #b3261e; --neutral: #f5f7f9; --neutral-edge: #76808b; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --text: #e4e8ec; --muted: #a3adb8;
  --line: #39424c; --panel: #1e242b; --link: #82b8f5;
  --good: #16301d; --good-edge: #6cc482; --caution: #352b0d; --caution-edge: #e0b83c;
  --bad: #3b1a1b; --bad-edge: #f28b82; --neutral: #1e242b; --neutral-edge: #8f9aa5; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: break-word; }
.page { max-width: 78rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
a { color: var(--link); }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .8rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; line-height: 1.3; margin: 1.6rem 0 .5rem; }
p, ul, ol, dl { max-width: 46rem; }
p { margin: .6rem 0; }
.subtitle { color: var(--muted); margin: 0 0 1rem; }
.small, small, figcaption, caption { color: var(--muted); font-size: .875rem; }
.verdict, .note { border-left: .35rem solid var(--neutral-edge); background: var(--neutral);
  border-radius: .35rem; padding: .8rem 1.1rem; margin: .8rem 0; }
.verdict strong { display: block; font-size: 1.6rem; line-height: 1.25; }
.verdict p, .note p { margin: .3rem 0; }
.note { padding: .5rem .9rem; max-width: 60rem; }
.cards { display: grid; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none; max-width: none;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 11.5rem), 1fr)); }
.card { background: var(--panel); border: 1px solid var(--line); border-top: .25rem solid
  var(--neutral-edge); border-radius: .35rem; padding: .6rem .8rem; overflow-wrap: anywhere; }
.card b { display: block; font-size: 1.55rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tone-good { background: var(--good); border-color: var(--good-edge); }
.tone-caution { background: var(--caution); border-color: var(--caution-edge); }
.tone-bad { background: var(--bad); border-color: var(--bad-edge); }
.card span { display: block; } .card small { display: block; line-height: 1.4; }
nav.contents { margin: 1.2rem 0; }
nav.contents h2 { font-size: 1rem; border: 0; padding: 0; margin: 0 0 .3rem; color: var(--muted); }
nav.contents ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .15rem 1.1rem; max-width: none; }
nav.contents li { overflow-wrap: anywhere; min-width: 0; }
section { margin-top: 1.8rem; min-width: 0; }
.scroll { overflow-x: auto; margin: .8rem 0; max-width: 100%; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .9375rem; }
caption { text-align: left; padding: .6rem 0 .4rem; color: var(--text); font-weight: 600; }
th, td { padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; font-weight: normal; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 600; vertical-align: bottom; }
td.wide { min-width: min(18rem, 60vw); } th.name { min-width: min(14rem, 42vw); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
thead th.number { white-space: normal; }
.figures { display: grid; gap: 1rem; margin: 1rem 0; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), max-content)); }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.figures.thumbnails { grid-template-columns: repeat(auto-fill, minmax(min(48%, 9rem), 1fr)); }
.figures.wide { grid-template-columns: 100%; }
figure { margin: 0; min-width: 0; max-width: 100%; }
figure .image { background: #ffffff; border: 1px solid var(--line); border-radius: .35rem;
  padding: .4rem; overflow-x: auto; width: fit-content; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; }
.wide figure img { min-width: min(36rem, var(--width)); }
.small figure .image, .small figure img, .thumbnails figure .image, .thumbnails figure img {
  width: 100%; }
.pixelated img { image-rendering: pixelated; }
figcaption { margin-top: .35rem; max-width: 46rem; }
figcaption b { color: var(--text); }
pre { overflow-x: auto; background: var(--panel); border: 1px solid var(--line);
  border-radius: .35rem; padding: .8rem 1rem; font-size: .875rem; line-height: 1.45; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .92em; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--link); }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem;
  color: var(--muted); font-size: .875rem; }
@media (min-width: 72rem) {
  .columns { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 2.5rem; }
  nav.contents { position: sticky; top: 1rem; align-self: start; max-height: 95vh;
    overflow-y: auto; margin-top: 1.8rem; font-size: .9375rem; }
  nav.contents ul { display: block; } nav.contents li { margin: .3rem 0; line-height: 1.35; } }
@media (max-width: 30rem) { .page { padding: 1rem .9rem 3rem; } h1 { font-size: 1.5rem; }
  .verdict strong { font-size: 1.3rem; } .card b { font-size: 1.25rem; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print { nav.contents { display: none; } .columns { display: block; }
  .scroll, figure .image { overflow: visible; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style }}</style></head><body><div class="page">
<header>
<h1>{{ title }}</h1>
{% if subtitle %}<p class="subtitle">{{ subtitle }}</p>{% endif %}
{% if verdict %}<div class="verdict tone-{{ verdict.tone }}"><strong>{{ verdict.title }}</strong>
{% for line in verdict.lines %}<p>{{ line }}</p>
{% endfor %}</div>{% endif %}
{% if cards %}<ul class="cards">
{% for card in cards %}<li class="card tone-{{ card.tone }}"><span>{{ card.label }}</span>
<b>{{ card.value }}</b>{% if card.detail %}<small>{{ card.detail }}</small>{% endif %}</li>
{% endfor %}</ul>{% endif %}
{% for entry in notes %}{{ entry }}
{% endfor %}
{{ lead }}
</header>
<div class="columns">
{% if sections | length > 1 %}<nav class="contents" aria-label="Contents"><h2>Contents</h2><ul>
{% for anchor, section in sections %}<li><a href="#{{ anchor }}">{{ section.title }}</a></li>
{% endfor %}</ul></nav>{% else %}<div></div>{% endif %}
<main>
{% for anchor, section in sections %}<section id="{{ anchor }}"><h2>{{ section.title }}</h2>
{{ section.body }}
</section>
{% endfor %}
{% if footer %}<footer>{{ footer }}</footer>{% endif %}
</main></div></div></body></html>
"""

_TABLE = """<div class="scroll" role="region" tabindex="0" aria-label="{{ label }}"><table>
{% if caption %}<caption>{{ caption }}</caption>{% endif %}
{% if headers | select | list %}<thead><tr>
{% for header in headers %}<th scope="col"{% if kinds[loop.index0] == "number" %} class="number"\
{% endif %}>{{ header }}</th>{% endfor %}</tr></thead>{% endif %}
<tbody>
{% for row in rows %}<tr>{% for cell in row %}{% if loop.first %}<th scope="row"\
{% if long %} class="name"{% endif %}>{{ cell }}</th>\
{% else %}<td{% if kinds[loop.index0] %} class="{{ kinds[loop.index0] }}"{% endif %}>\
{{ cell }}</td>\
{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
"""

_FIGURES = """<div class="figures {{ layout }}">
{% for picture in pictures %}<figure{% if picture.pixelated %} class="pixelated"{% endif %}>\
<div class="image"{% if layout == "wide" %} tabindex="0"{% endif %}>\
<img style="--width: {{ picture.size[0] }}px" alt="{{ picture.alt }}" \
width="{{ picture.size[0] }}" height="{{ picture.size[1] }}" \
src="data:image/png;base64,{{ picture.data }}"></div>
{% if picture.title or picture.caption %}<figcaption>{% if picture.title %}<b>{{ picture.title }}\
</b>{% if picture.caption %}: {% endif %}{% endif %}{{ picture.caption }}</figcaption>{% endif %}
</figure>
{% endfor %}</div>
"""


def _shown(value: Any) -> Any:
    """Return a value as a page shows it: text without control and invisible characters."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, lines=True)
    return value


def _filled(template: str, *values: str) -> Markup:
    """Return HTML with values in its braces."""
    return Markup(template).format(*map(_shown, values))


_ENVIRONMENT = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    finalize=_shown,
)  # fmt: skip
_TEMPLATES = {
    name: _ENVIRONMENT.from_string(source)
    for name, source in (("page", _PAGE), ("table", _TABLE), ("figures", _FIGURES))
}


@dataclass(frozen=True)
class Verdict:
    """The sentence that a reader must see first.

    Attributes:
        title: a few words.
        detail: one line, or several.
        tone: its color; the words must say the same.
    """

    title: str
    detail: str | Sequence[str] = ()
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
    """A PNG image with its text alternative.

    Attributes:
        data: the PNG in base64.
        alt: what it shows, for readers who cannot see it.
        title: a few words below the image.
        caption: a sentence below the image.
        size: width and height in CSS pixels; by default the file's own pixels.
        pixelated: whether the browser enlarges it without smoothing.
    """

    data: str
    alt: str
    title: str = ""
    caption: str = ""
    size: tuple[int, int] = (0, 0)
    pixelated: bool = False

    @classmethod
    def of_image(cls, image: "Image.Image", alt: str, title: str = "", caption: str = "",
                 pixelated: bool = False) -> "Picture":  # fmt: skip
        """Return a Pillow image as a picture."""
        data = io.BytesIO()
        image.save(data, "PNG")
        encoded = base64.b64encode(data.getvalue()).decode()
        return cls(encoded, alt, title, caption, pixelated=pixelated)

    def __post_init__(self) -> None:
        if self.size == (0, 0):  # the PNG header holds them in bytes 16 to 24
            header = base64.b64decode(self.data[:32])
            object.__setattr__(self, "size", struct.unpack(">II", header[16:24]))


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
    return _TEMPLATES["page"].render(
        title=title, style=Markup(_STYLE), subtitle=subtitle, verdict=verdict, cards=cards,
        notes=notes, lead=lead or "", footer=footer, sections=list(zip(_anchors(kept), kept)),
    )  # fmt: skip


def text(*paragraphs: str, small: bool = False) -> Markup:
    """Return paragraphs; empty ones are left out."""
    start = Markup('<p class="small">') if small else Markup("<p>")
    return Markup("\n").join(start + escape(_shown(p)) + Markup("</p>") for p in paragraphs if p)


def heading(title: str) -> Markup:
    """Return a heading below a section's own."""
    return _filled("<h3>{}</h3>", title)


def note(message: str, tone: Tone = "caution", detail: str = "") -> Markup:
    """Return a highlighted message, for warnings and findings."""
    more = _filled("<p><small>{}</small></p>", detail) if detail else Markup("")
    return _filled('<div class="note tone-{}"><p>{}</p>{}</div>', tone, message, more)


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

    Columns of numbers are aligned right. Cells are escaped.

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
    label = label or caption or next((h for h in headers if h), "table")
    return Markup(_TEMPLATES["table"].render(
        headers=headers, rows=cells, caption=caption, kinds=kinds, label=label,
        long=max(len(row[0]) for row in cells) > 14,
    ))  # fmt: skip


def figures(
    pictures: Sequence[Picture], layout: Literal["", "small", "thumbnails", "wide"] = ""
) -> Markup:
    """Return figures in white frames, which are readable in dark mode too.

    Args:
        pictures: the figures.
        layout: "" beside each other at their own size, "small" or "thumbnails" in a grid of equal
            columns, "wide" one below the other; wide figures scroll on a small screen.

    Returns:
        The figures; nothing where there are none.
    """
    if not pictures:
        return Markup("")
    return Markup(_TEMPLATES["figures"].render(pictures=pictures, layout=layout))


def picture_of(
    figure: Figure, alt: str, title: str = "", caption: str = "", path: Path | None = None
) -> Picture:
    """Render a matplotlib figure.

    Args:
        figure: the figure.
        alt: what it shows, in words.
        title, caption: shown below it.
        path: where to write it as PNG as well.
    """
    draw_plainly(figure)
    figure.dpi = _DPI
    engine = figure.get_layout_engine()
    if engine is not None:  # `savefig` would draw the whole figure once more for it
        engine.execute(figure)
        figure.set_layout_engine(None)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    if path is not None:
        write_bytes(path, data.getvalue())
    width, height = (round(inches * _CSS_DPI) for inches in figure.get_size_inches())
    encoded = base64.b64encode(data.getvalue()).decode()
    return Picture(encoded, alt, title, caption, (width, height))


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
    """The style of a column: "number", "wide" (long text) or ""."""
    if all(_NUMBER.match(cell) for cell in cells) and any(cells):
        return "number"
    return "wide" if max(map(len, cells), default=0) > 40 else ""


def _anchors(sections: Sequence[Section]) -> list[str]:
    """A unique anchor for each section, made of its title."""
    anchors: list[str] = []
    for section in sections:
        base = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        count = sum(a == base or a.rpartition("--")[0] == base for a in anchors)
        anchors.append(f"{base}--{count + 1}" if count else base)
    return anchors
