"""HTML and Markdown to plain text. Expected texts are what a browser shows."""

import pytest

from touchstone.text.markup import clean_html, clean_markdown


def html(*chunks):
    return "".join(clean_html(chunks))


def markdown(text):
    return "".join(clean_markdown(text.split("\n"))).strip("\n")


def test_scripts_styles_and_the_head_are_not_shown():
    head = "<head><title>t</title><style>p{}</style></head>"
    body = "<body>a<script>var x = '<p>b</p>';</script><noscript>c</noscript>d</body>"
    assert html(f"<html>{head}{body}</html>") == "ad\n"


def test_blocks_end_lines_and_white_space_collapses():
    assert (
        html("<h1>Hi  <b>you</b></h1>\n<p>one\n two&nbsp;&amp; <i>three</i>.</p><ul><li>a<li>b</ul>")
        == "Hi you\n\none two & three.\n\na\nb\n"
    )


def test_preformatted_text_keeps_its_white_space():
    assert html("<p>x</p><pre>  a\n   b\n</pre><p>y  z</p>") == "x\n\n  a\n   b\n\ny z\n"


def test_a_tag_split_between_chunks_is_one_tag():
    assert html("a<scr", "ipt>b</scri", "pt>c &am", "p; d") == "ac & d\n"


def test_words_in_cells_do_not_touch():
    assert html("<table><tr><td>1<td>2</tr><tr><td>3</table>") == "1 2\n3\n"


def test_a_head_that_is_never_closed_ends_with_the_body():
    assert html("<head><meta x><link y><body>shown") == "shown\n"


def test_nested_hidden_elements_close_together():
    assert html("<svg><g><svg>a</svg>b</g></svg>c") == "c\n"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("# A title #", "A title"),
        ("Title\n=====\ntext", "Title\ntext"),
        ("**bold** and *slanted* and ~~gone~~ and __strong__", "bold and slanted and gone and strong"),
        ("**over\ntwo lines**", "over\ntwo lines"),
        ("snake_case_name and _this_", "snake_case_name and this"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("[text](http://x/y_(z)) and ![picture](p.png) and [a][1]", "text and picture and a"),
        ("[1]: http://x 'title'\nafter", "after"),
        ("`**raw** [x](y)` and ``a`b``", "**raw** [x](y) and a`b"),
        (r"\*not slanted\* \# \\", "*not slanted* # \\"),
        ("a <b>c</b> &lt;d&gt; <http://x.y>", "a c <d> http://x.y"),
        ("> quoted **x**", "quoted x"),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "| a | b |\n| 1 | 2 |"),
        ("before <!-- not\nshown --> after", "before \n after"),
        ("---\ntitle: x\n---\ntext", "text"),
        ("---\nnot front matter", "not front matter"),
    ],
)
def test_markdown_marks_are_taken_out(source, shown):
    assert markdown(source) == shown


def test_fenced_code_stays_as_it_is():
    assert markdown("a\n```python\n# x **y**\n\n<b>\n```\nb **c**") == "a\n# x **y**\n\n<b>\nb c"


def test_a_longer_fence_holds_a_shorter_one():
    assert markdown("````\n```\n**x**\n```\n````\n**y**") == "```\n**x**\n```\ny"


@pytest.mark.parametrize("piece", ["![", "**", "<a", "`", "[x](", "*a", "~~", "[[", "\\"])
def test_unclosed_marks_take_linear_time(piece):
    text = piece * 20_000  # a quadratic scan of this is 10**9 steps and more
    assert len(markdown(text)) <= len(text)
