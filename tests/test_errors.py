"""What every message has in common."""

import pytest

from touchstone.errors import printable


@pytest.mark.parametrize(
    ("value", "most", "shown"),
    [
        ("a name", 80, "a name"),
        ("ünïcode 中文", 80, "ünïcode 中文"),
        ("\x1b[2J\n\ud800\u202e", 80, "\\x1b[2J\\n\\ud800\\u202e"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        (["a", 1], 80, "['a', 1]"),
        (10**20, 6, "10000…"),
    ],
)
def test_what_a_file_says_is_shown_on_one_short_line(value, most, shown):
    assert printable(value, most) == shown
