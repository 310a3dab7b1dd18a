import pytest
import torch

from touchstone.errors import ConfigError, NoTokenizer
from touchstone.infer.engine import Engine
from touchstone.infer.request import Request, Sampling
from touchstone.infer.sampling import Uniforms

pytestmark = pytest.mark.slow

PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5], [8, 8]]
GREEDY = {"temperature": 0.0, "max_new_tokens": 6}


def requests(prompts=PROMPTS, **sampling):
    return [Request(prompt, Sampling(**sampling)) for prompt in prompts]


def only(completions):
    [completion] = completions
    return completion


def full_logprobs(net, completion):
    """The model's log-probabilities at each generated place, (n, V), by one pass over the whole row."""
    ids = [*completion.prompt_token_ids, *completion.token_ids]
    with torch.no_grad():
        logits = net(torch.tensor([ids[:-1]])).logits[0, len(completion.prompt_token_ids) - 1 :]
    return logits.log_softmax(-1)


class Banning:
    """A rule that bans tokens and keeps what it was told."""

    def __init__(self, banned=(), stop_after=None, fail_at=None):
        self.banned, self.stop_after, self.fail_at, self.seen = list(banned), stop_after, fail_at, []

    @property
    def must_stop(self):
        return self.stop_after is not None and len(self.seen) >= self.stop_after

    def apply(self, logits):
        if self.fail_at is not None and len(self.seen) == self.fail_at:
            raise ZeroDivisionError("grammar")
        return logits.index_fill(0, torch.tensor(self.banned, dtype=torch.long), -torch.inf)

    def accept(self, token_id):
        self.seen.append(token_id)

    def rollback(self, n):
        raise AssertionError


def test_greedy_generation_equals_the_full_forward_pass_token_for_token(any_net):
    for completion in Engine(any_net).generate(requests(**GREEDY)):
        full = full_logprobs(any_net, completion)
        assert completion.token_ids == tuple(full.argmax(-1).tolist())
        ours = torch.tensor(completion.logprobs)
        torch.testing.assert_close(ours, full.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0], rtol=0, atol=1e-5)


def test_a_batch_of_unequal_prompts_and_settings_gives_what_each_request_gives_alone(any_net):
    settings = [{"temperature": 0.0}, {"seed": 4}, {"seed": 4, "temperature": 1.4, "top_k": 6, "top_p": 0.8}, {"seed": 5, "min_p": 0.2}]
    asked = [Request(prompt, Sampling(max_new_tokens=7, **each)) for prompt, each in zip(PROMPTS, settings, strict=True)]
    engine = Engine(any_net, eos_ids=[7])
    for completion, request in zip(engine.generate(asked), asked, strict=True):
        alone = only(engine.generate([request]))
        assert completion.token_ids == alone.token_ids
        assert completion.finish_reason == alone.finish_reason
        assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_waves_of_any_size_give_the_same(net):
    whole = Engine(net, eos_ids=[7]).generate(requests(seed=1, n=3, max_new_tokens=5))
    for limits in ({"max_rows": 1}, {"max_rows": 5}, {"max_cached_tokens": 30}):
        waves = Engine(net, eos_ids=[7], **limits).generate(requests(seed=1, n=3, max_new_tokens=5))
        assert [completion.token_ids for completion in waves] == [completion.token_ids for completion in whole]
        assert [(c.request_index, c.index) for c in waves] == [(request, choice) for request in range(4) for choice in range(3)]


def test_choices_differ_and_each_is_reproduced_by_its_seed(net):
    first = Engine(net).generate(requests([[3, 1]], n=4, seed=9, max_new_tokens=8))
    assert len({completion.token_ids for completion in first}) > 1
    assert {completion.seed for completion in first} == {9}
    again = Engine(net).generate(requests([[3, 1]], n=2, seed=9, max_new_tokens=8))
    assert [completion.token_ids for completion in again] == [completion.token_ids for completion in first[:2]]
    other = Engine(net).generate(requests([[3, 1]], n=4, seed=10, max_new_tokens=8))
    assert [completion.token_ids for completion in other] != [completion.token_ids for completion in first]


def test_a_drawn_seed_comes_back_and_repeats_the_completion(net):
    drawn = only(Engine(net).generate(requests([[3, 1]], max_new_tokens=12)))
    assert only(Engine(net).generate(requests([[3, 1]], max_new_tokens=12, seed=drawn.seed))).token_ids == drawn.token_ids
    assert only(Engine(net).generate(requests([[3, 1]], max_new_tokens=1))).seed != drawn.seed


def test_each_token_is_the_draw_of_its_own_step_from_the_full_distribution(any_net):
    for completion in Engine(any_net).generate(requests(PROMPTS[:2], seed=8, n=2, temperature=1.3, max_new_tokens=5)):
        numbers = Uniforms(8, completion.index)
        for step, logprobs in enumerate(full_logprobs(any_net, completion)):
            cumulative = (logprobs.double() / 1.3).softmax(-1).cumsum(0)
            assert completion.token_ids[step] == int((cumulative <= numbers.at(step)).sum())


def test_logprobs_are_the_models_own_whatever_the_sampling_settings(net):
    settings = {"temperature": 1.9, "top_k": 3, "repetition_penalty": 1.5, "presence_penalty": 1.0, "logit_bias": {2: 5.0}}
    completion = only(Engine(net).generate(requests([[5, 3, 5]], **settings, seed=2, max_new_tokens=8)))
    full = full_logprobs(net, completion).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logprobs), full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_top", [0, 1, 4, 128])
def test_top_logprobs_are_the_likeliest_and_always_hold_the_token_with_the_same_number(net, n_top):
    completion = only(Engine(net).generate(requests([[5, 3]], top_logprobs=n_top, temperature=3.0, seed=3, max_new_tokens=9)))
    assert len(completion.top_logprobs) == len(completion.token_ids)
    best = full_logprobs(net, completion).topk(min(n_top, 11)).indices.tolist()
    for token, logprob, top, expected in zip(completion.token_ids, completion.logprobs, completion.top_logprobs, best, strict=True):
        assert dict(top)[token] == logprob
        assert [entry.token_id for entry in top] == expected + ([] if token in expected else [token])


def test_top_logprobs_are_absent_unless_asked_for_even_beside_a_row_that_asks(net):
    plain, asking = Engine(net).generate([Request([1], Sampling(**GREEDY)), Request([1], Sampling(top_logprobs=2, **GREEDY))])
    assert plain.top_logprobs is None
    assert len(asking.top_logprobs[0]) == 2


def test_an_end_token_stops_and_is_the_last_token(net):
    free = only(Engine(net).generate(requests([[6]], **GREEDY)))
    eos = free.token_ids[2]
    stopped = only(Engine(net, eos_ids=[eos]).generate(requests([[6]], **GREEDY)))
    n = free.token_ids.index(eos) + 1
    assert (stopped.token_ids, stopped.finish_reason) == (free.token_ids[:n], "stop")
    assert free.finish_reason == "length"


def test_a_request_may_name_more_tokens_that_end_it(net):
    free = only(Engine(net).generate(requests([[6]], **GREEDY)))
    ends = frozenset({free.token_ids[2]})
    ended = only(Engine(net).generate([Request([6], Sampling(**GREEDY), end_ids=ends)]))
    place = free.token_ids.index(free.token_ids[2])
    assert (ended.token_ids, ended.finish_reason) == (free.token_ids[: place + 1], "stop")


def test_ignore_eos_goes_on(net):
    free = only(Engine(net).generate(requests([[6]], **GREEDY)))
    ignoring = only(Engine(net, eos_ids=[free.token_ids[2]]).generate(requests([[6]], ignore_eos=True, **GREEDY)))
    assert (ignoring.token_ids, ignoring.finish_reason) == (free.token_ids, "length")


def test_end_tokens_are_banned_until_enough_tokens_came(net):
    everything_ends = Engine(net, eos_ids=range(1, 11))
    completion = only(everything_ends.generate(requests([[6]], min_new_tokens=4, max_new_tokens=9, seed=0)))
    assert completion.token_ids[:4] == (0, 0, 0, 0)
    assert only(everything_ends.generate(requests([[6]], logit_bias={0: -100.0}, max_new_tokens=9))).finish_reason == "stop"


def test_a_completion_ends_with_the_context(net):
    full = only(Engine(net).generate(requests([[1] * 20], max_new_tokens=99)))
    assert len(full.token_ids) == 4
    assert full.finish_reason == "length"
    assert len(only(Engine(net, max_seq_len=22).generate(requests([[1] * 20]))).token_ids) == 2


@pytest.mark.parametrize("n", [24, 25, 300])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(net, n):
    with pytest.raises(ConfigError, match=rf"{n} tokens and the context holds 24"):
        Engine(net).generate(requests([[1] * n]))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [([], "empty"), ("", "empty"), ([999999], "999999"), ([-1], "-1"), ([11], "0 to 10")],
)
def test_a_bad_prompt_is_refused_before_anything_runs(net, pieces, prompt, said):
    with pytest.raises(ConfigError, match=f"Request 1: .*{said}"):
        Engine(net, pieces).stream([Request([1]), Request(prompt)])


def test_a_text_prompt_needs_a_tokenizer(net):
    with pytest.raises(NoTokenizer, match="token ids"):
        Engine(net).generate([Request("abc")])
    with pytest.raises(NoTokenizer, match="`stop`"):
        Engine(net).generate(requests([[1]], stop="x"))


def test_a_bias_on_a_token_that_does_not_exist_is_refused(net):
    with pytest.raises(ConfigError, match="token 11"):
        Engine(net).generate(requests([[1]], logit_bias={11: 1.0}))


def test_unset_fields_come_from_the_engines_defaults(net):
    greedy = Engine(net, defaults=Sampling(temperature=0.0, max_new_tokens=3))
    assert only(greedy.generate([Request([6])])).token_ids == only(Engine(net).generate(requests([[6]], **GREEDY))).token_ids[:3]
    assert len(only(greedy.generate(requests([[6]], max_new_tokens=5))).token_ids) == 5


def test_penalties_change_what_is_chosen_as_their_formula_says(net):
    completion = only(Engine(net).generate(requests([[5, 3, 5]], frequency_penalty=2.0, presence_penalty=1.5, **GREEDY)))
    full = full_logprobs(net, completion)
    counts = torch.zeros(11)
    for step, token in enumerate(completion.token_ids):
        assert token == (full[step] - 2.0 * counts - 1.5 * (counts > 0)).argmax().item()
        counts[token] += 1


def test_a_constraint_is_made_for_each_choice_and_told_every_token(net):
    made = []

    def factory(request):
        made.append((request.id, Banning(banned=range(3, 11), stop_after=4)))
        return made[-1][1]

    request = Request([5], Sampling(constraint=factory, n=2, seed=0, max_new_tokens=9), id="mine")
    completions = Engine(net).generate([request])
    assert [id for id, _ in made] == ["mine", "mine"]
    assert [tuple(rule.seen) for _, rule in made] == [completion.token_ids for completion in completions]
    assert {completion.finish_reason for completion in completions} == {"stop"}
    assert all(token < 3 and len(c.token_ids) == 4 for c in completions for token in c.token_ids)


def test_a_rule_that_fails_ends_its_own_choice_only(net):
    failing = Request([5], Sampling(constraint=lambda request: Banning(fail_at=2), **GREEDY))
    good = requests(**GREEDY)
    alone = Engine(net).generate(good)
    completions = Engine(net).generate([good[0], failing, *good[1:]])
    assert completions[1].finish_reason == "error"
    assert completions[1].error == "A sampling rule failed: ZeroDivisionError: grammar"
    assert len(completions[1].token_ids) == 2
    assert [c.token_ids for c in (completions[0], *completions[2:])] == [c.token_ids for c in alone]


def test_a_rule_that_bans_every_token_ends_with_an_error(net):
    completion = only(Engine(net).generate(requests([[5]], constraint=lambda request: Banning(range(11)), **GREEDY)))
    assert (completion.finish_reason, completion.token_ids) == ("error", ())
    assert "ban every token" in completion.error


def test_a_model_that_gives_no_numbers_ends_with_an_error(net):
    with torch.no_grad():
        net.decoder.final_norm.weight.fill_(torch.nan)
    for settings in ({"temperature": 0.0}, {"seed": 1, "top_p": 0.5, "top_k": 3}):
        assert only(Engine(net).generate(requests([[5]], **settings))).finish_reason == "error"


def test_the_text_ends_before_a_stop_string_and_the_tokens_stay_whole(net, pieces):
    free = only(Engine(net, pieces).generate([Request("abc d", Sampling(seed=6, max_new_tokens=20))]))
    assert free.text == pieces.decode(free.token_ids)
    stop = free.text[3:6]
    stopped = only(Engine(net, pieces).generate([Request("abc d", Sampling(seed=6, max_new_tokens=20, stop=stop))]))
    n = len(stopped.token_ids)
    assert stopped.text == free.text[: free.text.find(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[:n]
    assert stop in pieces.decode(stopped.token_ids)
    assert stop not in pieces.decode(stopped.token_ids[:-1])
    assert len(stopped.logprobs) == n


def test_stop_strings_wait_for_the_least_length(net, pieces):
    free = only(Engine(net, pieces).generate([Request("a", Sampling(seed=6, max_new_tokens=20))]))
    stop = next(text for text in (pieces.decode([token]) for token in free.token_ids) if text)
    held = only(Engine(net, pieces).generate([Request("a", Sampling(seed=6, max_new_tokens=20, min_new_tokens=9, stop=stop))]))
    assert len(held.token_ids) >= 9
    assert held.text.startswith(pieces.decode(free.token_ids[:9]))


@pytest.mark.parametrize("settings", [{}, {"stop": ["bc", "a d"]}, {"n": 3, "top_logprobs": 2}, {"ignore_eos": True}])
def test_a_stream_carries_exactly_the_completions(net, pieces, settings):
    engine = Engine(net, pieces, eos_ids=[0])
    asked = [Request(text, Sampling(seed=5, max_new_tokens=14, **settings)) for text in ("a", "abc d", "x yab")]
    events = list(engine.stream(asked))
    for completion in engine.generate(asked):
        mine = [event for event in events if (event.request_index, event.index) == (completion.request_index, completion.index)]
        assert "".join(event.text for event in mine) == completion.text
        assert tuple(event.token_id for event in mine) == completion.token_ids
        assert tuple(event.logprob for event in mine) == completion.logprobs
        assert [event.top_logprobs for event in mine] == list(completion.top_logprobs or [None] * len(mine))
        assert [event.finish_reason for event in mine] == [None] * (len(mine) - 1) + [completion.finish_reason]
        assert mine[-1].completion == completion


def test_cancelling_ends_all_choices_of_one_request_and_no_other(net):
    engine = Engine(net)
    asked = [Request([3], Sampling(n=2, seed=1, max_new_tokens=9), id="one"), Request([4], Sampling(seed=1, max_new_tokens=9), id="two")]
    events = []
    for event in engine.stream(asked):
        events.append(event)
        if event.request_index == 0 and len(events) == 4:  # one is in its second step
            assert engine.cancel("one")
    done = {(e.request_index, e.index): e.completion for e in events if e.completion}
    assert [done[place].finish_reason for place in sorted(done)] == ["cancelled", "cancelled", "length"]
    assert [len(done[place].token_ids) for place in sorted(done)] == [2, 2, 9]
    assert done[1, 0].token_ids == engine.generate(asked)[2].token_ids
    assert [event.token_id for event in events if event.finish_reason == "cancelled"] == [None, None]


def test_a_waiting_request_ends_at_once_when_it_is_cancelled(net):
    engine = Engine(net, max_rows=1)
    reasons = []
    for event in engine.stream([Request([3], Sampling(max_new_tokens=3), id="one"), Request([4], Sampling(max_new_tokens=3), id="two")]):
        engine.cancel("two")
        if event.completion:
            reasons.append((event.completion.finish_reason, len(event.completion.token_ids)))
    assert reasons == [("cancelled", 0), ("length", 3)]


def test_only_a_running_request_can_be_cancelled(net):
    engine = Engine(net)
    engine.generate([Request([3], Sampling(max_new_tokens=1), id="done")])
    assert not engine.cancel("done")
    stream = engine.stream(Request([3], id="left"))
    next(stream)
    stream.close()
    assert not engine.cancel("left")


def test_a_cancelled_id_may_be_used_again(net):
    engine = Engine(net)
    stream = engine.stream(Request([3], Sampling(max_new_tokens=5), id="again"))
    next(stream)
    engine.cancel("again")
    assert next(stream).finish_reason == "cancelled"
    assert list(stream) == []
    assert only(engine.generate([Request([3], Sampling(max_new_tokens=5), id="again")])).finish_reason == "length"


def test_two_running_requests_cannot_share_an_id(net):
    engine = Engine(net)
    with pytest.raises(ConfigError, match="same"):
        engine.stream([Request([3], id="same"), Request([4], id="same")])
    stream = engine.stream(Request([3], id="same"))
    next(stream)
    with pytest.raises(ConfigError, match="same"):
        engine.stream(Request([3], id="same"))


def test_interleaved_streams_do_not_disturb_each_other(net):
    engine = Engine(net)
    asked = requests(seed=2, max_new_tokens=5)
    expected = [completion.token_ids for completion in engine.generate(asked)]
    streams = [engine.stream(request) for request in asked]
    tokens = [[] for _ in asked]
    for _ in range(5):
        for stream, received in zip(streams, tokens, strict=True):
            received.append(next(stream).token_id)
    assert [tuple(received) for received in tokens] == expected


def test_no_requests_give_no_completions(net):
    assert Engine(net).generate([]) == []
