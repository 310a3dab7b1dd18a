"""The report page in a real browser: its own policy blocks nothing of it, and it turns dark and narrow as it should."""

from datetime import UTC, datetime

import pytest

from touchstone.report import plot
from touchstone.report.page import Page
from touchstone.report.words import words
from touchstone.stats import Interval

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    made = Page("A report", subtitle="to be looked at", date=datetime(2026, 11, 22, tzinfo=UTC))
    made.facts([("bits per byte", "1.447", "95 %: 1.40 to 1.50")])
    made.figure(plot.bars(["decoder"], [Interval(1.4, 1.3, 1.5, 0.95, 9, "m")], words("en")), "Bits per byte.")
    made.tokens([("def f(", None), ("x", 0.001), ("):\n", 0.97)])
    made.code("wide " * 200)
    made.table(["a"] * 12, [["a cell with words"] * 12])
    path = tmp_path_factory.mktemp("page") / "report.html"
    made.write(path)
    return path


def test_the_policy_of_the_page_blocks_nothing_of_its_own_and_everything_else(page, look, tmp_path):
    _, said = look(page.as_uri(), 1200, 900)
    assert said == ""
    tampered = tmp_path / "tampered.html"
    tampered.write_text(page.read_text("utf-8").replace("</main>", "<p style='color: red'>x</p><script>1</script></main>"), "utf-8")
    _, said = look(tampered.as_uri(), 1200, 900)
    assert "Content Security Policy" in said  # the check above can fail


def test_the_page_is_light_or_dark_as_the_reader_has_it(page, look):
    light, _ = look(page.as_uri(), 900, 600)
    dark, _ = look(page.as_uri(), 900, 600, "--force-dark-mode")
    assert light.getpixel((5, 5)) == (0xFD, 0xFD, 0xFB)
    assert dark.getpixel((5, 5)) == (0x14, 0x16, 0x19)


def test_a_phone_sees_no_part_cut_off_or_spilled_over(page, look, tmp_path):
    wrapper = tmp_path / "phone.html"
    # wider than the page's own width, the frame would show what spills; its right margin must stay empty
    wrapper.write_text(f"<body style='margin:0'><iframe src='{page.as_uri()}' width=390 height=1800 style='border:0'></iframe>")
    picture, _ = look(wrapper.as_uri(), 520, 1800)
    margin = picture.crop((375, 0, 390, 1800))
    assert {colour for _, colour in margin.getcolors(1 << 16)} == {(0xFD, 0xFD, 0xFB)}
    inside = picture.crop((20, 0, 370, 1800))
    assert len(inside.getcolors(1 << 16)) > 20
