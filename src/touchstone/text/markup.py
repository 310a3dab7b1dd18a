"""HTML and Markdown to the text that a reader sees, as a stream.

HTML goes through the standard library's tolerant parser: scripts, styles and the head are dropped, block elements end lines, white
space collapses except in `pre`. Markdown is cleaned by paragraphs: code stays as it is, everything else loses its marks.
"""

import html
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

__all__ = ["clean_html", "clean_markdown"]


def clean_html(chunks: Iterable[str]) -> Iterator[str]:
    """The visible text of an HTML page, in pieces as the page arrives."""
    parser = _HtmlText()
    for chunk in chunks:
        parser.feed(chunk)
        yield parser.take()
    parser.close()
    yield parser.take(final=True)


def clean_markdown(lines: Iterable[str]) -> Iterator[str]:
    """Markdown without its marks, in pieces that end in a newline; front matter, comments and link definitions are dropped."""
    paragraph: list[str] = []
    fence: str | None = None
    is_comment = False
    for line in _after_front_matter(lines):
        if fence is not None:
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            else:
                yield line + "\n"
            continue
        opening = _FENCE.match(line)
        if opening or not line.strip() or len(paragraph) >= _MAX_PARAGRAPH_LINES:
            yield _clean_inline("".join(paragraph))
            paragraph = []
        if opening:
            fence = opening.group(1)
            continue
        bare, is_comment = _without_comment(line, is_comment)
        if (bare.strip() or not line.strip()) and not _shows_nothing(bare):
            paragraph.append(_without_block_mark(bare) + "\n")
    yield _clean_inline("".join(paragraph))


_HIDDEN = frozenset({"head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "textarea"})
_PARAGRAPHS = frozenset(
    {"article", "blockquote", "dl", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table", "ul"}
)
_LINES = frozenset({"address", "aside", "body", "br", "caption", "center", "dd", "details", "dialog", "div", "dt", "fieldset", "figcaption",
                    "footer", "form", "header", "hr", "html", "legend", "li", "main", "nav", "option", "summary", "tbody", "tfoot", "thead",
                    "tr"})  # fmt: skip


class _HtmlText(HTMLParser):
    """Gathers visible text; `take` hands over what has come so far."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden: list[str] = []  # the hidden element we are in, and the same elements nested in it
        self._n_pre = 0
        self._gap = ""  # white space to come before the next word
        self._is_empty = True

    def take(self, *, final: bool = False) -> str:
        text, self._parts = "".join(self._parts), []
        return text if not final or self._is_empty else text.rstrip("\n") + "\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden:
            if tag == "body" and self._hidden[0] == "head":  # a head that is never closed
                self._hidden.clear()
            elif tag == self._hidden[0]:
                self._hidden.append(tag)
            return
        if tag in _HIDDEN:
            self._hidden.append(tag)
            return
        self._n_pre += tag == "pre"
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._hidden:
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            if tag == self._hidden[0]:
                self._hidden.pop()
            return
        self._n_pre -= tag == "pre" and self._n_pre > 0
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._n_pre:
            data = data.removeprefix("\n") if self._gap.endswith("\n\n") else data  # the line end behind <pre> is not shown
            text = data.rstrip("\n")
            self._add(text)
            self._gap += data[len(text) :]
            return
        words = " ".join(data.split())
        if data[:1].isspace():
            self._widen(" ")
        self._add(words)
        if data[-1:].isspace():
            self._widen(" ")

    def _add(self, text: str) -> None:
        if text:
            self._parts += [text] if self._is_empty else [self._gap, text]
            self._gap, self._is_empty = "", False

    def _widen(self, gap: str) -> None:
        self._gap = max(self._gap, gap, key=lambda white: (len(white), white == "\n"))

    def _break(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._widen(" ")
        elif tag in _PARAGRAPHS or tag in _LINES:
            self._widen("\n\n" if tag in _PARAGRAPHS else "\n")


_MAX_PARAGRAPH_LINES = 200  # emphasis may run over lines, but no further
_FENCE = re.compile(r"^\s{0,3}(`{3,}|~{3,})")
_LINK_DEFINITION = re.compile(r"\s{0,3}\[[^\]]+\]:\s+\S")
_BLOCK_MARK = re.compile(r"^\s{0,3}(?:#{1,6}(?:\s+|$)|(?:>\s?)+)")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.{1,1000}?)(?<!`)\1(?!`)", re.DOTALL)
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_HELD = re.compile(r"\0(\d+);")  # a zero byte is in no text, so it can mark what is not markup
_TARGET = r"\([^()]{0,1000}(?:\([^()]{0,1000}\)[^()]{0,1000}){0,3}\)"
_INLINE = (  # every repetition is bounded, so that no text takes quadratic time
    (re.compile(rf"!\[([^\[\]]{{0,1000}})\]{_TARGET}"), r"\1"),
    (re.compile(rf"!?\[([^\[\]]{{0,1000}})\](?:{_TARGET}|\[[^\[\]]{{0,200}}\])"), r"\1"),
    (re.compile(r"<((?:https?|mailto):[^<>\s]{1,1000})>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>]{0,1000}>"), ""),
    (re.compile(r"(\*\*|(?<!\w)__)(?=\S)(.{1,1000}?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<!\*)\*(?=[^\s*])([^*]{0,1000}?[^\s*])\*(?!\*)"), r"\1"),
    (re.compile(r"(?<!\w)_(?=[^\s_])([^_]{0,1000}?[^\s_])_(?!\w)"), r"\1"),
    (re.compile(r"~~(?=\S)(.{1,1000}?)(?<=\S)~~", re.DOTALL), r"\1"),
)


def _after_front_matter(lines: Iterable[str]) -> Iterator[str]:
    """All lines but a block between `---` (YAML) or `+++` (TOML) at the very top; one that never ends is no front matter."""
    stream = iter(lines)
    first = next(stream, None)
    if first is None:
        return
    held = [first]
    if first.rstrip() in ("---", "+++"):
        for line in stream:
            held.append(line)
            if line.rstrip() == first.rstrip():
                held = []
                break
            if len(held) > 200:
                break
    yield from held
    yield from stream


def _without_comment(line: str, is_inside: bool) -> tuple[str, bool]:
    """The line outside `<!-- … -->`, and whether a comment is still open after it."""
    kept = []
    while line:
        mark = "-->" if is_inside else "<!--"
        before, found, line = line.partition(mark)
        if not is_inside:
            kept.append(before)
        is_inside ^= bool(found)
    return "".join(kept), is_inside


def _shows_nothing(line: str) -> bool:
    """True for rules, underlines of headings, the line under a table's head, and link definitions."""
    marks = "".join(line.split())
    is_rule = len(marks) >= 3 and len(set(marks)) == 1 and marks[0] in "-*_="
    return is_rule or ("---" in marks and set(marks) <= set("|:-")) or _LINK_DEFINITION.match(line) is not None


def _without_block_mark(line: str) -> str:
    mark = _BLOCK_MARK.match(line)
    if not mark:
        return line
    rest = line[mark.end() :]
    return rest.rstrip().rstrip("#").rstrip() if "#" in mark.group() else rest


def _clean_inline(text: str) -> str:
    held: list[str] = []

    def hold(content: str) -> str:
        held.append(content)
        return f"\0{len(held) - 1};"

    text = _CODE_SPAN.sub(lambda code: hold(code.group(2)), text)
    text = _ESCAPE.sub(lambda escape: hold(escape.group(1)), text)
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return _HELD.sub(lambda place: held[int(place.group(1))], html.unescape(text))
