"""ROUGE against rouge-score's numbers and a plain definition, BLEU and chrF against sacrebleu's own corpus scores."""

import sys
from collections import Counter

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError, MissingPackage
from touchstone.evaluate.overlap import BLEU_COUNTS, CHRF_COUNTS, bleu, bleu_counts, bleu_of, chrf, chrf_counts, rouge_l, rouge_n

WORDS = st.lists(st.sampled_from("abcd"), max_size=9)

# Of rouge-score 0.1.2 (RougeScorer, use_stemmer=False, score_multi): ROUGE-1, ROUGE-2, ROUGE-L.
ROUGE = [
    ("The cat sat on the mat.", ["the cat was on the mat"], 0.8333333333333334, 0.6, 0.8333333333333334),
    (
        "A fast brown-fox jumps; over the lazy dog_house, 3.5 times!",
        ["The quick brown fox jumped over the lazy dog house 3.5 times", "A fox jumps over a dog."],
        *(0.7692307692307693, 0.6666666666666666, 0.7692307692307693),
    ),
    (
        "to be or not to be that is the question",
        ["be that as it may, to be is the question to be or not"],
        *(0.8333333333333333, 0.6363636363636364, 0.5),
    ),
    ("nothing shared", ["entirely different words here"], 0.0, 0.0, 0.0),
    ("", ["something"], 0.0, 0.0, 0.0),
    ("word", ["word"], 1.0, 0.0, 1.0),
    (
        "We present SciTLDR, a new multi-target dataset of 5.4K TLDRs over 3.2K papers.",
        ["We introduce a dataset of TLDRs for scientific papers.", "SciTLDR: 5.4K TLDRs over 3.2K papers, with multiple targets."],
        *(0.5925925925925926, 0.48, 0.5925925925925926),
    ),
]

TEXTS = [
    "It is a guide to action which ensures that the military always obeys the commands of the party.",
    "He read the book because he was interested in world history.",
    "A dog runs.",
    "",
]
REFERENCES = [
    ["It is a guide to action that ensures that the military will forever heed Party commands.", "It is the practical guide for the army."],
    ["He was interested in world history because he read the book."],
    ["A dog runs.", "The dog is running quickly.", "Dogs run."],
    ["Nothing was said."],
]


@pytest.mark.parametrize(("text", "references", "one", "two", "longest"), ROUGE)
def test_rouge_is_rouge_scores(text, references, one, two, longest):
    assert rouge_n(text, references, 1) == pytest.approx(one, abs=1e-12)
    assert rouge_n(text, references, 2) == pytest.approx(two, abs=1e-12)
    assert rouge_l(text, references) == pytest.approx(longest, abs=1e-12)


def test_chinese_is_compared_by_character_and_other_alphabets_by_word():
    assert rouge_n("我爱北京。", ["我很爱北京"], 1) == pytest.approx(2 * 4 / 9)
    assert rouge_n("我爱北京。", ["我很爱北京"], 2) == pytest.approx(2 * 2 / 7)
    assert rouge_l("京北爱我", ["我爱北京"]) == 0.25
    assert rouge_l("GPT模型", ["gpt 模型"]) == 1.0
    assert rouge_n("für Привет", ["FÜR привет"], 1) == 1.0


def longest_common(a, b):
    """Length of the longest common subsequence by the table of the textbook."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@pytest.mark.slow
@given(a=WORDS, b=WORDS)
def test_rouge_is_its_definition_symmetric_and_bounded(a, b):
    text, reference = " ".join(a), " ".join(b)
    n_both = len(a) + len(b)
    assert rouge_l(text, [reference]) == pytest.approx(2 * longest_common(a, b) / n_both if n_both else 0.0)
    assert rouge_n(text, [reference], 1) == pytest.approx(2 * (Counter(a) & Counter(b)).total() / n_both if n_both else 0.0)
    assert rouge_l(text, [reference]) == rouge_l(reference, [text])
    assert 0 <= rouge_n(text, [reference], 2) <= 1
    assert rouge_n(text, [reference, text], 1) == float(bool(a))


def streams():
    return [[texts[place] if place < len(texts) else None for texts in REFERENCES] for place in range(3)]


def test_bleu_and_chrf_are_sacrebleus_of_the_corpus():
    found = bleu(TEXTS, REFERENCES, n_resamples=10)
    assert found.value == pytest.approx(sacrebleu.BLEU().corpus_score(TEXTS, streams()).score, abs=1e-9)
    assert found.method.endswith(f"sacrebleu case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}")
    assert found.n == 4
    found = chrf(TEXTS, REFERENCES, n_resamples=10)
    assert found.value == pytest.approx(sacrebleu.CHRF().corpus_score(TEXTS, streams()).score, abs=1e-9)
    assert "nc:6|nw:0" in found.method


def test_chinese_is_cut_into_characters_for_bleu():
    texts, references = ["我爱北京天安门", "今天天气很好"], [["我很爱北京天安门"], ["今天的天气非常好"]]
    expected = sacrebleu.BLEU(tokenize="zh").corpus_score(texts, [[r[0] for r in references]]).score
    found = bleu(texts, references, language="zh", n_resamples=10)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.value > 1 + bleu(texts, references, n_resamples=10).value
    assert "tok:zh" in found.method


@pytest.mark.slow
def test_the_interval_resamples_examples_by_their_counts():
    counts = np.tile(bleu_counts(TEXTS[:3], REFERENCES[:3]), (20, 1))
    assert counts.shape == (60, len(BLEU_COUNTS))
    found = bleu_of(counts, n_resamples=200)
    assert found.value == pytest.approx(bleu(TEXTS[:3], REFERENCES[:3], n_resamples=1).value)
    assert found.low < found.value < found.high
    rng = np.random.default_rng(0)  # the same by scoring resampled texts anew
    texts, references = TEXTS[:3] * 20, REFERENCES[:3] * 20
    drawn = []
    for _ in range(200):
        rows = rng.integers(60, size=60)
        drawn.append(sacrebleu.BLEU().corpus_score([texts[r] for r in rows], [[references[r][0] for r in rows]]).score)
    single = bleu(texts, [r[:1] for r in references], n_resamples=200)
    assert single.high - single.low == pytest.approx(4 * np.std(drawn), rel=0.2)
    whole = bleu_of(counts, np.repeat(np.arange(20), 3), n_resamples=50)  # copies of one corpus vary by nothing
    assert whole.high - whole.low == pytest.approx(0, abs=1e-9)


def test_the_counts_have_sacrebleus_order():
    counts = dict(zip(BLEU_COUNTS, bleu_counts(["the the cat"], [["the cat sat down"]])[0], strict=True))
    assert (counts["n_words"], counts["n_reference_words"], counts["n_right_1"], counts["n_found_1"]) == (3, 4, 2, 3)
    assert (counts["n_right_2"], counts["n_found_2"], counts["n_right_4"], counts["n_found_4"]) == (1, 2, 0, 0)
    counts = dict(zip(CHRF_COUNTS, chrf_counts(["ab b"], [["abcd"]])[0], strict=True))
    assert (counts["n_found_1"], counts["n_there_1"], counts["n_right_1"], counts["n_right_2"]) == (3, 4, 2, 1)


def test_what_cannot_be_scored_is_refused(monkeypatch):
    for texts, references in ([], []), (["a"], []), (["a"], ["b"]), (["a"], [[]]):
        with pytest.raises(DataError):
            chrf(texts, references)
    for references in "a b", []:
        with pytest.raises(DataError):
            rouge_l("a", references)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingPackage, match=r"pip install .*eval"):
        bleu(["a"], [["a"]])
