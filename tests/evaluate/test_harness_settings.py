"""Without the harness: its settings of generation as ours, and the pip line where it is missing."""

import sys

import pytest

from touchstone.errors import ConfigError, MissingPackage
from touchstone.evaluate import harness


def test_a_setting_without_counterpart_is_refused():
    with pytest.raises(ConfigError, match="hold `typical_p`, which is not understood"):
        harness.sampling_of({"typical_p": 0.9})


def test_settings_are_taken_over():
    drawn = harness.sampling_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "until": "\n", "max_gen_toks": 5})
    assert drawn.given() == {"max_new_tokens": 5, "temperature": 0.7, "top_p": 0.9, "stop": ("\n",)}


def test_without_sampling_the_likeliest_tokens_are_taken():
    assert harness.sampling_of({"temperature": 0.0, "top_p": 0.9}).given() == {"max_new_tokens": 256, "temperature": 0.0, "stop": ()}
    assert harness.sampling_of({"do_sample": False, "temperature": 0.7}).temperature == 0.0
    assert harness.sampling_of({"temperature": 0.7}).temperature == 0.7


def test_a_missing_harness_is_named_with_its_pip_line(monkeypatch):
    harness.harness_class.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(MissingPackage, match=r"pip install lm-eval==0\.4\.13"):
        _ = harness.TouchstoneLM


def test_what_the_module_has_not_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchThing'"):
        _ = harness.NoSuchThing
