"""A report as one HTML file to send to somebody: its figures are inside, and nothing is loaded."""

import base64
import html
import re
from pathlib import Path

from markdown_it import MarkdownIt

from jaxdl.report.tables import write_atomically

DETAILS = ("curves", "samples")
"""Prefixes of the names of figures that come last."""
CAPTIONS = {
    "curves": ": single networks thin, their mean thick, on a logarithmic scale their median",
    "samples": ": what networks are trained on, as they see it",
}
"""Captions of the figures that all studies draw, after their names."""


def write_page(folder: Path, report: str) -> None:
    """Write ``report.html``: the report with the folder's ``*.png``.

    Figures of results come after the first section, which has the findings, others at the end.

    The page is a function of the report and the figures alone.

    Args:
      report: the report in Markdown; HTML in it is shown as text.

    Raises:
      OSError: if a figure cannot be read, or the page cannot be written.
    """
    figures = sorted(folder.glob("*.png"))
    details = [path for path in figures if path.name.startswith(DETAILS)]
    title, *_ = report.removeprefix("# ").splitlines() or [""]
    sections = re.split(r"^(?=## )", report, flags=re.MULTILINE)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = [
        markdown.render("".join(sections[:2])),
        *(_figure(path) for path in figures if path not in details),
        markdown.render("".join(sections[2:])),
        *map(_figure, details),
    ]
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body="".join(body))
    write_atomically(folder / "report.html", page)


def _figure(path: Path) -> str:
    name, data = html.escape(path.stem), base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
    caption = f"{name}{CAPTIONS.get(name, '')}"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>\n"


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}</body>
</html>
"""

_STYLE = """\
:root { color-scheme: light dark; --text: #1f2328; --page: #ffffff; --line: #d1d9e0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --page: #14171b; --line: #3d444d; }
}
body {
  margin: 2rem auto; padding: 0 1rem; max-width: 60rem;
  font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
}
h1, h2, h3 { line-height: 1.25; margin-top: 2rem; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.9rem; }
th, td {
  padding: 0.25rem 0.75rem; border: 1px solid var(--line);
  white-space: nowrap; font-variant-numeric: tabular-nums;
}
figure { margin: 2rem 0; }
img {
  box-sizing: border-box; max-width: 100%;
  padding: 0.5rem; border-radius: 0.5rem; background: #ffffff;
}
figcaption { opacity: 0.7; font-size: 0.9rem; }
"""
