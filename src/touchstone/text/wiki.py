"""MediaWiki dumps: the articles of an export XML, with the markup taken out.

The XML is read as a stream by expat, page by page; entity declarations are refused, so a small file cannot expand into a large one.
Nested braces and tables are removed by one linear scan, never by a regular expression that could run for ever.
Format: https://www.mediawiki.org/wiki/Help:Export, https://www.mediawiki.org/wiki/Help:Formatting
"""

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from touchstone.errors import DataError
from touchstone.text.stream import byte_chunks

__all__ = ["LeftOut", "Page", "clean_wikitext", "read_pages"]

_MAX_PAGE_CHARS = 64 << 20  # the largest page MediaWiki stores is 2 MB


class Page(NamedTuple):
    """One page, or the whole text of an XML file that is no MediaWiki dump (then `title` is None)."""

    title: str | None
    text: str
    line: int


@dataclass
class LeftOut:
    """Pages that are no articles."""

    n_redirects: int = 0
    n_other_namespaces: int = 0


def read_pages(path: Path, left_out: LeftOut | None = None) -> Iterator[Page]:
    """The articles of a dump as plain text; redirects and pages outside the article namespace are counted in `left_out`.

    Any other XML is read as one page: its character data, one line for each element that holds some.
    """
    parser = _Parser(path, left_out if left_out is not None else LeftOut())
    for chunk in byte_chunks(path):
        yield from parser.feed(chunk)
    yield from parser.feed(b"", final=True)


def clean_wikitext(text: str, hidden: Iterable[str] = ("file", "image", "category")) -> str:
    """Wiki markup to the text that a reader of the page sees, without tables, references, formulas and boxes.

    hidden: lower-case names of the namespaces whose links show nothing.
    """
    text = _COMMENT.sub("", text)
    text = _without_boxes(_without_dropped_elements(text))
    prefixes = tuple(f"{name}:" for name in hidden)
    for _ in range(8):  # links nest inside picture captions; innermost first
        text, n_links = _LINK.subn(lambda match: _link_text(match.group(1), prefixes), text)
        if not n_links:
            break
    text = _EXTERNAL_LINK.sub(lambda match: match.group(1).strip(), text)
    text = _QUOTES.sub("", _MAGIC_WORD.sub("", _TAG.sub("", text)))
    text = _LIST_MARK.sub("", "\n".join(map(_without_heading_marks, text.split("\n"))))
    return _tidy(html.unescape(text).replace("\u00a0", " "))


_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_DROPPED_TAG = re.compile(r"<(/?)(ref|math|gallery|timeline|score|imagemap|graph|mapframe|templatestyles)\b[^<>]*>", re.IGNORECASE)
_LINK = re.compile(r"\[\[((?:(?!\[\[|\]\](?!\])).)*)\]\]", re.DOTALL)
_EXTERNAL_LINK = re.compile(r"\[(?:(?:https?:|ftp:)?//|mailto:)[^\s\[\]]{1,2000}([^\[\]\n]{0,2000})\]")
_QUOTES = re.compile(r"'{2,5}")
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LIST_MARK = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_CLOSING = {"{{": "}}", "{|": "|}"}
_BOX_MARK = re.compile(r"\{\{|\}\}|^[ \t:]*\{\||^[ \t]*\|\}(?!\})", re.MULTILINE)
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:\S")
_EMPTY_BRACKETS = re.compile(r" ?\((?:[\s,;:]|&nbsp;)*\)")
_BLANK_LINES = re.compile(r"\n\s*\n")


def _without_dropped_elements(text: str) -> str:
    """The text outside references, formulas and galleries; a tag without its partner goes alone."""
    spans: list[tuple[int, int]] = []
    opened: tuple[str, int] | None = None
    for match in _DROPPED_TAG.finditer(text):
        name = match.group(2).lower()
        if match.group(1):
            spans.append((opened[1] if opened and opened[0] == name else match.start(), match.end()))
            opened = None if opened and opened[0] == name else opened
        else:
            spans.append(match.span())
            if not match.group().endswith("/>") and (opened is None or opened[0] == name):
                opened = name, match.start()
    return _without_spans(text, spans)


def _without_boxes(text: str) -> str:
    """The text outside all templates {{…}} and tables {|…|}; a mark without its partner goes alone."""
    spans: list[tuple[int, int]] = []
    open_marks: list[re.Match[str]] = []
    for match in _BOX_MARK.finditer(text):
        mark = match.group().lstrip(" \t:")
        if mark in _CLOSING:
            open_marks.append(match)
        elif open_marks and _CLOSING[open_marks[-1].group().lstrip(" \t:")] == mark:
            spans.append((open_marks.pop().start(), match.end()))
        else:
            spans.append(match.span())
    spans += [match.span() for match in open_marks]
    return _without_spans(text, spans)


def _without_spans(text: str, spans: list[tuple[int, int]]) -> str:
    parts, place = [], 0
    for start, end in sorted(spans):
        if start >= place:
            parts.append(text[place:start])
        place = max(place, end)
    return "".join([*parts, text[place:]])


def _without_heading_marks(line: str) -> str:
    bare = line.rstrip()
    return bare.strip("=").strip() if bare.startswith("=") and bare.endswith("=") else line


def _link_text(inside: str, hidden: tuple[str, ...]) -> str:
    target = inside.split("|", 1)[0].strip().lower()
    if target.startswith(hidden) or ("|" not in inside and _LANGUAGE_LINK.match(target)):
        return ""
    return inside.rsplit("|", 1)[-1].lstrip(":").strip()


def _tidy(text: str) -> str:
    text = _EMPTY_BRACKETS.sub("", text)
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


@dataclass
class _Parser:
    """Collects pages while expat walks the XML."""

    path: Path
    left_out: LeftOut
    pages: list[Page] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.expat = expat.ParserCreate()
        self.expat.buffer_text = True
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._data
        self.expat.EntityDeclHandler = self._refuse
        self.is_dump: bool | None = None
        self.hidden = {"file", "image", "category"}
        self.namespace_key = ""
        self.page: dict[str, str] = {}
        self.page_line = 1
        self.parts: list[str] = []
        self.n_chars = 0

    def feed(self, chunk: bytes, *, final: bool = False) -> list[Page]:
        """The pages that end in this chunk."""
        try:
            self.expat.Parse(chunk, final)
        except expat.ExpatError as error:
            raise DataError(
                f"{self.path}:{error.lineno}: not well-formed XML ({expat.ErrorString(error.code)}); the file may be cut short."
            ) from None
        if final and not self.is_dump:
            self.pages.append(Page(None, _tidy("".join(self.parts)), 1))
        pages, self.pages = self.pages, []
        return pages

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self.is_dump is None:
            self.is_dump = name == "mediawiki"
        if not self.is_dump:
            return
        self._forget()
        if name == "page":
            self.page, self.page_line = {}, self.expat.CurrentLineNumber
        elif name == "redirect":
            self.page["redirect"] = attributes.get("title", "")
        elif name == "namespace":
            self.namespace_key = attributes.get("key", "")

    def _data(self, data: str) -> None:
        self.parts.append(data)
        self.n_chars += len(data)
        if self.n_chars > _MAX_PAGE_CHARS:
            raise DataError(f"{self.path}:{self.expat.CurrentLineNumber}: an element of more than {_MAX_PAGE_CHARS} characters.")

    def _end(self, name: str) -> None:
        if not self.is_dump:
            return self.parts.append("\n")
        value = "".join(self.parts)
        self._forget()
        if name == "namespace" and self.namespace_key in ("6", "14"):  # File and Category, in the language of the wiki
            self.hidden.add(value.lower())
        elif name in ("title", "ns", "text"):
            self.page[name] = value  # a dump with a history ends with the newest revision
        elif name == "page":
            self._finish_page()

    def _finish_page(self) -> None:
        if "redirect" in self.page:
            self.left_out.n_redirects += 1
        elif self.page.get("ns", "0") != "0":
            self.left_out.n_other_namespaces += 1
        else:
            text = clean_wikitext(self.page.get("text", ""), self.hidden)
            self.pages.append(Page(self.page.get("title"), text, self.page_line))

    def _forget(self) -> None:
        self.parts, self.n_chars = [], 0

    def _refuse(self, name: str, *_: object) -> None:
        line = self.expat.CurrentLineNumber
        raise DataError(f"{self.path}:{line}: declares the entity `{name}`; XML that declares entities is not read: take the line out.")
