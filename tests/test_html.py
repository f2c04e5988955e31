"""The building blocks of report pages."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import chromium
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from tfdetect.core import html
from tfdetect.core.html import (
    Card,
    Picture,
    Section,
    Verdict,
    code,
    details,
    figures,
    fragment,
    join,
    note,
    picture_of,
    render_page,
    table,
    text,
)

VOID = {"meta", "img", "link", "br", "wbr"}


class Outline(HTMLParser):
    """Collects elements in order, and checks that they are closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def figure():
    made = Figure(figsize=(4, 3))
    made.add_subplot().plot([1, 2])
    return made


@pytest.fixture
def page(tmp_path):
    shown = picture_of(figure(), "A rising line", "Line", path=tmp_path / "line.png")
    return render_page(
        "Report <b>",
        [
            Section(
                "Results by generator", join(text("One <i>."), table(["a", "b"], [["x", "1"]]))
            ),
            Section("Results by generator", figures([shown])),
            Section("Empty", Markup("")),
            Section("Last", join(code("<x>"), note("Careful"))),
        ],
        verdict=Verdict("Sound", "Nothing was found.", "good"),
        cards=[Card("98%", "accuracy", "97% to 99%")],
        notes=[note("A <script>")],
    )


def test_a_page_is_well_formed_and_self_contained(page):
    outline = Outline(page)
    assert not outline.all("script") and not outline.all("link") and "http" not in page
    assert "<b>" not in page.split("</h1>")[0].split("<h1>")[1]  # what is given as text is escaped
    assert [a["lang"] for a in outline.all("html")] == ["en"]
    assert "prefers-color-scheme: dark" in page


def test_no_row_of_cards_has_one_card_alone():
    for cards in range(2, 25):
        page = render_page("t", [], cards=[Card("1", "a")] * cards)
        columns = int(page.split('class="cards" style="--columns: ')[1].split('"')[0])
        assert columns <= 6 and cards % columns != 1


def test_the_verdict_comes_first_and_the_contents_lead_to_the_sections(page):
    outline = Outline(page)
    words = "".join(outline.words)
    assert words.index("Sound") < words.index("98%") < words.index("Contents")
    links = [a["href"] for a in outline.all("a")]
    assert links == ["#results-by-generator", "#results-by-generator--2", "#last"]
    assert [a["id"] for a in outline.all("section")] == [link[1:] for link in links]


def test_figures_have_alternative_texts_and_their_size(page, tmp_path):
    [image] = Outline(page).all("img")
    assert image["alt"] == "A rising line"
    assert (image["width"], image["height"]) == ("384", "288")  # 4 x 3 inches of 96 pixels
    data = base64.b64decode(image["src"].partition(",")[2])
    assert data[:4] == b"\x89PNG" and (tmp_path / "line.png").read_bytes() == data


def test_plots_have_a_palette_and_photographs_keep_their_colors(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "_DPI", 100)
    rng = np.random.default_rng(0)
    plot, photo = (Figure((6, 4), layout="constrained") for _ in range(2))
    for number in range(3):
        plot.gca().plot(rng.normal(size=10), label=f"line {number}")
    plot.legend()
    photo.gca().imshow(rng.integers(0, 256, (200, 300, 3), np.uint8))
    for figure, mode, error in ((plot, "P", 0.2), (photo, "RGBA", 0.0)):
        picture_of(figure, "a figure", path=tmp_path / "figure.png")
        figure.savefig(tmp_path / "as_drawn.png", dpi=100)
        shown, drawn = (Image.open(tmp_path / f"{name}.png") for name in ("figure", "as_drawn"))
        assert shown.mode == mode and shown.size == drawn.size
        shown, drawn = (np.asarray(each.convert("RGB"), np.int16) for each in (shown, drawn))
        assert np.abs(shown - drawn).mean() <= error
        sizes = [(tmp_path / f"{name}.png").stat().st_size for name in ("figure", "as_drawn")]
        assert sizes[0] < 0.5 * sizes[1] or mode == "RGBA"


def test_photographs_are_small_in_pages(tmp_path):
    """And look the same; plots, maps that must be exact, and pixels that are enlarged stay PNG."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (10, 10, 3), np.uint8)
    photo = np.array(Image.fromarray(low).resize((256, 256), Image.Resampling.BICUBIC), np.int16)
    photo = np.clip(photo + rng.normal(0, 2, photo.shape), 0, 255).astype(np.uint8)
    drawn = Figure((6, 6))
    drawn.gca().imshow(photo)
    path = tmp_path / "photo.png"
    shown = picture_of(drawn, "a photograph", path=path)
    page = str(figures([shown]))
    [image] = Outline(page).all("img")
    assert image["src"].startswith("data:image/webp;base64,")
    assert (image["width"], image["height"]) == ("576", "576")
    data = base64.b64decode(image["src"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as webp, Image.open(path) as png:
        assert webp.format == "WEBP" and webp.size == png.size and png.format == "PNG"
        one, other = (np.asarray(each.convert("RGB"), np.int16) for each in (webp, png))
    assert np.abs(one - other).mean() < 3 and len(data) < path.stat().st_size / 3
    thumbnail = Image.fromarray(photo)
    for exact, pixelated, kind in (
        (False, False, "webp"),
        (True, False, "png"),
        (False, True, "png"),
    ):
        found = Picture.of_image(thumbnail, "alt", "title", "", pixelated, exact)
        assert (found.format, found.size) == (kind, (256, 256))
        assert f"data:image/{kind};base64," in str(figures([found]))


def test_wide_figures_can_be_scrolled_by_keyboard():
    shown = picture_of(figure(), "A rising line", "Line")
    wide = replace(shown, size=(600, 300))
    [box] = [a for _, a in Outline(figures([shown], "wide")).elements if a.get("class") == "image"]
    assert (box["tabindex"], box["role"], box["aria-label"]) == ("0", "region", "Line")
    [box] = [a for _, a in Outline(figures([shown])).elements if a.get("class") == "image"]
    assert "tabindex" not in box
    for picture, layout, hint in (
        (shown, "wide", False),
        (wide, "wide", True),
        (wide, "", False),
    ):
        assert ("Scroll the figure sideways" in figures([picture], layout)) == hint


@pytest.mark.slow
def test_wide_figures_are_legible_on_a_phone():
    wide = replace(picture_of(figure(), "Line"), size=(960, 480))
    page = render_page("Masks", [Section("Masks", figures([wide], "wide"))])
    with chromium() as browser:
        shown = browser.new_page(viewport={"width": 390, "height": 800})
        shown.set_content(page)
        assert shown.evaluate("document.querySelector('img').clientWidth") > 600
        assert shown.evaluate("document.querySelector('.more').clientHeight") > 0
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390


def test_tables_scroll_and_align_numbers():
    made = table(
        ["name", "value", "share", "text"],
        [["a<b", "1,234", "0.91 [0.90, 0.92]", "x"], ["b", "-", "0.6 at 0.35", "2"]],
    )
    outline = Outline(made)
    assert outline.elements[0][1]["class"] == "scroll" and outline.elements[0][1]["tabindex"] == "0"
    assert [a.get("class") for a in outline.all("td")] == ["number", "number", None] * 2
    assert [a["scope"] for a in outline.all("th")] == ["col"] * 4 + ["row"] * 2
    # Broken before the interval alone and, on a small screen, in it.
    assert "0.91 [0.90,\N{NO-BREAK SPACE}<wbr>0.92]" in made
    assert "a&lt;b" in made and table(["a"], []) == ""
    assert "<thead>" not in table(["", ""], [["seed", "0"]])


LONG = (
    "12 of 30 images are known to the detector from its training or selection (the same or a "
    "copy), e.g. Those of validation. The column 'without known images' leaves them out, and all "
    "other columns have them; so compare detectors by that one."
)


def test_long_notes_are_folded_after_a_sentence_or_a_clause():
    made = note(LONG, "bad", "a detail")
    assert made.startswith('<details class="note tone-bad"><summary>12 of 30')
    assert "e.g. Those of validation.</summary><p>The column" in made and "a detail" in made
    sentence = LONG.replace(". The column", ", and so on: the column")
    assert "and so on:</summary><p>the column" in note(sentence)
    for short in ("Short. Indeed.", "a" * 500, "A. " + "b" * 300, LONG[:170]):
        assert note(short) == f'<div class="note tone-caution"><p>{escape(short)}</p></div>'
    assert "<b>" not in note("<b>" + LONG) and "&lt;b&gt;" in note("<b>" + LONG)


@pytest.mark.slow
def test_a_phone_shows_the_begin_of_warnings_and_whole_tables():
    """And a wide screen and paper show warnings whole."""
    gains = [["validation", "calibration error (ECE)", "-0.0123 [-0.0345, +0.0012]",
              "no significant difference"]]  # fmt: skip
    change = ["0.9123 [0.9050, 0.9190]", "0.9323 [0.9270, 0.9390]", "+0.0200 [+0.0050, +0.0390]"]
    body = join(
        table(["split", "metric", "difference", "result"], gains),
        table(["metric", "before", "after", "change"], [["balanced accuracy", *change]]),
    )
    page = render_page("Gain", [Section("Gain", body)], notes=[note(LONG), note("Short.")])
    hidden = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    with chromium() as browser:
        for width, whole in ((390, False), (1200, True)):
            shown = browser.new_page(viewport={"width": width, "height": 800})
            shown.set_content(page)
            assert shown.evaluate(hidden) == [0, 0]
            assert shown.locator("summary").is_visible()
            assert shown.locator("details.note p").is_visible() == whole
            if not whole:
                height = shown.locator("details.note").bounding_box()["height"]
                shown.locator("summary").click()
                assert shown.locator("details.note p").is_visible()
                assert shown.locator("details.note").bounding_box()["height"] > height + 40
                shown.locator("summary").click()
                shown.emulate_media(media="print")
                assert shown.locator("details.note p").is_visible()


def wide_table(columns):
    names = ["trained on", *(f"latent_diffusion_{n}" for n in range(columns - 2)), "mean"]
    cells = ["* 0.812 [0.801, 0.823]"] * (columns - 2)
    return table(names, [["Stable Diffusion v1.4", *cells, "0.812"]])


def test_many_columns_are_set_closely():
    styles = [Outline(wide_table(n)).all("table")[0].get("class") for n in (5, 6, 11)]
    assert styles == [None, "dense", "dense upright"]
    assert "latent_<wbr>diffusion_<wbr>0" in wide_table(6) and "_<wbr>" not in wide_table(5)
    short = table(["a"] * 9, [["b", *["1"] * 8]])
    assert Outline(short).all("table")[0].get("class") is None


@pytest.mark.slow
def test_tables_of_ten_columns_fit_beside_the_contents():
    """Eight generators, as GenImage has, with intervals."""
    page = render_page("Matrix", [Section(str(n), wide_table(n)) for n in (6, 7, 8, 9, 10)])
    with chromium() as browser:
        shown = browser.new_page(viewport={"width": 1280, "height": 800})
        shown.set_content(page)
        hidden = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
        assert shown.evaluate(hidden) == [0] * 5


def test_fragments_escape_their_values():
    assert fragment("<p>{{ x }}</p>", x="<b>") == "<p>&lt;b&gt;</p>"


@pytest.mark.slow
def test_a_page_of_long_names_scrolls_sideways_nowhere():
    name = "https://host/" + "a_long_name_without_a_space/" * 8
    rows = table([name, "b"], [[name, name]], name)
    body = join(text(name), rows, note(name), details(name, text(name)), code(name),
                figures([picture_of(figure(), name, name, name)]))  # fmt: skip
    page = render_page(
        name, [Section(name, body), Section("b", body)], subtitle=name, footer=name,
        verdict=Verdict(name, name), cards=[Card(name, name, name)], notes=[note(name)],
    )  # fmt: skip
    with chromium() as browser:
        for width in (400, 1200):
            shown = browser.new_page(viewport={"width": width, "height": 800})
            shown.set_content(page)
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
