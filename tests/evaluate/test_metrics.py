import math

import numpy as np
import pytest

from touchstone.errors import DataError, ShapeError
from touchstone.evaluate.metrics import bits_per_byte, bits_per_byte_difference, document_nats, perplexity

NATS = np.array([30.0, 5.0, 44.0, 12.0, 9.0, 21.0, 3.0, 17.0, 26.0, 8.0, 13.0])
N_BYTES = np.array([25, 7, 31, 9, 8, 15, 4, 12, 20, 9, 10])


def test_bits_per_byte_is_all_bits_over_all_bytes():
    # Not the mean of the ratios by document, which weighs a short file like a long one.
    assert bits_per_byte(NATS, N_BYTES).value == pytest.approx(NATS.sum() / math.log(2) / N_BYTES.sum())


def test_a_uniform_guess_over_bytes_costs_eight_bits_each():
    found = bits_per_byte(N_BYTES * math.log(256), N_BYTES)
    assert (found.value, found.low, found.high) == (pytest.approx(8), pytest.approx(8), pytest.approx(8))
    assert found.n == 11


def test_a_perplexity_beyond_any_number_is_infinite():
    found = perplexity([8000.0, 9000.0], [10, 10])  # e^850
    assert (found.value, found.high) == (math.inf, math.inf)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    found = perplexity(N_BYTES * math.log(37), N_BYTES)
    assert found.value == pytest.approx(37)
    assert found.high == pytest.approx(37)


def test_perplexity_and_its_bounds_are_the_exponential_of_the_mean_loss():
    found, bits = perplexity(NATS, N_BYTES, seed=3), bits_per_byte(NATS, N_BYTES, seed=3)
    for name in ("value", "low", "high"):
        assert math.log2(getattr(found, name)) == pytest.approx(getattr(bits, name))
    assert found.low < found.value < found.high


def test_a_difference_is_paired_by_document():
    # b is a plus a constant 0.1 nats a byte: the files differ widely, the difference not at all.
    found = bits_per_byte_difference(NATS, NATS + 0.1 * N_BYTES, N_BYTES)
    expected = -0.1 / math.log(2)
    assert (found.value, found.low, found.high) == tuple(pytest.approx(expected) for _ in range(3))


def test_clusters_are_the_units_where_they_are_given():
    assert bits_per_byte(NATS, N_BYTES, clusters=["a"] * 3 + list("bcdefghi")).n == 9


def test_losses_of_a_stream_are_summed_by_document():
    log_probs = -np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_allclose(document_nats(log_probs, [0, 2]), [3, 28])
    np.testing.assert_allclose(document_nats(log_probs, [0, 2, 5]), [3, 28])
    np.testing.assert_allclose(document_nats(log_probs, [0, 2, 2, 4]), [3, 0, 12, 16])
    np.testing.assert_allclose(document_nats(log_probs, [0]), [31])


@pytest.mark.parametrize("starts", [[], [1, 2], [0, 3, 2], [0, 6]])
def test_starts_that_are_no_offsets_are_refused(starts):
    with pytest.raises(ShapeError, match="starts"):
        document_nats(-np.ones(5), np.array(starts, dtype=np.int64))


def test_log_probabilities_given_as_losses_are_refused():
    with pytest.raises(DataError, match="negated"):
        bits_per_byte(-NATS, N_BYTES)
    with pytest.raises(DataError, match="nats_b"):
        bits_per_byte_difference(NATS, -NATS, N_BYTES)
