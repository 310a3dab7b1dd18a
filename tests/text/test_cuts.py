"""Cutting long text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.text.cuts import cut_place, cut_stream


@pytest.mark.slow
@given(
    chunks=st.lists(st.text(alphabet="ab \n", max_size=30), max_size=12),
    max_chars=st.integers(2, 40),
)
def test_pieces_join_to_the_text_and_know_their_lines(chunks, max_chars):
    text = "".join(chunks)
    pieces = list(cut_stream(chunks, max_chars))
    assert "".join(piece for _, piece in pieces) == text
    assert all(0 < len(piece) <= max_chars for _, piece in pieces)
    place = 0
    for line, piece in pieces:
        assert line == text.count("\n", 0, place) + 1
        place += len(piece)


def test_a_blank_line_is_preferred_to_a_line_end_and_that_to_a_space():
    assert cut_place("aa bb\n\ncc\ndd ee", 0, 15) == len("aa bb\n\n")
    assert cut_place("aa bb\ncc dd", 0, 11) == len("aa bb\n")
    assert cut_place("aa bb cc", 0, 8) == len("aa bb ")
    assert cut_place("aaaaaaaa", 0, 5) == 5


def test_all_blank_lines_stay_with_what_they_end():
    assert cut_place("aa\n\n\n\nbb", 0, 8) == len("aa\n\n\n\n")


def test_no_place_before_the_lower_bound_is_taken():
    assert cut_place("a\n\nbbbb cccc", 4, 12) == len("a\n\nbbbb ")
