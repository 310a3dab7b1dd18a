"""Where words and sentences begin and end, in each kind of vocabulary."""

import numpy as np
import pytest

from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Tokenizer

TEXT = ["the thinking thinker is thinking, then he rests. “Did he?” 他在想。然后休息了！\nsee ## headings here and there\n"] * 30


@pytest.fixture(scope="module")
def make():
    made = {}

    def of(kind, **settings):
        key = (kind, *settings.items())
        if key not in made:
            tokenizer = Tokenizer.train(TEXT, kind=kind, **settings)
            made[key] = tokenizer, TokenKinds.of(tokenizer)
        return made[key]

    return of


def words(tokenizer, kinds, text):
    """The text's tokens, those of a word together."""
    ids = tokenizer.encode(text)
    groups = []
    for token_id in ids:
        if kinds.starts_word[token_id] or not groups:
            groups.append([])
        groups[-1].append(token_id)
    return [tokenizer.decode(group).strip() for group in groups]


@pytest.mark.parametrize(("kind", "vocab_size"), [("bpe", 300), ("unigram", 268), ("bytes", None), ("wordpiece", 70)])
def test_words_begin_where_a_reader_sees_them_begin(make, kind, vocab_size):
    tokenizer, kinds = make(kind, vocab_size=vocab_size)
    assert words(tokenizer, kinds, "the thinker rests then") == ["the", "thinker", "rests", "then"]


@pytest.mark.parametrize(("kind", "vocab_size"), [("bytes", None), ("wordpiece", 70)])
def test_a_character_of_a_script_without_spaces_is_a_word_of_its_own(make, kind, vocab_size):
    tokenizer, kinds = make(kind, vocab_size=vocab_size)
    assert len(words(tokenizer, kinds, "他在想")) == 3


def test_two_number_signs_are_no_inner_piece_in_a_vocabulary_of_bytes(make):
    tokenizer, kinds = make("bpe", vocab_size=300)
    assert words(tokenizer, kinds, "see ## there")[:2] == ["see", "##"]


def test_special_tokens_and_ids_without_a_token_are_no_text(make):
    tokenizer, kinds = make("bpe", vocab_size=300)
    assert set(np.flatnonzero(kinds.is_special)) == set(tokenizer.special_ids)
    assert not set(kinds.ordinary) & set(tokenizer.special_ids)
    assert kinds.starts_word[list(tokenizer.special_ids)].all()


@pytest.mark.parametrize(("kind", "vocab_size"), [("bpe", 300), ("bytes", None), ("wordpiece", 70)])
def test_sentences_end_at_full_stops_questions_and_line_ends(make, kind, vocab_size):
    tokenizer, kinds = make(kind, vocab_size=vocab_size)
    ids = tokenizer.encode("he rests. then he thinks")
    assert kinds.ends_sentence[ids].sum() == 1


def test_chinese_full_stops_end_a_sentence_where_a_token_holds_the_whole_of_one(make):
    tokenizer, kinds = make("wordpiece", vocab_size=70)
    assert kinds.ends_sentence[tokenizer.encode("他在想。然后休息了！")].sum() == 2
    assert kinds.ends_sentence[tokenizer.encode("then he rests.”")[-2:]].any()
