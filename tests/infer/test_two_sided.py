"""Encoder-decoders: the prompt is the source; generation and scoring beside transformers and beside one full forward pass."""

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from touchstone.errors import ConfigError, Unsupported
from touchstone.infer.engine import Engine
from touchstone.infer.pairs import encode_source_pair
from touchstone.infer.request import Request, Sampling
from touchstone.infer.runner import Seq2SeqRunner, runner_of
from touchstone.infer.score import loglikelihood, rolling_token_logprobs
from touchstone.models import build, encoder_decoder_spec, encoder_spec, recurrent_encoder_decoder_spec
from touchstone.models.checkpoint import load_model
from touchstone.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow  # transformers takes seconds to import

V, PAD, START = 29, 28, 2
SOURCES = [[3, 1, 4, 1, 5, 9, 2, 6], [6], [7, 7, 12]]
SIZES = {"vocab_size": V, "d_model": 12, "n_heads": 3, "n_encoder_layers": 2, "n_decoder_layers": 2, "d_ff": 17}
OURS = {
    "sinusoidal": lambda: encoder_decoder_spec(**SIZES, max_seq_len=14),
    "distances": lambda: encoder_decoder_spec(**SIZES, norm="rms", norm_place="pre", bias=False, positions="relative"),
    "lstm": lambda: recurrent_encoder_decoder_spec(vocab_size=V, d_model=5, d_hidden=6),
}
THEIRS = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=V, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4, decoder_start_token_id=START, eos_token_id=5)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            vocab_size=V,
            d_model=24,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=40,
            decoder_ffn_dim=40,
            max_position_embeddings=48,
            pad_token_id=PAD,
            bos_token_id=0,
            eos_token_id=5,
            decoder_start_token_id=START,
            forced_eos_token_id=None,
        )
    ),
}


def enlarged(net, factor):
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return net.eval()


def random_net(spec):
    """Every parameter of its own, so that both sides matter and targets are not one token over and over."""
    net = build(spec).eval()
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.7, generator=rng)
    return net


@pytest.fixture(params=OURS)
def net(request):
    return random_net(OURS[request.param]())


@pytest.fixture(scope="module", params=THEIRS)
def pair(request, tmp_path_factory):
    torch.manual_seed(1)
    theirs = enlarged(THEIRS[request.param](), {"t5": 1.5, "bart": 6.0}[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_model(folder).net.eval()


def generate(net, eos_ids=(5,), sources=SOURCES, **settings):
    engine = Engine(net, eos_ids=eos_ids, decoder_start_id=START)
    return engine.generate([Request(source, Sampling(**{"max_new_tokens": 7, **settings})) for source in sources])


def full_logprobs(net, source, target):
    """At each place of the target, (T, V), by one pass over both sides."""
    with torch.no_grad():
        logits = net(torch.tensor([[START, *target[:-1]]]), source_ids=torch.tensor([source])).logits[0]
    return logits.log_softmax(-1)


SETTINGS = [
    ({"temperature": 0.0}, {}),
    ({"temperature": 0.0, "no_repeat_ngram_size": 1, "forced_eos_ids": 6}, {"no_repeat_ngram_size": 1, "forced_eos_token_id": 6}),
    ({"num_beams": 3}, {"num_beams": 3}),
    (
        {"num_beams": 2, "forced_bos_ids": 7, "begin_suppress_tokens": [5, 3], "length_penalty": 2.0, "repetition_penalty": 1.3},
        {"num_beams": 2, "forced_bos_token_id": 7, "begin_suppress_tokens": [5, 3], "length_penalty": 2.0, "repetition_penalty": 1.3},
    ),
    (
        {"num_beams": 4, "forced_eos_ids": 5, "bad_words_ids": [[28]], "renormalize_logits": True, "early_stopping": True},
        {"num_beams": 4, "forced_eos_token_id": 5, "bad_words_ids": [[28]], "renormalize_logits": True, "early_stopping": True},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=["greedy", "greedy-rules", "beams", "summarising", "translating"])
def test_a_ragged_batch_of_sources_gives_what_transformers_gives_one_by_one(pair, ours, theirs):
    model, net = pair
    for source, completion in zip(SOURCES, generate(net, [5, 6], **ours), strict=True):
        found = model.generate(
            torch.tensor([source]),
            **{"max_new_tokens": 7, "do_sample": False, **theirs},
            eos_token_id=[5, 6],
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
        )
        [[start, *ids]] = found.sequences.tolist()
        n = len(completion.token_ids)
        assert start == START
        assert (list(completion.token_ids), set(ids[n:]) - {PAD}) == (ids[:n], set())
        if "num_beams" in theirs:
            assert completion.score == pytest.approx(found.sequences_scores.item(), abs=1e-5, rel=1e-6)
        assert completion.prompt_token_ids == tuple(source)


def test_greedy_targets_equal_the_full_forward_pass_token_for_token(net):
    for completion in generate(net, (), temperature=0.0):
        full = full_logprobs(net, completion.prompt_token_ids, completion.token_ids)
        assert completion.token_ids == tuple(full.argmax(-1).tolist())
        expected = full.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"seed": 3, "n": 2}, {"num_beams": 3, "n": 2}])
def test_a_batch_gives_what_each_source_gives_alone(net, settings):
    together = generate(net, **settings)
    alone = [completion for source in SOURCES for completion in generate(net, sources=[source], **settings)]
    assert [completion.token_ids for completion in together] == [completion.token_ids for completion in alone]
    assert len({completion.token_ids for completion in together}) > 2


def test_new_tokens_are_counted_without_the_source_or_the_start():
    net = random_net(OURS["sinusoidal"]())
    for n_source in (1, 14):
        [completion] = generate(net, (), [[3] * n_source], max_new_tokens=99)
        assert (len(completion.token_ids), completion.finish_reason) == (13, "length")  # a decoder of 14 places, one for the start
    with pytest.raises(ConfigError, match="15 tokens and the encoder reads 14"):
        generate(net, (), [[3] * 15])


def test_penalties_and_runs_look_at_the_target_and_not_at_the_source(net):
    for completion in generate(net, (), temperature=0.0, no_repeat_ngram_size=1):
        logprobs = full_logprobs(net, completion.prompt_token_ids, completion.token_ids)
        for place, token_id in enumerate(completion.token_ids):
            logprobs[place, [START, *completion.token_ids[:place]]] = -torch.inf
            assert token_id == logprobs[place].argmax().item()


@pytest.mark.parametrize(("start", "said"), [(None, "decoder_start_token_id"), (V, f"0 to {V - 1}")])
def test_a_decoder_without_a_token_to_begin_with_is_refused(net, start, said):
    with pytest.raises(ConfigError, match=said):
        Engine(net, decoder_start_id=start)
    with pytest.raises(ConfigError, match=said):
        loglikelihood(net, [([1], [2])], decoder_start_id=start)


def test_an_encoder_alone_generates_nothing():
    with pytest.raises(Unsupported, match="predicts no tokens"):
        runner_of(build(encoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=3, max_seq_len=9), seed=0))


def test_rows_of_unequal_sources_leave_and_double_without_touching_the_others(net):
    rows = Seq2SeqRunner(net, START).prefill(SOURCES, room=6)
    rows.keep([2, 0, 2])
    rows.step([3, 8, 9])
    rows.keep([1, 2])
    expected = torch.stack([full_logprobs(net, SOURCES[0], [8, 0])[-1], full_logprobs(net, SOURCES[2], [9, 0])[-1]])
    torch.testing.assert_close(rows.logits.log_softmax(-1), expected, rtol=0, atol=1e-5)


PAIRS = [([3, 1, 4, 1, 5], [9, 2]), ([6], [5, 3, 5, 8, 9, 7]), ([7, 7], [1])]


@pytest.mark.parametrize("max_tokens", [1, 4096])
def test_continuations_are_scored_as_targets_of_their_contexts(net, max_tokens):
    for (source, target), scored in zip(PAIRS, loglikelihood(net, PAIRS, decoder_start_id=START, max_tokens=max_tokens), strict=True):
        full = full_logprobs(net, source, target)
        assert scored.token_logprobs == pytest.approx(full.gather(1, torch.tensor(target)[:, None])[:, 0].tolist(), abs=1e-5)
        assert scored.logprob == pytest.approx(sum(scored.token_logprobs), abs=1e-5)
        assert scored.is_greedy == (full.argmax(-1).tolist() == target)
        assert scored.n_truncated == 0


def test_scores_equal_the_loss_of_transformers(pair):
    theirs, net = pair
    for (source, target), scored in zip(PAIRS, loglikelihood(net, PAIRS, decoder_start_id=START), strict=True):
        with torch.no_grad():
            loss = theirs(torch.tensor([source]), labels=torch.tensor([target])).loss.item()
        assert scored.logprob == pytest.approx(-loss * len(target), abs=1e-4)


def test_a_source_too_long_loses_its_oldest_tokens_and_a_target_too_long_is_refused():
    net = random_net(OURS["sinusoidal"]())
    source = [token % V for token in range(17)]
    [long, short] = loglikelihood(net, [(source, [4, 5]), (source[3:], [4, 5])], decoder_start_id=START)
    assert (long.n_truncated, short.n_truncated) == (3, 0)
    assert long.token_logprobs == pytest.approx(short.token_logprobs, abs=1e-6)
    with pytest.raises(ConfigError, match="Pair 0: the continuation has 15 tokens and the decoder holds 14"):
        loglikelihood(net, [([1], [3] * 15)], decoder_start_id=START)
    with pytest.raises(ConfigError, match=r"Pair 0: .*at least one token"):
        loglikelihood(net, [([1], [])], decoder_start_id=START)


def test_a_text_without_a_source_cannot_be_scored(net):
    with pytest.raises(Unsupported, match="no source"):
        rolling_token_logprobs(net, [[1, 2, 3]], prefix_id=0)


def words(*known, end="</s>", target=None):
    """A tokenizer of whole words that puts an end token behind a text."""
    backend = Backend(models.WordLevel({word: place for place, word in enumerate(("<unk>", end, *known))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([end])
    backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    return Tokenizer(backend.to_str(), {"eos_token": end, "unk_token": "<unk>"}, target=target)


def test_a_source_as_text_is_read_with_its_end_token_and_the_target_has_a_vocabulary_of_its_own(net):
    tokenizer = words("the", "cat", "sat", target=words(*"abcdefghijklmnopqrstuvwxyz"))
    engine = Engine(net, tokenizer, eos_ids=[1], decoder_start_id=START)
    [completion] = engine.generate([Request("the cat", Sampling(num_beams=2, max_new_tokens=4, suppress_tokens=[0, V - 1]))])
    assert completion.prompt_token_ids == (2, 3, 1)
    assert completion.text == tokenizer.target.decode(completion.token_ids)
    assert completion.text.strip()


def test_a_pair_as_text_is_a_source_with_its_end_token_and_a_target_without():
    tokenizer = words("the", "cat", "sat", target=words("die", "katze"))
    assert encode_source_pair(tokenizer, "the cat ", "die katze") == ([2, 3, 1], [2, 3])
    assert encode_source_pair(tokenizer, "", "katze") == ([1], [3])
    with pytest.raises(ConfigError, match="`continuation` has no token"):
        encode_source_pair(tokenizer, "cat", " ")
