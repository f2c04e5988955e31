"""What every report's page is made of: one self-contained HTML file with tables and figures."""

import base64
import html
import io
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from tabulate import tabulate

_BASE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
td:not(:first-child):not(:last-child) { white-space: nowrap; }
figure { display: inline-block; margin: .5rem; } img { max-width: 100%; }
.verdict, .finding { padding: .5rem 1rem; margin: .4rem 0; } .verdict { font-size: 1.3rem; }
.note { background: #d7ecd9; }
.care { background: #fff3cd; } .refuse { background: #f6d5d5; }
.warning { background: #fff3cd; padding: .5rem 1rem; } pre { overflow-x: auto; background: #f6f6f6;
padding: 1rem; } small { color: #666; }
</style></head><body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</body></html>
"""
_FIGURES = """{% macro figures(drawn) %}
{% for name, data in drawn %}<figure><img alt="{{ name }}"
src="data:image/png;base64,{{ data }}"></figure>{% endfor %}
{% endmacro %}
"""


def template(body: str, macros: str = "") -> jinja2.Template:
    """A page with this body, which may call figures(pairs of name and data) and `macros`."""
    body = _FIGURES + macros + body
    pages = {
        "base": _BASE,
        "page": f'{{% extends "base" %}}{{% block body %}}{body}{{% endblock %}}',
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(pages), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page")


def save_figure(figure: Figure, path: Path) -> str:
    """Writes a figure as PNG and returns it in base64."""
    data = figure_data(figure)
    path.write_bytes(base64.b64decode(data))
    return data


def figure_data(figure: Figure) -> str:
    """A figure as PNG in base64."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return base64.b64encode(data.getvalue()).decode()


def html_table(headers: list[str], rows: list[list[str]]) -> Markup:
    """A table whose cells are escaped: names may come from folders."""
    return Markup(
        tabulate(
            [[html.escape(str(cell)) for cell in row] for row in rows],
            [html.escape(header) for header in headers],
            tablefmt="unsafehtml",
            disable_numparse=True,
        )
    )
