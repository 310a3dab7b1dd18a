"""Beam search beside transformers', beside a list of all completions, and beside itself in other batches."""

import itertools
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from touchstone.infer.calibration import Calibrated
from touchstone.infer.engine import Engine
from touchstone.infer.request import Request, Sampling
from touchstone.infer.rules import NoRepeatedRuns
from touchstone.infer.sampling import Uniforms
from touchstone.infer.search import draw_distinct
from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import load_model

V, PAD, N_NEW = 29, 28, 7
pytestmark = pytest.mark.slow  # transformers takes seconds to import

PROMPTS = [[3, 1, 4, 1, 5, 9], [2], [7, 7, 12]]
RENAMED = {"forced_bos_ids": "forced_bos_token_id", "forced_eos_ids": "forced_eos_token_id"}
THEIRS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=20, n_layer=2, n_head=4, n_positions=40, bos_token_id=1, eos_token_id=5)
    ),
}


@pytest.fixture(scope="module", params=THEIRS)
def pair(request, tmp_path_factory):
    """A random model of theirs with enlarged matrices, so that contexts matter, and ours with the same weights."""
    torch.manual_seed(1)
    theirs = THEIRS[request.param]().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_model(folder).net.eval()


def search(engine, prompts=PROMPTS, **settings):
    return engine.generate([Request(prompt, Sampling(**{"max_new_tokens": N_NEW, **settings})) for prompt in prompts])


def assert_same(ours, theirs, prompt, eos_ids, **settings):
    """Sequence by sequence what transformers finds for one prompt; its scores are sums in fp32."""
    named = {RENAMED.get(key, key): [list(run) for run in value] if key == "bad_words_ids" else value for key, value in settings.items()}
    named = {key: list(value) if isinstance(value, tuple) else value for key, value in named.items()}
    if "forced_bos_token_id" in named:
        [named["forced_bos_token_id"]] = named["forced_bos_token_id"]
    found = theirs.generate(
        torch.tensor([prompt]),
        **{"max_new_tokens": N_NEW, "do_sample": False, **named},
        num_return_sequences=len(ours),
        eos_token_id=list(eos_ids),
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for completion, ids, score in zip(ours, found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        n = len(completion.token_ids)
        rest = ids[len(prompt) :]
        assert (list(completion.token_ids), set(rest[n:]) - {PAD}) == (rest[:n], set())
        assert completion.score == pytest.approx(score, abs=1e-5, rel=1e-6)


def assert_all_same(pair, eos_ids, n, **settings):
    theirs, net = pair
    completions = search(Engine(net, eos_ids=eos_ids), n=n, **settings)
    for place, prompt in enumerate(PROMPTS):
        assert_same([c for c in completions if c.request_index == place], theirs, prompt, eos_ids, **settings)


@pytest.mark.parametrize(("num_beams", "eos_ids"), [(2, [5]), (4, [5, 6, 11])])
def test_a_ragged_batch_finds_what_transformers_finds_prompt_by_prompt(pair, num_beams, eos_ids):
    assert_all_same(pair, eos_ids, n=2, num_beams=num_beams)


GRID = list(itertools.product((2, 3, 4, 5), (-1.0, 0.0, 0.5, 1.0, 2.0), (True, False, "never")))


@pytest.mark.parametrize(("num_beams", "length_penalty", "early_stopping"), GRID)
def test_every_setting_of_the_search_means_what_it_means_in_transformers(pair, num_beams, length_penalty, early_stopping):
    eos_ids = [5, 6, 11] if num_beams % 2 else [5]
    assert_all_same(pair, eos_ids, n=num_beams - 1, num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping)


RULES = [
    {"min_new_tokens": 4},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "min_new_tokens": 6},
    {"bad_words_ids": ((3, 4), (8,), (7, 7, 12, 5), (6,)), "min_new_tokens": 2},
    {"suppress_tokens": (9, 2), "begin_suppress_tokens": (5, 17, 4)},
    {"forced_eos_ids": (6,), "min_new_tokens": 5},
    {"forced_bos_ids": (7,), "begin_suppress_tokens": (5, 17, 4)},
    {"renormalize_logits": True, "suppress_tokens": (9, 5, 17), "repetition_penalty": 0.8},
]


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: "-".join(rules))
def test_rules_change_log_probabilities_of_beams_as_in_transformers(pair, rules):
    assert_all_same(pair, [5, 6, 11], n=2, num_beams=3, length_penalty=0.7, **rules)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 1.3, "top_k": 2},
        {"temperature": 0.8, "top_p": 0.6, "length_penalty": 0.0},
        {"temperature": 2.0, "min_p": 0.3, "repetition_penalty": 1.2, "early_stopping": True},
        {"temperature": 1.1, "top_k": 9, "top_p": 0.9, "renormalize_logits": True},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_drawn_beams_are_those_of_transformers_with_the_same_random_numbers(pair, settings, monkeypatch):
    theirs, net = pair
    eos_ids, num_beams, seed = [5, 6], 3, 11
    ours = search(Engine(net, eos_ids=eos_ids), seed=seed, num_beams=num_beams, n=3, **settings)
    for place, prompt in enumerate(PROMPTS):
        numbers, used = Uniforms(seed, 0), itertools.count()

        def drawn(weights, num_samples, numbers=numbers, used=used):
            return draw_distinct(weights[0].double(), [numbers.at(next(used)) for _ in range(num_samples)])[None]

        with monkeypatch.context() as patch:
            patch.setattr(torch, "multinomial", drawn)
            mine = [completion for completion in ours if completion.request_index == place]
            assert_same(mine, theirs, prompt, eos_ids, do_sample=True, num_beams=num_beams, **{"top_k": 0, **settings})


def test_distinct_draws_follow_their_weights_without_the_drawn_ones():
    weights, n = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64), 40
    grid = [(place + 0.5) / n for place in range(n)]
    counts = torch.zeros(4, 4, dtype=torch.float64)
    for first, second in itertools.product(grid, grid):
        a, b = draw_distinct(weights, [first, second]).tolist()
        counts[a, b] += 1
    expected = weights[:, None] * weights / (1 - weights[:, None])  # P(a) P(b) / (1 - P(a))
    expected.fill_diagonal_(0.0)
    torch.testing.assert_close(counts / n**2, expected, rtol=0, atol=1 / n)


@pytest.fixture(scope="module")
def small():
    """A network of three tokens, few enough to list all completions of four."""
    net = build(decoder_spec(vocab_size=3, d_model=8, n_layers=1, n_heads=2, max_seq_len=12), seed=3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    return net.eval()


def all_completions(net, prompt, eos, n_new):
    """(tokens, log-probability) of everything that ends with eos or has n_new tokens."""
    found = []
    for n in range(1, n_new + 1):
        for tokens in itertools.product(range(3), repeat=n):
            if eos in tokens[:-1] or (n < n_new and tokens[-1] != eos):
                continue
            with torch.no_grad():
                logprobs = net(torch.tensor([[*prompt, *tokens[:-1]]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
            found.append((tokens, logprobs.gather(1, torch.tensor(tokens)[:, None]).sum().item()))
    return found


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
def test_a_wide_search_finds_every_completion_in_the_order_of_its_score(small, length_penalty):
    everything = all_completions(small, [1, 2], 0, 4)
    assert sum(math.exp(logprob) for _, logprob in everything) == pytest.approx(1.0, abs=1e-5)
    ranked = sorted(((logprob / len(tokens) ** length_penalty, tokens) for tokens, logprob in everything), reverse=True)
    settings = {"num_beams": 81, "n": len(ranked), "length_penalty": length_penalty, "early_stopping": "never", "max_new_tokens": 4}
    found = search(Engine(small, eos_ids=[0]), [[1, 2]], **settings)
    assert [completion.token_ids for completion in found] == [tokens for _, tokens in ranked]
    assert [completion.score for completion in found] == pytest.approx([score for score, _ in ranked], abs=1e-5)


def test_more_completions_than_there_are_end_with_an_error_that_says_how_many(small):
    found = search(Engine(small, eos_ids=[0]), [[1]], num_beams=12, n=8, max_new_tokens=2)
    assert [completion.finish_reason == "error" for completion in found] == [False] * 7 + [True]
    assert "found 7 completions where `n` asks for 8" in found[-1].error


def test_a_batch_of_searches_and_choices_gives_what_each_request_gives_alone(any_net):
    settings = [
        {"num_beams": 3, "n": 2},
        {"temperature": 0.0},
        {"num_beams": 5, "length_penalty": 0.0, "early_stopping": True},
        {"num_beams": 2, "temperature": 1.2, "seed": 4, "top_p": 0.9},
        {"num_beams": 4, "no_repeat_ngram_size": 2, "n": 4},
    ]
    prompts = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5], [8, 8], [2, 4]]
    asked = [Request(prompt, Sampling(max_new_tokens=6, **each)) for prompt, each in zip(prompts, settings, strict=True)]
    engine, tight = Engine(any_net, eos_ids=[7]), Engine(any_net, eos_ids=[7], max_rows=6)
    alone = [completion for request in asked for completion in engine.generate([request])]
    for together in (engine.generate(asked), tight.generate(asked)):
        for completion, single in zip(together, alone, strict=True):
            assert completion.token_ids == single.token_ids
            assert completion.finish_reason == single.finish_reason
            assert completion.score == pytest.approx(single.score, abs=1e-5)


def test_log_probabilities_are_the_models_own_and_add_up_to_the_score(any_net):
    for completion in search(Engine(any_net, eos_ids=[7]), [[3, 1, 4], [6]], num_beams=4, n=3, length_penalty=0.5, top_logprobs=2):
        ids = [*completion.prompt_token_ids, *completion.token_ids]
        with torch.no_grad():
            full = any_net(torch.tensor([ids[:-1]])).logits[0, len(completion.prompt_token_ids) - 1 :].log_softmax(-1)
        expected = full.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-5)
        assert completion.score == pytest.approx(sum(completion.logprobs) / len(completion.token_ids) ** 0.5, abs=1e-5)
        assert [[entry.token_id for entry in top[:2]] for top in completion.top_logprobs] == full.topk(2).indices.tolist()


def test_penalties_change_the_score_and_not_the_log_probabilities(net):
    [completion] = search(Engine(net, eos_ids=[7]), [[5, 3]], num_beams=3, logit_bias={2: 9.0}, length_penalty=0.0)
    n_biased = completion.token_ids.count(2)
    assert n_biased
    assert completion.score == pytest.approx(sum(completion.logprobs) + 9.0 * n_biased, abs=1e-4)


def test_a_rule_of_the_caller_follows_its_beam(net):
    """A constraint equal to a rule of ours finds the same: it is told, and made to forget, the right tokens."""
    engine = Engine(net, eos_ids=[7])
    for prompt in ([3, 1, 4], [6]):
        ours = search(engine, [prompt], num_beams=4, n=4, no_repeat_ngram_size=1, max_new_tokens=9)
        theirs = search(engine, [prompt], num_beams=4, n=4, constraint=lambda request: NoRepeatedRuns(1, request.prompt), max_new_tokens=9)
        assert [c.token_ids for c in theirs] == [c.token_ids for c in ours]


class Closed:
    """Allows the tokens of a few answers only, and must stop at the end of one."""

    def __init__(self, answers):
        self.answers, self.seen = answers, []

    @property
    def must_stop(self):
        return tuple(self.seen) in self.answers

    def apply(self, logits):
        n = len(self.seen)
        allowed = [answer[n] for answer in self.answers if answer[:n] == tuple(self.seen) and len(answer) > n]
        banned = torch.full_like(logits, -torch.inf)
        banned[allowed] = logits[allowed]
        return banned

    def accept(self, token_id):
        self.seen.append(token_id)

    def rollback(self, n):
        del self.seen[len(self.seen) - n :]


def test_a_closed_set_of_answers_is_ranked_whole_with_more_beams_than_answers(net):
    answers = {(1, 2, 3), (1, 4), (5,), (1, 2, 6, 8)}
    found = search(Engine(net), [[3, 1]], num_beams=5, n=5, length_penalty=0.0, constraint=lambda request: Closed(answers))
    assert {completion.token_ids for completion in found[:4]} == answers
    assert {completion.finish_reason for completion in found[:4]} == {"stop"}
    assert [c.score for c in found[:4]] == pytest.approx(sorted((sum(c.logprobs) for c in found[:4]), reverse=True), abs=1e-5)
    assert (found[4].finish_reason, found[4].score) == ("error", None)
    assert "found 4 completions" in found[4].error


class Failing(Closed):
    def apply(self, logits):
        if len(self.seen) == 2:
            raise ZeroDivisionError("grammar")
        return logits

    must_stop = False


def test_a_rule_that_fails_ends_its_own_search_only(net):
    good = [Request(prompt, Sampling(num_beams=3, max_new_tokens=6)) for prompt in ([3, 1], [6])]
    failing = Request([5], Sampling(num_beams=2, n=2, constraint=lambda request: Failing(set()), max_new_tokens=6))
    alone = Engine(net).generate(good)
    completions = Engine(net).generate([good[0], failing, good[1]])
    assert [c.token_ids for c in (completions[0], completions[3])] == [c.token_ids for c in alone]
    assert [(c.finish_reason, c.error, c.token_ids) for c in completions[1:3]] == [
        ("error", "A sampling rule failed: ZeroDivisionError: grammar", ())
    ] * 2


def test_a_model_that_gives_no_numbers_ends_with_an_error(net):
    with torch.no_grad():
        net.decoder.final_norm.weight.fill_(torch.nan)
    for settings in ({}, {"temperature": 1.0}):
        [completion] = search(Engine(net), [[5]], num_beams=2, **settings)
        assert completion.finish_reason == "error"
        assert "No token has a finite score" in completion.error


def test_stop_strings_end_beams_as_end_tokens_do(net, pieces):
    engine = Engine(net, pieces, eos_ids=[0])
    asked = {"num_beams": 4, "n": 4, "max_new_tokens": 8}
    free = engine.generate([Request("abc d", Sampling(**asked))])
    stop = next(piece for piece in (free[0].text[place : place + 2] for place in range(len(free[0].text) - 1)) if piece.strip())
    for completion in engine.generate([Request("abc d", Sampling(**asked, stop=stop))]):
        whole = pieces.decode(completion.token_ids)
        assert stop not in completion.text
        assert stop not in pieces.decode(completion.token_ids[:-1])
        assert (stop in whole) == (completion.text != whole)
        assert completion.finish_reason == ("stop" if stop in whole or completion.token_ids[-1] == 0 else "length")


def test_a_stream_carries_the_completions_at_the_end_best_first(net, pieces):
    engine = Engine(net, pieces, eos_ids=[0])
    asked = [Request(text, Sampling(num_beams=4, n=3, max_new_tokens=9, top_logprobs=1)) for text in ("a", "abc d")]
    events, completions = list(engine.stream(asked)), engine.generate(asked)
    for completion in completions:
        mine = [event for event in events if (event.request_index, event.index) == (completion.request_index, completion.index)]
        assert "".join(event.text for event in mine) == completion.text == pieces.decode(completion.token_ids)
        assert tuple(event.token_id for event in mine) == completion.token_ids
        assert tuple(event.logprob for event in mine) == completion.logprobs
        assert [event.top_logprobs for event in mine] == list(completion.top_logprobs)
        assert [event.completion for event in mine][:-1] == [None] * (len(mine) - 1)
    scores = [[c.score for c in completions if c.request_index == place] for place in range(2)]
    assert scores == [sorted(each, reverse=True) for each in scores]


def test_cancelling_ends_a_search_without_a_completion_and_no_other(net):
    engine = Engine(net, max_rows=4)
    asked = [Request([3], Sampling(num_beams=4, n=2, max_new_tokens=5), id=name) for name in ("one", "two")]
    events = engine.stream(asked)
    first = next(events)
    engine.cancel("two")
    done = [event.completion for event in [first, *events] if event.completion]
    assert [(c.request_index, c.finish_reason, len(c.token_ids)) for c in done] == [
        (0, "length", 5),
        (0, "length", 5),
        (1, "cancelled", 0),
        (1, "cancelled", 0),
    ]


def test_confidence_comes_with_every_token_of_a_search(net):
    def half(logits, token_ids):
        return logits.softmax(-1).gather(1, token_ids[:, None])[:, 0] / 2

    [completion] = search(Engine(net, calibrated=Calibrated("half", "next-token", half)), [[3, 1]], num_beams=3)
    assert completion.confidence.value == pytest.approx([math.exp(logprob) / 2 for logprob in completion.logprobs], abs=1e-6)


def test_a_search_longer_than_the_context_ends_with_it(net):
    [completion] = search(Engine(net), [[1] * 20], num_beams=3, max_new_tokens=99)
    assert (len(completion.token_ids), completion.finish_reason) == (4, "length")


def test_beams_are_ranked_unless_a_temperature_asks_for_draws(net):
    engine = Engine(net, eos_ids=[7])
    ranked = {search(engine, [[3, 1]], num_beams=3, seed=seed)[0].token_ids for seed in range(6)}
    drawn = {search(engine, [[3, 1]], num_beams=3, seed=seed, temperature=3.0)[0].token_ids for seed in range(6)}
    assert len(ranked) == 1 < len(drawn)
    again = [search(engine, [[3, 1]], num_beams=3, seed=2, temperature=3.0)[0].token_ids for _ in range(2)]
    assert again[0] == again[1]
