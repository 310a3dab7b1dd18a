"""A smaller figure is a win only if the paired interval says so."""

import numpy as np
import pytest

from touchstone.errors import ConfigError
from touchstone.flows.comparison import Comparison, interval_dict, verdict_of
from touchstone.stats import Interval


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 9, "by hand")


@pytest.mark.parametrize(("low", "high", "verdict"), [(-0.2, -0.1, "better"), (0.1, 0.2, "worse"), (-0.1, 0.2, "tie"), (0.0, 0.1, "tie")])
def test_an_interval_that_covers_zero_is_a_tie(low, high, verdict):
    assert verdict_of(interval(low, high)) == verdict


def test_one_document_decides_nothing():
    assert verdict_of(Interval(-0.5, float("nan"), float("nan"), 0.95, 1, "none")) == "unknown"


@pytest.fixture
def comparison():
    sizes = np.array([10, 20, 30, 40, 50])
    made = Comparison("abcde", sizes)
    made.add("plain", sizes * 2.0)
    made.add("better", sizes * 1.5, parameters=7)
    made.add("mixed", sizes * np.array([1.0, 3.0, 1.0, 3.0, 2.0]))
    return made


def test_figures_are_bits_over_bytes_of_all_documents(comparison):
    assert comparison.interval("plain").value == pytest.approx(2.0)
    assert comparison.interval("mixed").value == pytest.approx((10 + 60 + 30 + 120 + 100) / 150)


def test_a_constant_gain_is_a_win_and_a_changing_one_a_tie(comparison):
    assert comparison.difference("better", "plain").verdict == "better"
    assert comparison.difference("plain", "better").verdict == "worse"
    assert comparison.difference("mixed", "plain").verdict == "tie"


def test_plain_data_holds_every_model_its_facts_and_the_pairs(comparison):
    data = comparison.to_dict([("better", "plain")])
    assert list(data["models"]) == ["plain", "better", "mixed"]
    assert data["models"]["better"]["parameters"] == 7
    assert data["differences"][0]["value"] == pytest.approx(-0.5)
    assert data["n_bytes"] == 150


def test_bits_of_other_documents_are_refused(comparison):
    with pytest.raises(ConfigError, match="5 documents"):
        comparison.add("short", np.ones(4))
    with pytest.raises(ConfigError, match="once"):
        comparison.add("plain", np.ones(5))


def test_missing_bounds_are_null_in_json():
    for low in float("nan"), 0.0:
        found = interval_dict(Interval(1.0, low, float("nan"), 0.95, 1, "none"))
        assert (found["low"], found["high"]) == (None, None)
    assert interval_dict(Interval(float("inf"), 1.0, float("inf"), 0.95, 2, "bootstrap"))["value"] is None
