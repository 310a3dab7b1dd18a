"""Entities in every scheme against seqeval's numbers, and F1 of their counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.entities import entities_of, entity_counts, entity_f1, entity_scores, f1_of
from touchstone.evaluate.labels import SpanCounts, span_f1

TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), min_size=1, max_size=8)

EXPECTED = [["B-PER", "I-PER", "O", "B-LOC"], ["I-ORG", "O", "B-PER", "B-PER"], ["O", "O"]]
PREDICTED = [["B-PER", "I-PER", "O", "O"], ["I-ORG", "O", "B-PER", "I-PER"], ["B-LOC", "O"]]


def test_f1_and_the_scores_of_kinds_are_seqevals():
    """seqeval 1.2.2: 0.4444 in all, and 0, 1 and 0.4 for places, organisations and people."""
    assert entity_f1(PREDICTED, EXPECTED, n_resamples=1).value == pytest.approx(0.4444444444444445, abs=1e-12)
    scores = entity_scores(PREDICTED, EXPECTED)
    assert [(s.label, s.precision, pytest.approx(s.recall), pytest.approx(s.f1), s.n_there) for s in scores] == [
        ("LOC", 0.0, 0.0, 0.0, 1),
        ("ORG", 1.0, 1.0, 1.0, 1),
        ("PER", 0.5, 1 / 3, 0.4, 3),
    ]


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        ("bio", "B-X I-X B-X O I-Y", {(0, 2, "X"), (2, 3, "X"), (4, 5, "Y")}),
        ("bio", "B-X I-Y I-Y", {(0, 1, "X"), (1, 3, "Y")}),
        ("iob1", "I-X I-X B-X O I-Y", {(0, 2, "X"), (2, 3, "X"), (4, 5, "Y")}),
        ("iob1", "I-X I-Y B-Y O", {(0, 1, "X"), (1, 2, "Y"), (2, 3, "Y")}),
        ("bioes", "B-X M-X E-X O S-Y", {(0, 3, "X"), (4, 5, "Y")}),
        ("bioes", "B-X E-X B-X E-X", {(0, 2, "X"), (2, 4, "X")}),
        ("bioes", "S-X S-X", {(0, 1, "X"), (1, 2, "X")}),
        ("bioes", "B-X I-X L-X U-Y", {(0, 3, "X"), (3, 4, "Y")}),
        ("bioes", "M-X E-X E-X", {(0, 2, "X"), (2, 3, "X")}),  # never begun, read as begun
    ],
)
def test_every_scheme_spells_its_entities(scheme, tags, expected):
    assert entities_of(tags.split(), scheme) == expected


def test_bmes_and_iob1_have_the_f1_of_seqevals_strict_schemes():
    expected = [["B-NAME", "M-NAME", "E-NAME", "O", "S-LOC"], ["B-ORG", "E-ORG", "B-ORG", "E-ORG"]]
    predicted = [["B-NAME", "M-NAME", "E-NAME", "O", "O"], ["B-ORG", "M-ORG", "M-ORG", "E-ORG"]]
    assert entity_f1(predicted, expected, scheme="bioes", n_resamples=1).value == pytest.approx(1 / 3)
    expected, predicted = [["I-PER", "I-PER", "B-PER", "O", "I-LOC"]], [["I-PER", "I-PER", "I-PER", "O", "I-LOC"]]
    assert entity_f1(predicted, expected, scheme="iob1", n_resamples=1).value == pytest.approx(0.4)


@pytest.mark.slow
@given(pairs=st.lists(st.tuples(TAGS, TAGS).map(lambda p: (p[0][: len(p[1])], p[1][: len(p[0])])), min_size=1, max_size=6))
def test_f1_is_bounded_symmetric_and_that_of_the_labels_module(pairs):
    predicted, expected = zip(*pairs, strict=True)
    found = entity_f1(predicted, expected, n_resamples=10)
    assert 0 <= found.value <= 1
    assert found.value == pytest.approx(entity_f1(expected, predicted, n_resamples=1).value)
    assert found.value == pytest.approx(span_f1(predicted, expected, n_resamples=1).value)
    assert entity_f1(expected, expected, n_resamples=1).value == float(any(entities_of(tags) for tags in expected))


def test_f1_of_counts_sums_before_it_divides():
    counts = [SpanCounts(1, 1, 3), SpanCounts(0, 2, 0), SpanCounts(2, 2, 2)]
    assert f1_of(counts).value == pytest.approx(2 * 3 / (5 + 5))
    assert f1_of(counts * 5, [0, 1, 2] * 5).n == 3
    assert f1_of([SpanCounts(0, 0, 0)]).value == 0


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(DataError, match="same sentences"):
        entity_f1([], [])
    with pytest.raises(DataError, match="2 tags"):
        entity_counts(["O", "O"], ["O"])
    with pytest.raises(ConfigError, match="plain"):
        entities_of(["NN"], "plain")
