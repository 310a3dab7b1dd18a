"""A report as one HTML file: it loads nothing, runs nothing, and reads well on a phone, on a desk, in light, in dark and on paper.

Everything given is escaped; text may mark `code` with backticks. The content policy in the page forbids scripts, outside content and
every style but the page's own sheet, which it names by hash.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import importlib.resources
import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from touchstone.errors import ConfigError
from touchstone.files import write_text
from touchstone.report.words import words

__all__ = ["PROBABILITY_STEPS", "Page"]

PROBABILITY_STEPS = (0.01, 0.05, 0.2, 0.5, 0.9)
"""Where the colour of a token changes; six colours from orange (unlikely) to blue (likely), which the colour-blind tell apart."""

_LANG = {"en": "en", "zh": "zh-Hans"}
_SVG_TAGS = {"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan", "line", "circle", "title"}


class Page:
    """Collects the parts of a report in order; `write` makes the file.

    date: for the footer; now if None.
    """

    def __init__(self, title: str, lang: str = "en", *, subtitle: str = "", date: datetime | None = None) -> None:
        self._title, self._subtitle, self._lang = title, subtitle, lang
        self._words = words(lang)
        self._date = date or datetime.now(UTC)
        self._parts: list[str] = []
        self._headings: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; those of level 2 make the contents."""
        if level not in (2, 3):
            raise ConfigError(f"A heading has level 2 or 3, not {level}; the title of the page is the only 1.")
        anchor = ""
        if level == 2:
            self._headings.append(text)
            anchor = f' id="part-{len(self._headings)}"'
        self._parts.append(f"<h{level}{anchor}>{_inline(text)}</h{level}>")

    def text(self, text: str) -> None:
        """Paragraphs, divided by blank lines."""
        self._parts += [f"<p>{_inline(paragraph)}</p>" for paragraph in re.split(r"\n\s*\n", text.strip())]

    def note(self, text: str) -> None:
        """A paragraph set apart: what the reader must not miss."""
        self._parts.append(f'<p class="note">{_inline(text)}</p>')

    def list(self, items: Sequence[str]) -> None:
        """Points, one a line."""
        self._parts.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")

    def facts(self, facts: Sequence[tuple[str, object, str]]) -> None:
        """The few figures that matter most, large: (name, figure, what stands under it)."""
        cells = [
            f"<div><dt>{_inline(name)}</dt><dd><b>{_safe(str(figure))}</b>{f'<span>{_inline(under)}</span>' if under else ''}</dd></div>"
            for name, figure, under in facts
        ]
        self._parts.append(f'<dl class="facts">{"".join(cells)}</dl>')

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "", highlight: Sequence[int] = ()) -> None:
        """A table that scrolls by itself on a narrow screen; columns of numbers are flush right. highlight: rows to set off."""
        right = [bool(rows) and all(_is_number(str(row[place])) for row in rows) for place in range(len(headers))]
        marks = [' class="r"' if is_right else "" for is_right in right]
        head = "".join(f'<th scope="col"{mark}>{_inline(header)}</th>' for header, mark in zip(headers, marks, strict=True))
        body = [
            f"<tr{' class=hl' if place in highlight else ''}>"
            + "".join(f"<td{mark}>{_inline(str(cell))}</td>" for cell, mark in zip(row, marks, strict=True))
            + "</tr>"
            for place, row in enumerate(rows)
        ]
        told = f"<caption>{_inline(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="scroll" tabindex="0"><table>{told}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        )

    def figure(self, svg: str, caption: str) -> None:
        """A plot from `report.plot` with its caption, which is also what a screen reader says.

        Raises ConfigError for an SVG that could run or load something.
        """
        _check_svg(svg)
        labelled = svg.replace("<svg ", f'<svg aria-label="{_safe(caption)}" ', 1)
        self._parts.append(f"<figure>{labelled}<figcaption>{_inline(caption)}</figcaption></figure>")

    def tokens(self, tokens: Sequence[tuple[str, float | None]], caption: str = "") -> None:
        """Text with each token coloured by its probability, with a legend; None marks text that was given, not predicted."""
        told = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        shown = "".join(_token(text, probability) for text, probability in tokens)
        self._parts.append(
            f'<figure class="tokens">{told}<div class="scroll" tabindex="0"><pre>{shown}</pre></div>{self._legend()}</figure>'
        )

    def code(self, text: str) -> None:
        """Text as it is, in a fixed width."""
        self._parts.append(f'<div class="scroll" tabindex="0"><pre><code>{_safe(text)}</code></pre></div>')

    @contextlib.contextmanager
    def details(self, summary: str, *, is_open: bool = False) -> Iterator[None]:
        """What is added within is folded under a line: `with page.details("Configuration"): page.code(text)`."""
        self._parts.append(f"<details{' open' if is_open else ''}><summary>{_inline(summary)}</summary>")
        yield
        self._parts.append("</details>")

    def html(self) -> str:
        """The whole document."""
        sheet = importlib.resources.files("touchstone.report").joinpath("page.css").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
        made = self._words("page.made_by", version=_version(), date=self._date.strftime("%Y-%m-%d %H:%M"))
        subtitle = f'<p class="subtitle">{_inline(self._subtitle)}</p>' if self._subtitle else ""
        return (
            f'<!DOCTYPE html>\n<html lang="{_LANG.get(self._lang, self._lang)}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
            f"<title>{_safe(self._title)}</title>\n<style>{sheet}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{_inline(self._title)}</h1>{subtitle}</header>\n{self._contents()}"
            + "\n".join(self._parts)
            + f"\n</main>\n<footer>{_safe(made)}</footer>\n</body>\n</html>\n"
        )

    def write(self, path: Path | str) -> None:
        """Write the document to a file, atomically."""
        write_text(path, self.html())

    def _contents(self) -> str:
        if len(self._headings) < 3:
            return ""
        links = "".join(f'<li><a href="#part-{place}">{_inline(text)}</a></li>' for place, text in enumerate(self._headings, 1))
        return f'<nav aria-label="{self._words("page.contents")}"><ol>{links}</ol></nav>\n'

    def _legend(self) -> str:
        edges = [f"{100 * step:g}" for step in PROBABILITY_STEPS]
        labels = [f"&lt; {edges[0]} %", *(f"{low}–{high} %" for low, high in itertools.pairwise(edges)), f"≥ {edges[-1]} %"]
        keys = "".join(f'<li><span class="p{place}">{label}</span></li>' for place, label in enumerate(labels))
        return (
            f'<div class="legend"><p>{self._words("page.tokens_legend")}</p><ul>{keys}</ul><p>{self._words("page.tokens_note")}</p></div>'
        )


def _token(text: str, probability: float | None) -> str:
    shown = _safe(text).replace("\n", '<i class="nl">↵</i>\n')
    if probability is None:
        return f"<span>{shown}</span>"
    step = sum(probability >= edge for edge in PROBABILITY_STEPS)
    return f'<span class="p{step}" title="{100 * probability:.3g} %">{shown}</span>'


def _safe(text: str) -> str:
    """Escaped, with characters that HTML cannot hold or that would turn the text around made visible."""
    visible = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)
    return escape(visible, quote=True)


def _version() -> str:
    """Of this package; a source tree that is only on the path has none, and a report must not fail for that."""
    try:
        return importlib.metadata.version("touchstone-lm")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _safe(text))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+−]?[\d.,]+( ?%| [a-zA-Zµ/]{1,8})?( \[[^\]]*\])?|[-–—]?", text) is not None


def _check_svg(svg: str) -> None:
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ConfigError(f"A figure must be an SVG element: {error}.") from None
    for element in root.iter():
        tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else "a comment"
        if tag not in _SVG_TAGS:
            raise ConfigError(f"A figure may not hold `{tag}`; it holds {', '.join(sorted(_SVG_TAGS))}.")
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2].lower()
            if name.startswith("on") or name == "style" or (name == "href" and not value.startswith("#")):
                raise ConfigError(f"A figure may not hold the attribute `{name}` with `{value[:40]}`; make it with `report.plot`.")
