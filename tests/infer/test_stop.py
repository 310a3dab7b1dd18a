import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.infer.stop import CompletionText
from touchstone.text.tokenizer import Tokenizer


class Spelled:
    """A tokenizer whose tokens are given as their texts."""

    is_byte_level = True

    def __init__(self, texts):
        self.texts = texts

    def stream_decoder(self):
        return self

    def push(self, token_id):
        return self.texts[token_id]

    def finish(self):
        return ""


def run(texts, stops, n_free=0):
    """The pieces handed out, the final text, and after how many tokens it stopped (None = never)."""
    rule = CompletionText(Spelled(texts), (), stops, n_free)
    pieces = []
    for token_id in range(len(texts)):
        rule.accept(token_id)
        pieces.append(rule.take())
        if rule.must_stop:
            break
    stopped = len(pieces) if rule.must_stop else None
    rule.finish()
    pieces.append(rule.take())
    return pieces, rule.text, stopped


def test_a_stop_string_over_token_borders_cuts_the_text_before_it():
    pieces, text, stopped = run(["one E", "N", "D two", " three"], ["END"])
    assert text == "one "
    assert stopped == 3
    assert pieces == ["one ", "", "", ""]


def test_a_stop_string_inside_one_token_cuts_the_text_before_it():
    assert run(["ab", "cXd", "e"], ["X"])[1:] == ("abc", 2)


def test_a_beginning_that_comes_to_nothing_is_released():
    pieces, text, stopped = run(["a<", "/", "b", "c<"], ["</s>"])
    assert pieces == ["a", "", "</b", "c", "<"]
    assert (text, stopped) == ("a</bc<", None)


def test_the_stop_string_that_is_complete_first_wins_wherever_tokens_end():
    for texts in (["xabcy"], ["x", "a", "b", "c", "y"], ["xa", "bcy"]):
        assert run(texts, ["abc", "b"])[1] == "xa"


def test_of_two_that_end_together_the_longer_one_wins():
    assert run(["x", "ab"], ["b", "ab"])[1] == "x"


def test_stops_are_not_looked_for_in_the_first_free_tokens():
    assert run(["X", "aX", "bXc"], ["X"], n_free=2)[1:] == ("XaXb", 3)


def test_without_stops_everything_is_released_at_once():
    assert run(["a", "b"], []) == (["a", "b", ""], "ab", None)


def test_rolled_back_text_is_forgotten():
    rule = CompletionText(Spelled(["a", "b<", "/s>", "c"]), (), ["</s>"])
    rule.accept(0)
    assert rule.take() == "a"
    rule.accept(1)
    rule.accept(2)
    assert rule.must_stop
    rule.rollback(1)
    assert not rule.must_stop
    rule.accept(3)
    assert rule.take() == "b<c"
    assert rule.text == "ab<c"


@given(
    st.lists(st.text("abx", max_size=4), max_size=12),
    st.lists(st.text("abx", min_size=1, max_size=4), max_size=3),
)
def test_streamed_pieces_join_to_the_text_before_the_first_stop(texts, stops):
    pieces, text, stopped = run(["", *texts], stops)
    whole = "".join(texts)
    ends = sorted((whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole)
    assert "".join(pieces) == text
    assert text == (whole[: ends[0][1]] if ends else whole)
    assert (stopped is not None) == bool(ends)


@pytest.mark.parametrize("stop", ["\n", "é"])
def test_characters_beyond_ascii_and_line_ends_stop_too(stop):
    assert run(["a", f"b{stop}c"], [stop])[1] == "ab"


def test_an_incomplete_character_is_held_back_until_its_bytes_are_there():
    tokenizer = Tokenizer.train(["x"], kind="bytes")
    rule = CompletionText(tokenizer)
    pieces = []
    for token_id in tokenizer.encode("é試z"):
        rule.accept(token_id)
        pieces.append(rule.take())
    assert pieces == ["", "é", "", "", "試", "z"]


def test_an_incomplete_character_at_the_end_is_marked():
    tokenizer = Tokenizer.train(["x"], kind="bytes")
    rule = CompletionText(tokenizer, stops=["試"])
    for token_id in tokenizer.encode("a試")[:-1]:
        rule.accept(token_id)
    rule.finish()
    assert rule.text == "a\ufffd"


def test_a_word_that_follows_the_prompt_keeps_its_space():
    tokenizer = Tokenizer.train(["one two three " * 9], kind="wordpiece", vocab_size=24)
    prompt, new = tokenizer.encode("one"), tokenizer.encode("two three")
    rule = CompletionText(tokenizer, prompt)
    for token_id in new:
        rule.accept(token_id)
    rule.finish()
    assert rule.text == " two three"
    assert tokenizer.decode([*prompt, *new]) == "one" + rule.text
