"""MediaWiki XML and its markup. Expected texts are what a reader of the page sees."""

import re

import pytest

from touchstone.errors import DataError
from touchstone.text.wiki import LeftOut, clean_wikitext, read_pages

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de">
  <siteinfo><namespaces><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces></siteinfo>
  <page>
    <title>Eins</title><ns>0</ns><revision><text xml:space="preserve">'''Eins''' ist [[Zahl|eine Zahl]].
[[Datei:x.jpg|mini|Ein [[Bild]] [sic]]] [[Kategorie:Zahlen]]</text></revision>
  </page>
  <page><title>Weiter</title><ns>0</ns><redirect title="Eins" /><revision><text>#REDIRECT [[Eins]]</text></revision></page>
  <page><title>Diskussion:Eins</title><ns>1</ns><revision><text>talk</text></revision></page>
  <page><title>Zwei &amp; mehr</title><ns>0</ns><revision><text>alt</text></revision><revision><text>neu</text></revision></page>
</mediawiki>
"""


def write(folder, text, name="dump.xml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_articles_come_with_title_and_line_and_the_rest_is_counted(tmp_path):
    left_out = LeftOut()
    pages = list(read_pages(write(tmp_path, DUMP), left_out))
    assert [(page.title, page.text, page.line) for page in pages] == [("Eins", "Eins ist eine Zahl.", 3), ("Zwei & mehr", "neu", 9)]
    assert left_out == LeftOut(n_redirects=1, n_other_namespaces=1)


def test_any_other_xml_is_its_text(tmp_path):
    path = write(tmp_path, "<book><title>A &lt; B</title><p>one <i>two</i></p></book>")
    assert [page.text for page in read_pages(path)] == ["A < B\none two"]


def test_entity_declarations_are_refused(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
    with pytest.raises(DataError, match=r"dump\.xml:1: declares the entity `a`"):
        list(read_pages(write(tmp_path, bomb)))


def test_xml_that_is_cut_short_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"dump\.xml:\d+: not well-formed XML"):
        list(read_pages(write(tmp_path, DUMP[: len(DUMP) // 2])))


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("a {{b|{{c}}|d}} e", "a  e"),
        ("{| class=x\n| cell {{t}}\n|}\nafter", "after"),
        ("{{box\n| a = {{b}}\n|}}after", "after"),
        ("x<ref name=a>note [[b]]</ref><ref name=a /> y<ref>z", "x yz"),
        ("[[a]] [[b|c]]s [[:Category:d|e]] [[Category:f]] [[de:G]]", "a cs e"),
        ("[http://x.y label] [http://x.y] [mailto:a@b c] //z", "label  c //z"),
        ("'''''both''''' it's", "both it's"),
        ("== Head ==\n=== Sub===\na = b", "Head\nSub\na = b"),
        ("* one\n** two\n# three\n: four", "one\ntwo\nthree\nfour"),
        ("__TOC__a<br/>b<!-- no -->c&nbsp;d&mdash;e", "abc d—e"),
        ("<math>x^2</math>y ({{IPA|z}}) w", "y w"),
        ("{{never closed [[a]]", "never closed a"),
        ("a\n\n\n\nb", "a\n\nb"),
    ],
)
def test_markup_is_taken_out(markup, shown):
    assert clean_wikitext(markup) == shown


@pytest.mark.parametrize("piece", ["{{", "[[", "<ref>", "{|\n", "= ", "'", "<!--", "[http://a", "("])
def test_unclosed_marks_take_linear_time(piece):
    text = piece * 20_000
    assert len(clean_wikitext(text)) <= len(text)


@pytest.mark.slow
def test_a_real_dump_reads_as_prose(test_data):
    left_out = LeftOut()
    pages = list(read_pages(test_data / "lm_text/enwiki_articles_shortened.xml.bz2", left_out))
    assert len(pages) + left_out.n_redirects == 206  # pages in the file, by `bzgrep -c '<page>'`
    assert left_out.n_redirects == 100
    text = "\n".join(page.text for page in pages)
    assert len(text) > 2_000_000
    for mark in ("{{", "}}", "[[", "]]", "<ref", "'''", "&nbsp;", "{|"):
        assert mark not in text
    assert not re.search(r"^=+ ", text, re.MULTILINE)
    assert "Anarchism is a political philosophy that advocates self-governed societies" in text
