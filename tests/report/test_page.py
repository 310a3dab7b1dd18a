"""The report page: one file that loads and runs nothing, holds hostile text as text, and can be read by everyone."""

import base64
import hashlib
import importlib.metadata
import importlib.resources
import itertools
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from touchstone.errors import ConfigError
from touchstone.report import plot
from touchstone.report.page import PROBABILITY_STEPS, Page
from touchstone.report.words import words
from touchstone.stats import Interval

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> & </pre></style> ]]> \x1b\u202e\ud800"
DATE = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Reader(HTMLParser):
    """Collects elements and text, and fails where the nesting is broken."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def full_page(text="plain", lang="en"):
    page = Page(text, lang, subtitle=text, date=DATE)
    page.facts([(text, 1.5, text), (text, Interval(1.453, 1.41, 1.49, 0.95, 32, "m"), "")])
    for level in (2, 2, 3, 2):
        page.heading(text, level)
    page.text(f"{text}\n\nsecond `{text}`")
    page.note(text)
    page.list([text, text])
    page.table([text, "n"], [[text, 3], [text, 4]], caption=text, highlight=[1])
    page.figure(plot.bars(["a"], [Interval(1.0, 0.9, 1.1, 0.95, 9, "m")], words(lang)), text)
    page.tokens([(text, None), (text, 0.5), ("\n", 0.001)], text)
    page.code(text)
    with page.details(text):
        page.code(text)
    return page


@pytest.mark.slow
def test_hostile_text_stays_text_wherever_it_stands():
    quiet, loud = Reader(full_page("x").html()), Reader(full_page(HOSTILE).html())
    assert [tag for tag, _ in loud.elements] == [tag for tag, _ in quiet.elements]  # no element more, no element less
    assert not any(name.startswith("on") or name in ("src", "style") for _, attributes in loud.elements for name in attributes)
    assert loud.text.count("<script>alert(1)</script>") == quiet.text.count("x") - Reader(full_page("y").html()).text.count("x")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", loud.text)


def test_the_page_loads_and_runs_nothing_and_says_so_in_its_policy():
    page = Reader(full_page().html())
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "form", "base", "img"}
    assert all(a.get("href", "#").startswith("#") for _, a in page.elements)
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    sheet = re.search(r"<style>(.*?)</style>", full_page().html(), re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    assert not re.search(r"@import|url\(|expression", sheet)


@pytest.mark.slow
def test_the_same_parts_give_the_same_bytes(tmp_path):
    full_page().write(tmp_path / "a.html")
    full_page().write(tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_text("utf-8") == full_page().html()


@pytest.mark.parametrize(("lang", "tag", "says"), [("en", "en", "Each token is coloured"), ("zh", "zh-Hans", "词元的底色表示")])
def test_the_page_speaks_its_language_and_says_which(lang, tag, says):
    page = Reader(full_page(lang=lang).html())
    assert page.all("html") == [{"lang": tag}]
    assert says in page.text
    assert "2026-11-22 10:30" in page.text


def test_headings_make_contents_that_lead_to_them():
    page = Page("title", date=DATE)
    for name in ("First", "Second", "Third"):
        page.heading(name)
        page.heading(f"{name} below", 3)
    read = Reader(page.html())
    assert [a["href"] for a in read.all("a")] == ["#part-1", "#part-2", "#part-3"]
    assert [h.get("id") for h in read.all("h2")] == ["part-1", "part-2", "part-3"]
    assert len(read.all("h1")) == 1
    with pytest.raises(ConfigError, match="level 2 or 3, not 1"):
        page.heading("no", 1)


def test_blank_lines_divide_paragraphs_and_backticks_mark_code():
    page = Page("title", date=DATE)
    page.text("first\nstill first\n\n  \nsecond with `touchstone train --data x`")
    html = page.html()
    assert "<p>first\nstill first</p>" in html
    assert "<p>second with <code>touchstone train --data x</code></p>" in html


def test_columns_of_numbers_are_flush_right():
    page = Page("title", date=DATE)
    page.table(["model", "bits", "share", "n"], [["5-gram", "1.453 [1.41, 1.49]", "61 %", 1_000], ["lstm", "—", "3.5 %", "12,000"]])
    assert [th.get("class") for th in Reader(page.html()).all("th")] == [None, "r", "r", "r"]


@pytest.mark.parametrize(
    ("probability", "step"),
    [(0.0, 0), (0.0099, 0), (0.01, 1), (0.049, 1), (0.05, 2), (0.2, 3), (0.499, 3), (0.5, 4), (0.9, 5), (1.0, 5)],
)
def test_a_token_has_the_colour_of_its_probability_and_tells_it(probability, step):
    page = Page("title", date=DATE)
    page.tokens([("given", None), ("token", probability)])
    given, token = Reader(page.html()).all("span")[:2]
    assert given == {}
    assert token["class"] == f"p{step}"
    assert token["title"] == f"{100 * probability:.3g} %"


def test_the_legend_names_every_colour_with_its_range():
    page = Page("title", date=DATE)
    page.tokens([("a", 0.5)])
    read = Reader(page.html())
    assert [span["class"] for span in read.all("span")[1:]] == [f"p{place}" for place in range(len(PROBABILITY_STEPS) + 1)]
    assert all(label in read.text for label in ("< 1 %", "1–5 %", "5–20 %", "20–50 %", "50–90 %", "≥ 90 %"))


def test_a_figure_has_its_caption_as_name_for_those_who_cannot_see_it():
    (svg,) = Reader(full_page("What it shows").html()).all("svg")
    assert svg["aria-label"] == "What it shows"
    assert svg["role"] == "img"


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ("<script>alert(1)</script>", "`script`"),
        ("<foreignObject/>", "`foreignObject`"),
        ('<g onload="alert(1)"/>', "`onload`"),
        ('<use href="https://example.com/x.svg#a"/>', "`href`"),
        ('<g style="color: red"/>', "`style`"),
        ("<g>", "must be an SVG element"),
    ],
)
def test_a_figure_that_could_run_or_load_is_refused(inner, says):
    with pytest.raises(ConfigError, match=says):
        Page("title").figure(f'<svg xmlns="http://www.w3.org/2000/svg">{inner}</svg>', "caption")


def sheet_colours(dark):
    sheet = importlib.resources.files("touchstone.report").joinpath("page.css").read_text("utf-8")
    light_block, dark_block = re.findall(r":root \{(.*?)\}", sheet, re.S)[:2]
    return dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", dark_block if dark else light_block))


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "ground"),
        ("soft", "ground"),
        ("link", "ground"),
        ("ink", "mark"),
        ("ink", "raised"),
        *(("ink", f"p{place}") for place in range(6)),
    ],
)
def test_text_is_readable_on_every_ground_in_light_and_in_dark(dark, text, ground):
    colours = sheet_colours(dark)
    high, low = sorted([luminance(colours[text]), luminance(colours[ground])], reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.1 AA, 1.4.3


@pytest.mark.parametrize("dark", [False, True])
def test_neighbouring_colours_of_tokens_differ(dark):
    colours = [sheet_colours(dark)[f"p{place}"] for place in range(6)]
    for a, b in itertools.pairwise(colours):
        assert sum(abs(int(a[i : i + 2], 16) - int(b[i : i + 2], 16)) for i in (1, 3, 5)) >= 30


def test_a_source_tree_that_is_not_installed_still_makes_a_page(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "(not installed)" in Page("title", date=DATE).html()
