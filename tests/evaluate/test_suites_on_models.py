"""Benchmarks asked of tiny models: the way of asking follows the model, and figures are those of its answers."""

import numpy as np
import pytest
from tiny_evaluation import make_model

from touchstone.errors import ConfigError
from touchstone.evaluate.run import run_task
from touchstone.evaluate.suites import SUITES, suite_task
from touchstone.evaluate.suites.classes import sst2
from touchstone.evaluate.suites.entity_tags import wnut17
from touchstone.infer import LanguageModel
from touchstone.models import build, encoder_spec
from touchstone.models.card import Card
from touchstone.models.heads import ClassifyHead, SpanHead, TagHead


@pytest.fixture(scope="module")
def model():
    return make_model()


def headed(model, head, labels):
    spec = encoder_spec(vocab_size=model.tokenizer.vocab_size, d_model=12, n_layers=1, n_heads=3, max_seq_len=48, head=head)
    return LanguageModel(build(spec, seed=1).eval(), tokenizer=model.tokenizer, card=Card(labels=labels))


def test_the_way_of_asking_follows_the_model(model):
    assert SUITES["sst-2"].way(model) == "answers"
    assert SUITES["sst-2"].way(headed(model, ClassifyHead(n_labels=2), ("0", "1"))) == "head"
    assert SUITES["xquad-en"].way(model) == "writing"
    assert SUITES["xquad-en"].way(headed(model, SpanHead(), ())) == "head"
    assert SUITES["dialogsum"].way(model) == "prompt"


@pytest.mark.slow
def test_a_classifier_is_judged_by_its_labels(model, written, tmp_path):
    path = written("a fine film\t1\na bad film\t0\nthe sky\t1\nthe blue\t0\n", "d.tsv")
    right = headed(model, ClassifyHead(n_labels=2), ("negative", "positive"))
    result = run_task(right, sst2(path, by="head"))
    expected = [label.label for label in right.classify(["a fine film", "a bad film", "the sky", "the blue"])]
    assert result.figure("accuracy").value == np.mean([a == b for a, b in zip(expected, ["positive", "negative"] * 2, strict=True)])
    with pytest.raises(ConfigError, match=r"label `LABEL_[01]` is none of `sst-2`: 0, 1"):
        run_task(headed(model, ClassifyHead(n_labels=2), ()), sst2(path, by="head"))


def test_a_tagger_runs(model, written):
    path = written("Ann\tB-p\nsaid\tO\n\nthe\tO\nsky\tO\n\n", "w.tsv")
    result = run_task(headed(model, TagHead(n_labels=3), ("O", "B-p", "I-p")), wnut17(path))
    assert result.n_examples == 2
    assert 0 <= result.figure("tag_accuracy").value <= 1


@pytest.mark.slow
def test_the_probes_run_and_need_no_files(model):
    result = run_task(model, suite_task("probes-zh"), limit=30, policy="cut")
    assert result.n_examples == 30
    assert {baseline.name for baseline in result.figure("accuracy").baselines} == {"random", "first"}
