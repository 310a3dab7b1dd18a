"""Guessing changes when tokens are known, never which; and it stops by itself where it does not pay."""

import pytest
import torch
from scipy import stats

from conftest import sharpened
from touchstone.errors import ConfigError, Unsupported
from touchstone.infer.engine import Engine
from touchstone.infer.request import Request, Sampling
from touchstone.infer.scheduler import Text
from touchstone.infer.speculative import DraftModel, Payoff, PromptLookup
from touchstone.models import decoder_spec, recurrent_spec

V = 11
SPEC = decoder_spec(vocab_size=V, d_model=24, n_layers=2, n_heads=4, max_seq_len=64, n_kv_heads=2)
SMALL = decoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=2, max_seq_len=64)
PROMPTS = ([3, 1, 4, 1, 5, 3, 1, 4, 1, 5, 3, 1], [2, 2, 2, 2, 2], [7], [6, 5] * 9)


@pytest.fixture(scope="module")
def net():
    return sharpened(SPEC)


def always(drafter, net, **settings):
    """An engine that guesses in every step."""
    engine = Engine(net, drafter=drafter, eos_ids=[9], **settings)
    engine.batch.payoff.begin = lambda: True
    return engine


def drafters(net):
    return {
        "lookup": PromptLookup(5, min_match=1),
        "a small model": DraftModel(sharpened(SMALL, seed=4), V, 3),
        "itself": DraftModel(net, V, 4),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lookup", "a small model", "itself"])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"seed": 5, "n": 2},
        {"seed": 5, "temperature": 1.4, "top_k": 6, "top_p": 0.9},
        {"seed": 2, "frequency_penalty": 1.0, "repetition_penalty": 1.2, "min_new_tokens": 5},
    ],
)
def test_the_tokens_are_those_without_guessing(net, name, settings):
    asked = [Request(prompt, Sampling(max_new_tokens=20, top_logprobs=2, **settings)) for prompt in PROMPTS]
    plain = Engine(net, eos_ids=[9]).generate(asked)
    guessed = always(drafters(net)[name], net).generate(asked)
    for ours, expected in zip(guessed, plain, strict=True):
        assert (ours.token_ids, ours.finish_reason) == (expected.token_ids, expected.finish_reason)
        assert ours.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_a_model_that_guesses_for_itself_is_always_right(net):
    engine = always(DraftModel(net, V, 4), net)
    n_steps, step = 0, engine.batch.runner.step

    def counted(parts):
        nonlocal n_steps
        n_steps += 1
        return step(parts)

    engine.batch.runner.step = counted
    engine.generate([Request([3, 1], Sampling(seed=3, max_new_tokens=21, ignore_eos=True))])
    assert n_steps == 1 + 4  # the prompt brings the first token, then five a step


@pytest.mark.slow
def test_the_law_of_sampled_tokens_is_the_models(net):
    """Pearson's test of 4,000 second tokens against the model's own distribution; guesses come true now and then."""
    engine = always(DraftModel(sharpened(SMALL, seed=4), V, 2), net)
    counts = torch.zeros(V)
    for seed in range(40):
        for completion in engine.generate([Request([3, 1], Sampling(seed=seed, max_new_tokens=2, n=100))]):
            if len(completion.token_ids) == 2:
                counts[completion.token_ids[1]] += 1
    with torch.no_grad():
        after_one = net(torch.tensor([[3, 1]])).logits[0, -1].softmax(-1)
        after_two = net(torch.tensor([[3, 1, token] for token in range(V)])).logits[:, -1].softmax(-1)
    after_one[9] = 0.0  # an end token is followed by nothing
    law = (after_one @ after_two) / after_one.sum()
    assert stats.chisquare(counts.numpy(), (law * counts.sum()).numpy()).pvalue > 1e-3


def test_prompt_lookup_finds_the_longest_and_latest_repetition():
    lookup = PromptLookup(3, min_match=1, max_match=3)
    for tokens, expected in [
        ([1, 2, 3, 9, 9, 1, 2, 3], [9, 9, 1]),
        ([1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3], [7, 5, 2]),
        ([4, 6, 4, 7, 4], [7, 4]),
        ([1, 2, 3], []),
        ([5], []),
        ([5, 5], [5]),
    ]:
        text = Text(tokens, 99)
        lookup.propose([(text, None)])
        assert text.drafts == expected
        lookup.forget(text)


def test_prompt_lookup_follows_a_text_that_grows():
    whole = [1, 2, 1, 2, 3, 1, 2, 3, 1, 1, 2]
    lookup, growing = PromptLookup(2, min_match=1, max_match=3), Text(whole[:1], 99, number=1)
    for n in range(1, len(whole) + 1):
        growing.token_ids = whole[:n]
        lookup.propose([(growing, None)])
        fresh = Text(whole[:n], 99, number=2)
        PromptLookup(2, min_match=1, max_match=3).propose([(fresh, None)])
        assert growing.drafts == fresh.drafts


@pytest.mark.parametrize(("seconds_with", "pays"), [(1.5, True), (1.98, False), (3.0, False)])
def test_guessing_is_kept_only_where_it_gives_more_tokens_a_second(seconds_with, pays):
    now = 0.0
    payoff = Payoff(n_steps=4, n_kept=10, clock=lambda: now)
    guessed = []
    for _ in range(18):
        guesses = payoff.begin()
        guessed.append(guesses)
        now += seconds_with if guesses else 1.0
        payoff.end(guesses, 2 if guesses else 1, 1)
    assert guessed == [False] * 4 + [True] * 4 + [pays] * 10
    assert payoff.pays is pays
    assert payoff.gain == pytest.approx(2 / seconds_with)
    assert ("switched off" in payoff.says) is not pays


def test_guessing_that_lost_is_tried_again_later_and_later():
    now = 0.0
    payoff = Payoff(n_steps=1, n_kept=4, clock=lambda: now)
    tried = []
    for step in range(60):
        guesses = payoff.begin()
        if guesses:
            tried.append(step)
        now += 5.0 if guesses else 1.0
        payoff.end(guesses, 1, 1)
    assert tried == [1, 7, 17, 35]


def test_a_draft_model_must_have_the_same_tokens(net):
    with pytest.raises(ConfigError, match="11 tokens and the model 12"):
        DraftModel(net, 12)


def test_a_model_that_decodes_in_waves_takes_no_guesses():
    with pytest.raises(Unsupported, match="guesses"):
        Engine(sharpened(recurrent_spec(vocab_size=V, d_model=8, d_hidden=8)), drafter=PromptLookup())


@pytest.mark.slow
def test_a_text_too_long_for_the_draft_model_goes_on_without(net):
    short = sharpened(decoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=2, max_seq_len=10))
    asked = [Request([3, 1], Sampling(temperature=0.0, max_new_tokens=30, ignore_eos=True))]
    assert always(DraftModel(short, V), net).generate(asked)[0].token_ids == Engine(net).generate(asked)[0].token_ids
