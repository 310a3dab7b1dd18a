"""Rows with answers: classes, tags, spans and targets on the tokens they belong to."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.text.answers import AnsweredRows, Fit, PairRows, class_rows, pair_rows
from touchstone.text.conll import TaggedWords
from touchstone.text.frame import Frame
from touchstone.text.labelled import LabelledText, TextPair
from touchstone.text.span_windows import span_rows, span_windows
from touchstone.text.squad import Answer, Question
from touchstone.text.tagged_rows import first_tokens, joined_words, tag_rows
from touchstone.text.tokenizer import Tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNK, CLS, SEP = range(4)
FRAME = Frame(before=(CLS,), between=(SEP,), after=(SEP,), second_type=1)


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["Ada met Bob in Rome. The unbelievable thinker was thinking of Rome and of Ada in the rain. Who met Bob where?"] * 9
    return Tokenizer.train(texts, kind="wordpiece", vocab_size=75, specials=SPECIALS)


@pytest.fixture(scope="module")
def bytewise():
    return Tokenizer.train([], kind="bytes")


def ids_of(row):
    return row.tolist()


def test_a_text_has_its_marks_and_the_place_of_its_label(tokenizer):
    fit = Fit()
    texts = [LabelledText("Ada met Bob", "neg", "a:1"), LabelledText("in Rome", "pos", "a:2")]
    batch = class_rows(texts, ("neg", "pos"), tokenizer, frame=FRAME, context=20, pad_id=PAD, fit=fit).batch([1, 0])
    assert batch.targets.tolist() == [1, 0]
    assert batch.counts.tolist() == [True, True]
    for row, text in enumerate(("in Rome", "Ada met Bob")):
        there = batch.token_ids[row][batch.mask[row]]
        assert ids_of(there) == [CLS, *tokenizer.encode(text), SEP]
    assert (batch.token_ids[~batch.mask] == PAD).all()
    assert not batch.token_types.any()
    assert fit.n == {}


def test_a_pair_has_both_texts_and_their_types(tokenizer):
    texts = [LabelledText("Ada met Bob", "x", "a:1", "in Rome")]
    batch = class_rows(texts, ("x",), tokenizer, frame=FRAME, context=30, pad_id=PAD, fit=Fit()).batch([0])
    first, second = tokenizer.encode("Ada met Bob"), tokenizer.encode("in Rome")
    assert ids_of(batch.token_ids[0]) == [CLS, *first, SEP, *second, SEP]
    assert ids_of(batch.token_types[0]) == [0] * (len(first) + 2) + [1] * (len(second) + 1)


@pytest.mark.slow
@given(n_first=st.integers(1, 30), n_second=st.integers(1, 30), context=st.integers(5, 40))
def test_what_is_too_long_is_cut_from_the_longer_side_and_counted(bytewise, n_first, n_second, context):
    fit = Fit()
    texts = [LabelledText("a" * n_first, "x", "a:1", "b" * n_second)]
    frame = Frame(before=(256,), between=(257,), after=(257,))
    row = class_rows(texts, ("x",), bytewise, frame=frame, context=context, pad_id=257, fit=fit).rows[0]
    a, b = (int((row == ord(char)).sum()) for char in "ab")
    assert len(row) == min(context, n_first + n_second + 3)
    assert fit.n == ({} if n_first + n_second + 3 <= context else {"texts cut to the context": 1})
    if a < n_first and b < n_second:
        assert abs(a - b) <= 1
    elif a < n_first:
        assert a >= b
    elif b < n_second:
        assert b >= a


def test_a_label_that_is_not_among_them_is_an_error_with_its_line(tokenizer):
    with pytest.raises(DataError, match=r"b\.csv:7: label `z` is none of `x`, `y`; 1 rows"):
        class_rows([LabelledText("a", "z", "b.csv:7")], ("x", "y"), tokenizer, frame=FRAME, context=9, pad_id=PAD, fit=Fit())


def test_the_first_token_of_each_word_has_its_tag_and_no_other_is_scored(tokenizer):
    sentence = TaggedWords(("unbelievable", "Ada", "met", "Bob"), ("O", "B-P", "O", "B-P"), "a:1")
    assert len(tokenizer.encode("unbelievable")) > 1
    batch = tag_rows([sentence], ("O", "B-P"), tokenizer, frame=FRAME, context=60, pad_id=PAD, fit=Fit()).batch([0])
    place, expected, scored = 1, {}, []
    for word, tag in zip(sentence.words, (0, 1, 0, 1), strict=True):
        expected[place] = tag
        scored.append(place)
        place += len(tokenizer.encode(word))
    assert np.flatnonzero(batch.counts[0]).tolist() == scored
    assert batch.targets[0][scored].tolist() == list(expected.values())
    assert ids_of(batch.token_ids[0]) == [CLS, *tokenizer.encode("unbelievable Ada met Bob"), SEP]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_tags_stand_on_the_same_words_in_every_vocabulary(kind):
    text = ["the unbelievable thinkers were thinking of thin things in Rome, 他在想什么"] * 9
    size = {"wordpiece": 66, "bpe": 290, "unigram": 266}[kind]
    tokenizer = Tokenizer.train(text, kind=kind, vocab_size=size, specials=SPECIALS)
    words = ("the", "unbelievable", "things", ",", "in", "Rome")
    rows = tag_rows(
        [TaggedWords(words, tuple("abcdef"), "a:1")], tuple("abcdef"), tokenizer, frame=FRAME, context=99, pad_id=PAD, fit=Fit()
    )
    ids, offsets = tokenizer.encode_offsets(joined_words(words)[0])
    starts = np.flatnonzero(rows.counts[0]) - 1
    joined = joined_words(words)[0]
    for word, tag, place in zip(words, range(6), starts, strict=True):
        start, end = offsets[place]
        assert word.startswith(joined[start:end].strip())
        assert rows.targets[0][place + 1] == tag
    assert rows.rows[0][1:-1].tolist() == ids


def test_words_of_scripts_without_spaces_are_joined_without_them():
    assert joined_words(("高", "勇", "：", "男", "，", "born", "1971", "年")) == ("高勇：男， born 1971 年", [0, 1, 2, 3, 4, 6, 11, 16])


def test_a_word_that_shares_its_first_token_with_the_one_before_has_none_of_its_own():
    assert first_tokens([0, 1, 2], [1, 2, 4], [(0, 2), (2, 3), (3, 4)]) == [0, None, 1]
    assert first_tokens([0, 3], [2, 5], [(0, 2), (2, 5)]) == [0, 1]  # the second begins with the space before the word


def test_words_behind_the_context_are_counted_and_a_sentence_without_any_scored_word_is_left_out(tokenizer):
    fit = Fit()
    words = ("Ada", "met", "Bob", "in", "Rome")
    rows = tag_rows([TaggedWords(words, ("O",) * 5, "a:1")], ("O",), tokenizer, frame=FRAME, context=4, pad_id=PAD, fit=fit)
    assert len(rows.rows[0]) == 4
    assert rows.counts[0].sum() + fit.n["words behind the end of the context"] == 5


def test_all_labels_masked_is_an_error():
    row = np.array([1, 2])
    with pytest.raises(DataError, match="all labels are masked"):
        AnsweredRows([row], [row], pad_id=0, counts=[np.array([False, False])])


CONTEXT = "Ada met Bob in Rome. The unbelievable thinker was thinking of Rome and of Ada in the rain."


def asked(answer, start=None):
    place = CONTEXT.index(answer) if start is None else start
    return Question("Who met Bob where?", CONTEXT, (Answer(answer, place),), "q", "a")


@pytest.mark.parametrize("answer", ["Ada", "unbelievable thinker", "rain", "Rome and of Ada"])
@pytest.mark.parametrize("context", [20, 31, 200])
def test_the_tokens_of_a_span_spell_the_answer_in_every_window_that_holds_it(tokenizer, answer, context):
    windows = span_windows([asked(answer)], tokenizer, frame=FRAME, context=context, stride=6, fit=Fit())
    found = [window for window in windows if window.span != (0, 0)]
    assert found or len(tokenizer.encode(answer)) > 6
    for window in found:
        first, last = window.span
        start, end = window.offsets[first][0], window.offsets[last][1]
        assert CONTEXT[start:end] == answer
    for window in windows:
        assert len(window.token_ids) <= context
        assert (window.offsets[0] == -1).all()


def test_windows_overlap_by_the_stride_and_together_hold_the_context(tokenizer):
    windows = span_windows([asked("Ada")], tokenizer, frame=FRAME, context=20, stride=5, fit=Fit())
    parts = [window.offsets[window.offsets[:, 0] >= 0] for window in windows]
    assert len(windows) > 2
    for before, after in itertools.pairwise(parts):
        assert np.array_equal(before[-5:], after[:5])
    whole = np.concatenate([parts[0], *(part[5:] for part in parts[1:])])
    assert np.array_equal(whole, np.array(tokenizer.encode_offsets(CONTEXT)[1]))


def test_a_question_without_an_answer_points_at_the_mark_in_front(tokenizer):
    question = Question("Who?", CONTEXT, (), "q", "a")
    rows = span_rows(span_windows([question], tokenizer, frame=FRAME, context=99, stride=6, fit=Fit()), frame=FRAME, pad_id=PAD)
    batch = rows.batch([0])
    assert batch.targets.tolist() == [[0, 0]]
    assert batch.counts.tolist() == [[True, True]]
    assert batch.token_types.any()


def test_a_question_longer_than_the_room_is_left_out_and_counted(tokenizer):
    fit = Fit()
    with pytest.raises(DataError, match=r"none of 1 questions fits a `context` of 10 tokens .*`stride` of 6 .*; raise `context`"):
        span_windows([asked("Ada")], tokenizer, frame=FRAME, context=10, stride=6, fit=fit)
    assert fit.n == {"questions too long for the context": 1}


def test_spans_need_a_mark_in_front(tokenizer):
    with pytest.raises(ConfigError, match="no answer"):
        span_windows([asked("Ada")], tokenizer, frame=Frame(after=(SEP,)), context=99, stride=6, fit=Fit())


def test_pairs_are_read_and_written_with_their_marks_and_a_cut_target_has_no_end(bytewise):
    fit = Fit()
    pairs = [TextPair("abcd", "xy", "a:1"), TextPair("a", "wxyz", "a:2")]
    rows = pair_rows(pairs, bytewise, frame=Frame(after=(256,)), context=4, start_id=257, pad_id=257, fit=fit)
    batch = rows.batch([0, 1])
    assert batch.source_ids.tolist() == [[97, 98, 99, 256], [97, 256, 257, 257]]
    assert batch.source_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.token_ids.tolist() == [[257, 120, 121], [257, 119, 120]]
    assert batch.targets.tolist() == [[120, 121, 256], [119, 120, 121]]
    assert batch.counts.all()
    assert fit.n == {"sources cut to the context": 1, "targets cut to the context": 1}


def test_rows_know_what_they_depend_on():
    row, other = np.array([1, 2]), np.array([1, 3])
    prints = {
        AnsweredRows([row], np.array([0]), pad_id=0).fingerprint,
        AnsweredRows([other], np.array([0]), pad_id=0).fingerprint,
        AnsweredRows([row], np.array([1]), pad_id=0).fingerprint,
        AnsweredRows([row], np.array([0]), pad_id=0, token_types=[row]).fingerprint,
        PairRows([row], [row], start_id=0, pad_id=0).fingerprint,
        PairRows([row], [other], start_id=0, pad_id=0).fingerprint,
    }
    assert len(prints) == 6


@pytest.mark.parametrize("context", [7, 9, 15, 60])
def test_rows_are_what_the_tokenizer_makes_of_their_texts_in_use(tokenizer, context):
    frame = Frame.of(tokenizer)
    pairs = [("Ada met Bob", CONTEXT), (CONTEXT, "in Rome"), (CONTEXT, CONTEXT), ("in the rain", None)]
    texts = [LabelledText(first, "x", "a:1", second) for first, second in pairs if second is not None]
    rows = class_rows(texts, ("x",), tokenizer, frame=frame, context=context, pad_id=PAD, fit=Fit())
    for row, types, (first, second) in zip(rows.rows, rows.token_types, pairs, strict=False):
        encoded = tokenizer.encode_special(first, second, max_length=context)
        assert row.tolist() == list(encoded.token_ids)
        assert types.tolist() == list(encoded.token_types)


@pytest.mark.parametrize(("context", "stride"), [(20, 5), (31, 6), (24, 0), (200, 6)])
def test_windows_are_those_of_the_tokenizer(tokenizer, context, stride):
    question = asked("Ada")
    ours = span_windows([question], tokenizer, frame=Frame.of(tokenizer), context=context, stride=stride, fit=Fit())
    theirs = tokenizer.encode_windows(question.question, CONTEXT, max_length=context, stride=stride)
    assert [window.token_ids.tolist() for window in ours] == [list(window.token_ids) for window in theirs]
    assert [window.token_types.tolist() for window in ours] == [list(window.token_types) for window in theirs]
    for window, other in zip(ours, theirs, strict=True):
        inside = [offsets for offsets, side in zip(other.offsets, other.sides, strict=True) if side == 1]
        assert window.offsets[window.offsets[:, 0] >= 0].tolist() == [list(offsets) for offsets in inside]
