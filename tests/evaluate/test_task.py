"""A task cannot be made that shows a figure without a baseline, or whose examples are gone after one reading."""

import math

import numpy as np
import pytest
from tiny_evaluation import make_examples, make_model, make_task

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.ask import (
    ChoiceRequest,
    ClassifyRequest,
    EncodeRequest,
    GenerateRequest,
    LoglikelihoodRequest,
    RollingRequest,
    SpanRequest,
    TagRequest,
    answer_requests,
    plain,
    size_of,
    told,
)
from touchstone.evaluate.figures import KINDS, Metric, figure_of, paired_figure, standard_error
from touchstone.evaluate.task import Baseline
from touchstone.infer import LanguageModel, Sampling
from touchstone.models import build, encoder_spec
from touchstone.models.card import Card
from touchstone.models.heads import ClassifyHead, SpanHead, TagHead


@pytest.fixture(scope="module")
def model():
    return make_model()


def encoder(head, model, labels=(), max_seq_len=16):
    spec = encoder_spec(vocab_size=model.tokenizer.vocab_size, d_model=12, n_layers=1, n_heads=3, max_seq_len=max_seq_len, head=head)
    return LanguageModel(build(spec, seed=1).eval(), tokenizer=model.tokenizer, card=Card(labels=labels))


def metric(kind="mean", columns=("x",), **changes):
    return Metric(name="m", kind=kind, columns=columns, **changes)


def test_a_task_without_a_baseline_cannot_be_made():
    with pytest.raises(ConfigError, match="no baseline for `accuracy`, `share`"):
        make_task(baselines=())


def test_a_baseline_must_serve_every_metric():
    half = Baseline("random", lambda example: {"accuracy": 0.25}, metrics=("accuracy",))
    with pytest.raises(ConfigError, match="no baseline for `share`; a figure without one says nothing"):
        make_task(baselines=(half,))


def test_examples_that_can_be_read_once_only_are_refused():
    with pytest.raises(ConfigError, match="`examples` can be read once only"):
        make_task(examples=make_examples())


def test_examples_are_read_again_and_again():
    task = make_task()
    assert [example.id for example in task.examples] == [example.id for example in task.examples]


@pytest.mark.parametrize("twice", ["metrics", "baselines"])
def test_names_tell_metrics_and_baselines_apart(twice):
    task = make_task()
    with pytest.raises(ConfigError, match="a name of its own"):
        make_task(**{twice: getattr(task, twice) * 2})


def test_a_scorer_that_leaves_a_column_out_is_named_with_the_place():
    task = make_task(score=lambda example, outputs: {"accuracy": 1.0})
    with pytest.raises(DataError, match=r"colours.jsonl:1: the scorer of `colours` gives no `share`; it gives accuracy"):
        task.scored(next(iter(task.examples)), [])


def test_a_metric_of_an_unknown_kind_or_of_too_few_columns_is_refused():
    with pytest.raises(ConfigError, match="Did you mean `mean`"):
        metric("meen")
    with pytest.raises(ConfigError, match="reads 2 columns, not 1"):
        metric("ratio")


def test_each_request_gets_the_answer_of_the_call_it_stands_for(model):
    requests = [
        ChoiceRequest("the sky is", (" blue", " red")),
        LoglikelihoodRequest("the sky", " is blue"),
        RollingRequest("the colour of the sky"),
        GenerateRequest("the sky", Sampling(max_new_tokens=3, temperature=0.0, n=2)),
        LoglikelihoodRequest("the", " colour"),
        RollingRequest("blue or red", stride=2),
    ]
    found = answer_requests(model, requests)
    pairs = model.loglikelihood([("the sky", " is blue"), ("the", " colour")])
    assert [found[1].logprob, found[4].logprob] == pytest.approx([pair.logprob for pair in pairs], abs=1e-5)
    assert found[0].logprobs == pytest.approx(model.choose([("the sky is", (" blue", " red"))])[0].logprobs, abs=1e-5)
    assert found[2].logprob == pytest.approx(model.rolling(["the colour of the sky"])[0].logprob, abs=1e-5)
    assert found[5].logprob == pytest.approx(model.rolling(["blue or red"], stride=2)[0].logprob, abs=1e-5)
    expected = model.generate("the sky", max_new_tokens=3, temperature=0.0)[0].text
    assert told(found[3]) == [expected, expected]


def test_heads_answer_too(model):
    classifier = encoder(ClassifyHead(n_labels=2), model, ("no", "yes"))
    found = answer_requests(classifier, [ClassifyRequest("blue"), ClassifyRequest("red", "green")])
    expected = classifier.classify(["blue", ("red", "green")])
    assert [one.label for one in found] == [one.label for one in expected]
    tagger = encoder(TagHead(n_labels=3), model, ("O", "B-C", "I-C"))
    assert answer_requests(tagger, [TagRequest("the sky")])[0].words == tagger.tag(["the sky"])[0].words
    finder = encoder(SpanHead(), model, max_seq_len=32)
    assert answer_requests(finder, [SpanRequest("what", "the sky is blue")])[0] == finder.span([("what", "the sky is blue")])[0][0]
    vectors = answer_requests(encoder(None, model), [EncodeRequest("sky"), EncodeRequest("blue")])
    np.testing.assert_allclose(np.stack(vectors), encoder(None, model).encode(["sky", "blue"]), atol=1e-5)


def test_what_does_not_fit_is_known_before_it_is_asked(model):
    long = "sky " * 200
    assert size_of(model, LoglikelihoodRequest("the", " sky")).too_long is None
    assert "64 are read" in size_of(model, LoglikelihoodRequest(long, " sky")).too_long
    assert size_of(model, LoglikelihoodRequest(long, " sky")).can_cut
    assert not size_of(model, LoglikelihoodRequest("the", long)).can_cut
    assert "leave room for 60 new ones" in size_of(model, GenerateRequest(long, Sampling(max_new_tokens=60))).too_long
    assert not size_of(model, GenerateRequest("a", Sampling(max_new_tokens=64))).can_cut
    assert size_of(model, RollingRequest(long)).too_long is None
    assert "16 are read" in size_of(encoder(ClassifyHead(n_labels=2), model), ClassifyRequest(long)).too_long


def test_the_bound_of_a_pair_is_the_one_at_which_the_model_cuts(model):
    n = 0
    fits = []
    for n in range(50, 80):
        context = "x" * n  # no merges: one token a letter
        cut = model.loglikelihood([(context, "yz")])[0].n_truncated
        fits.append((size_of(model, LoglikelihoodRequest(context, "yz")).too_long is None, cut == 0))
    assert {one for one, _ in fits} == {True, False}
    assert all(said == true for said, true in fits)


def test_a_prompt_is_cut_to_its_last_tokens_where_that_is_asked_for(model):
    long, short = "z" * 90, "z" * 60
    sampling = Sampling(max_new_tokens=4, temperature=0.0)
    cut = answer_requests(model, [GenerateRequest(long, sampling)], cut=True)[0][0]
    assert cut.prompt_token_ids == tuple(model.tokenizer.encode(short))
    with pytest.raises(ConfigError):
        answer_requests(model, [GenerateRequest(long, sampling)])


def test_requests_are_plain_data_by_what_they_ask():
    one = GenerateRequest("a", Sampling(max_new_tokens=3, stop=("\n",)))
    assert plain(one) == {"kind": "GenerateRequest", "prompt": "a", "sampling": {"max_new_tokens": 3, "stop": ["\n"]}}
    assert plain(ChoiceRequest("a", ("b", "c"))) == {"kind": "ChoiceRequest", "context": "a", "answers": ["b", "c"]}


def test_the_standard_error_of_a_mean_is_s_over_root_n():
    values = np.array([0.0, 1, 1, 0, 1, 1, 1, 0, 0.5])
    expected = values.std(ddof=1) / math.sqrt(len(values))
    assert standard_error(metric(), values[:, None]) == pytest.approx(expected, rel=1e-12)


def test_the_standard_error_by_cluster_is_that_of_miller():
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 0])
    clusters = ["a", "a", "b", "c", "c", "c", "d", "d"]
    mean, total = values.mean(), 0.0
    for name in set(clusters):
        inside = [value - mean for value, of in zip(values, clusters, strict=True) if of == name]
        total += sum(a * b for a in inside for b in inside)  # Miller 2024, eq. for clustered errors, without the small-sample factor
    expected = math.sqrt(total * 4 / 3) / len(values)
    assert standard_error(metric(), values[:, None], clusters) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["ratio", "exp_ratio"])
def test_the_standard_error_of_a_ratio_is_close_to_the_spread_of_drawn_ratios(kind):
    rng = np.random.default_rng(5)
    sizes = rng.integers(5, 20, size=(400, 60)).astype(float)
    sums = sizes * 0.1 + rng.normal(0, 0.3, sizes.shape)
    drawn = sums.sum(axis=1) / sizes.sum(axis=1)
    if kind == "exp_ratio":
        drawn = np.exp(drawn)
    errors = [standard_error(metric(kind, ("a", "b")), np.stack([a, b], axis=1)) for a, b in zip(sums[:80], sizes[:80], strict=True)]
    assert np.mean(errors) == pytest.approx(drawn.std(ddof=1), rel=0.1)


def test_the_jackknife_of_a_mean_like_figure_is_its_standard_error():
    rows = np.array([[1.0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])
    as_mean = standard_error(metric(), rows[:, :1])  # F1 with one span found and one there an example is the share that is right
    assert standard_error(metric("span_f1", ("r", "f", "t")), rows) == pytest.approx(as_mean, rel=1e-9)


def test_a_pair_of_right_and_wrong_has_mcnemars_p():
    a, b = np.array([1.0] * 9 + [0] + [1] * 5), np.array([0.0] * 9 + [1] + [1] * 5)
    found = paired_figure(metric("share"), a[:, None], b[:, None])
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert found.difference.value == pytest.approx(8 / 15)
    assert found.standard_error == pytest.approx((a - b).std(ddof=1) / math.sqrt(15))
    assert found.verdict == "better"


def test_a_mean_of_zeros_is_no_share():
    zeros = np.zeros((9, 1))
    assert (figure_of(metric(), zeros).low, figure_of(metric(), zeros).high) == (0, 0)
    assert figure_of(metric("share"), zeros).high == pytest.approx(1 - 0.025 ** (1 / 9))  # Clopper & Pearson for none of nine


def test_lower_is_better_where_the_metric_says_so():
    rng = np.random.default_rng(3)
    a = rng.normal(1, 0.1, (30, 1))
    found = paired_figure(metric(higher_is_better=False), a, a + 0.5 + rng.normal(0, 0.01, a.shape))
    assert (found.verdict, found.test) == ("better", "sign flips")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_figure_minus_itself_is_nothing(kind, monkeypatch):
    monkeypatch.setattr("touchstone.evaluate.figures._RESAMPLES", 40)
    if kind in ("bleu", "chrf"):
        pytest.importorskip("sacrebleu")
    n = KINDS[kind].n_columns
    rows = np.random.default_rng(1).integers(1, 4, size=(20, n)).astype(float)
    of = metric(kind, tuple(f"c{number}" for number in range(n)))
    found = paired_figure(of, rows, rows)
    assert (found.difference.value, found.difference.low, found.difference.high, found.verdict) == (0, 0, 0, "tie")
    assert found.a == pytest.approx(figure_of(of, rows).value)


def test_a_share_of_a_part_leaves_out_those_that_add_nothing_below():
    rows = np.array([[1.0, 1], [0, 0], [0, 1], [1, 1], [0, 0], [1, 1]])
    assert figure_of(metric("ratio", ("a", "b")), rows).value == pytest.approx(3 / 4)
    with pytest.raises(DataError, match="which is 0 here"):
        figure_of(metric("ratio", ("a", "b")), rows[[1, 4]])
