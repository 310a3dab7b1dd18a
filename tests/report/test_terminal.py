"""What reaches a screen, a pipe and a program that asked for JSON."""

import io
import json

import pytest
from rich.console import Console

from touchstone.report.terminal import Terminal, escaped_json, visible
from touchstone.stats import Interval


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Screen:
    """A terminal whose two streams are kept as text."""

    def __init__(self, lang="en", *, is_screen=False, width=60, **options):
        self.clock = Clock()
        self.streams = [io.StringIO(), io.StringIO()]
        out, err = (
            Console(file=stream, force_terminal=is_screen, width=width, highlight=False, markup=False, emoji=False, color_system=None)
            for stream in self.streams
        )
        self.terminal = Terminal(lang, out=out, err=err, clock=self.clock, **options)

    @property
    def out(self):
        return self.streams[0].getvalue()

    @property
    def err(self):
        return self.streams[1].getvalue()


def test_lines_go_to_stdout_and_warnings_to_stderr():
    screen = Screen()
    screen.terminal.say("ready", style="title")
    screen.terminal.warn("careful")
    screen.terminal.error("no such file")
    assert (screen.out, screen.err) == ("ready\n", "warning: careful\nerror: no such file\n")


def test_chinese_is_spoken_where_asked():
    screen = Screen("zh")
    screen.terminal.warn("磁盘已满")
    assert screen.err == "警告：磁盘已满\n"


def test_quiet_shows_only_warnings_and_errors():
    screen = Screen(quiet=True)
    screen.terminal.say("ready")
    screen.terminal.table(["a"], [[1]])
    with screen.terminal.progress("Reading", 3) as advance, screen.terminal.training() as display:
        advance(3)
        display.update({"step": 1, "loss": 2.0, "valid_loss": 1.0})
    screen.terminal.result({"a": 1})
    screen.terminal.warn("careful")
    assert (screen.out, screen.err) == ("", "warning: careful\n")


def test_json_leaves_one_document_on_stdout_and_nothing_else():
    screen = Screen(json=True, is_screen=True)
    screen.terminal.say("ready")
    screen.terminal.table(["a"], [[1]])
    with screen.terminal.progress("Reading", 3) as advance, screen.terminal.training() as display:
        advance()
        display.update({"step": 1, "loss": 2.0})
    screen.terminal.warn("careful")
    screen.terminal.result({"text": "试金石\ud800 [bold]:smile:", "long": "x" * 500})
    assert json.loads(screen.out) == {"text": "试金石\ud800 [bold]:smile:", "long": "x" * 500}


def test_a_long_line_is_wrapped_on_a_screen_and_whole_in_a_pipe():
    text = "word " * 30 + "end"
    pipe, screen = Screen(width=40), Screen(width=40, is_screen=True)
    pipe.terminal.say(text)
    screen.terminal.say(text)
    assert pipe.out == text + "\n"
    assert max(map(len, screen.out.splitlines())) <= 40
    screen = Screen(width=20, is_screen=True)
    screen.terminal.say("touchstone train gpt-small --data my_texts/", style="command")  # to be copied
    assert screen.out == "touchstone train gpt-small --data my_texts/\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("over\rwritten \b \x00 \x9b", r"over\x0dwritten \x08 \x00 \x9b"),
        ("line\n\ttab 试 é 😀", "line\n\ttab 试 é 😀"),
        ("turned \u202e around", r"turned \u202e around"),
        ("half \ud83d", r"half \ud83d"),
        ("[bold]not markup[/bold] :smile:", "[bold]not markup[/bold] :smile:"),
    ],
)
def test_text_from_outside_cannot_steer_the_terminal(text, shown):
    assert visible(text) == shown
    screen = Screen()
    screen.terminal.say(text)
    assert screen.out.replace("        ", "\t") == shown + "\n"


def test_columns_of_numbers_are_flush_right_and_no_row_is_cut_in_a_pipe():
    screen = Screen(width=30)
    rows = [["decoder " * 6, Interval(1.453, 1.412, 1.494, 0.95, 32, "m"), 32], ["n-gram", "—", 1_000]]
    screen.terminal.table(["model", "bits per byte", "n"], rows, title="Scores")
    title, header, first, second = screen.out.splitlines()
    assert title.strip() == "Scores"
    assert first.rstrip().endswith("1.453 [1.412, 1.494]     32")
    assert second.rstrip().endswith("1000")
    assert header.index("model") == second.index("n-gram") == 0
    assert header.rstrip().endswith(" n")


def test_progress_in_a_pipe_is_a_line_every_few_seconds_and_one_at_the_end():
    screen = Screen()
    with screen.terminal.progress("Reading", 200) as advance:
        for _ in range(20):
            screen.clock.now += 1
            advance(10)
    assert screen.out.splitlines() == [f"Reading: {percent} %" for percent in (25, 50, 75, 100)] + ["Reading: done in 20 s"]


def test_progress_of_unknown_length_counts():
    screen = Screen("zh")
    with screen.terminal.progress("读取") as advance:
        screen.clock.now += 6
        advance(1234)
    assert screen.out.splitlines() == ["读取：1,234", "读取：完成，用时 6 秒"]


def test_progress_on_a_screen_is_a_bar_that_leaves_one_line():
    screen = Screen(is_screen=True)
    with screen.terminal.progress("Reading", 4) as advance:
        advance(1)
        advance(3)
    assert "━" in screen.out
    assert screen.out.rstrip().endswith("Reading: done in 0 s")


def test_a_work_that_fails_is_not_said_to_be_done():
    screen = Screen()
    with pytest.raises(ValueError, match="broken"), screen.terminal.progress("Reading", 4):
        raise ValueError("broken")
    assert screen.out == ""


def test_pieces_join_to_one_line():
    screen = Screen()
    for piece in ("one ", "two", "\x1b[2J", " three"):
        screen.terminal.piece(piece)
    screen.terminal.say()
    screen.terminal.say("next")
    assert screen.out == "one two\\x1b[2J three\nnext\n"


@pytest.mark.parametrize("width", [5, 20, 33])
def test_a_narrow_screen_breaks_no_word_of_a_table(width):
    screen = Screen(is_screen=True, width=width)
    rows = [["calibration", "a long sentence of many words about the confidence"], ["speed", "1"]]
    screen.terminal.table(["part", "what was found"], rows)
    assert sorted(screen.out.split()) == sorted(" ".join(["part what was found", *map(" ".join, rows)]).split())


def test_a_very_long_word_is_folded_where_the_screen_ends():
    screen = Screen(is_screen=True, width=40)
    screen.terminal.table(["file", "n"], [["x" * 100, 3]])
    assert max(map(len, screen.out.splitlines())) <= 40
    assert screen.out.count("x") == 100


def test_json_of_any_text_is_utf8_that_reads_back():
    document = {"label": "\ud800x 中文 \x1b]0;t\x07 \x9b \u202e", "file": "caf\udce9"}
    line = escaped_json(document)
    assert json.loads(line.encode()) == document
    assert "中文" in line
    assert visible(line) == line
