"""Shared n-grams against plain sets of tuples of words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate import contamination
from touchstone.evaluate.contamination import TrainingOverlap, ngram_size, share_contaminated, training_overlap
from touchstone.evaluate.overlap import words_of
from touchstone.text.document import Document

WORDS = st.lists(st.sampled_from(["a", "b", "ab", "é", "ß"]), max_size=25)


def document(text, source="train.txt", line=None):
    return Document(text, source, line)


def grams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@pytest.mark.slow
@given(examples=st.lists(WORDS, min_size=1, max_size=4), training=st.lists(WORDS, max_size=4), n=st.integers(1, 5))
def test_the_shares_are_those_of_sets_of_ngrams(examples, training, n):
    found = training_overlap([" ".join(words) for words in examples], [document(" ".join(words)) for words in training], n=n)
    seen = {gram for words in training for gram in grams(words, n)}
    for words, overlap in zip(examples, found, strict=True):
        shared = [place for place, gram in enumerate(grams(words, n)) if gram in seen]
        covered = {place + i for place in shared for i in range(n)}
        assert (overlap.n_words, overlap.n_ngrams) == (len(words), max(0, len(words) - n + 1))
        assert (overlap.n_shared, overlap.n_covered) == (len(shared), len(covered))
        if len(words) < n:
            assert overlap.share_of_ngrams is None
            assert overlap.share_of_words is None
        else:
            assert overlap.share_of_ngrams == pytest.approx(len(shared) / (len(words) - n + 1))
            assert overlap.share_of_words == pytest.approx(len(covered) / len(words))


def test_an_example_too_short_for_an_ngram_is_seen_where_a_document_is_the_same():
    training = [document("A fine  film!", line=3), document("a fine film indeed"), document("…"), document("a b c d e f")]
    found = training_overlap(["a FINE film", "fine film", "…", "?", "b c d e"], training, n=4)
    assert [overlap.first_place for overlap in found] == ["train.txt:3", None, "train.txt", None, "train.txt"]
    assert [overlap.is_seen for overlap in found] == [True, False, True, False, True]
    assert found[0].share_of_ngrams is None


def test_case_space_and_punctuation_count_for_nothing():
    assert words_of("The  cat's\n(2nd) naïve_word!") == ["the", "cat", "s", "2nd", "naïve", "word"]
    [found] = training_overlap(["THE cat, sat: on"], [document("…the\tcat sat -- on the mat")], n=4)
    assert found.share_of_words == 1


def test_chinese_is_compared_by_character():
    assert words_of("我用GPT-2，很好。") == ["我", "用", "gpt", "2", "很", "好"]
    text = "北京是中华人民共和国的首都，也是全国的政治中心。"
    [found] = training_overlap([text], [document("众所周知，北京是中华人民共和国的首都。")])
    assert (found.n_words, found.n_ngrams, found.n_shared, found.n_covered) == (22, 10, 1, 13)
    [found] = training_overlap([text], [document("上海是中国最大的城市。")])
    assert found.n_shared == 0


def test_an_ngram_does_not_reach_from_one_document_into_the_next():
    [found] = training_overlap(["a b c d"], [document("a b"), document("c d")], n=3)
    assert found.n_shared == 0


def test_the_first_document_with_an_ngram_is_named():
    found = training_overlap(["a b c", "c d e", "x y z"], [document("c d e f", "1.txt", 7), document("a b c d e", "2.txt")], n=3)
    assert [overlap.first_place for overlap in found] == ["2.txt", "1.txt:7", None]


def test_documents_longer_than_a_slice_lose_nothing(monkeypatch):
    monkeypatch.setattr(contamination, "_SLICE_WORDS", 4)
    words = [str(number) for number in range(50)]
    for n in (1, 3, 7):
        [found] = training_overlap([" ".join(words)], [document(" ".join(words))], n=n)
        assert found.n_shared == found.n_ngrams == 51 - n
        assert found.n_covered == 50


def test_order_of_examples_and_documents_does_not_matter():
    examples, training = ["a b c d e", "d e f g", "q r s"], [document("a b c"), document("z e f g")]
    found = training_overlap(examples, training, n=3)
    turned = training_overlap(examples[::-1], training[::-1], n=3)
    assert found == turned[::-1]


@pytest.mark.slow
def test_no_two_of_a_hundred_thousand_ngrams_share_a_hash():
    words = [f"w{number}" for number in np.random.default_rng(0).integers(0, 40, 100_000)]
    overlap = TrainingOverlap([" ".join(words)], n=4)
    assert len(overlap._known) == len(set(grams(words, 4)))


def test_the_size_is_the_fifth_percentile_of_lengths_within_8_and_13():
    assert ngram_size(["a " * 10] * 20) == 10
    assert ngram_size(["a b"] * 9) == 8
    assert ngram_size(["a " * 100] * 9) == 13
    with pytest.raises(DataError):
        ngram_size([])


def test_the_share_of_contaminated_examples_leaves_out_those_too_short():
    found = training_overlap(["a b c d", "a b c x", "p q r s", "a b"], [document("a b c d")], n=3)
    assert share_contaminated(found).value == pytest.approx(2 / 3)
    assert share_contaminated(found).n == 3
    assert share_contaminated(found, from_share=0.7).value == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="smaller `n`"):
        share_contaminated(found[3:])
    with pytest.raises(ConfigError, match="from_share"):
        share_contaminated(found, from_share=2)


def test_more_ngrams_than_the_bound_are_refused(monkeypatch):
    monkeypatch.setattr(contamination, "MAX_NGRAMS", 5)
    with pytest.raises(DataError, match="in parts"):
        TrainingOverlap(["a b c", "d e f g"], n=1)
    with pytest.raises(ConfigError, match="`n`"):
        TrainingOverlap(["a"], n=0)
    assert training_overlap([], [document("a")]) == ()
