"""The invariant mode: tokens and log-probabilities are the same bits in any batch, order, chunking, cache and after any preemption."""

import itertools
import random

import pytest
import torch

from conftest import sharpened
from touchstone.errors import ConfigError, Unsupported
from touchstone.infer.blocks import BlockPool
from touchstone.infer.engine import Engine
from touchstone.infer.packed import PackedDecoder
from touchstone.infer.request import Request, Sampling
from touchstone.infer.scheduler import Limits
from touchstone.infer.speculative import DraftModel
from touchstone.models import build, decoder_spec, recurrent_spec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.prepacked import prepack, prepacking_works
from touchstone.nn.products import Multiplying, onednn_works
from touchstone.nn.steady import make_steady, steady_gelu_tanh, steady_product, steady_sigmoid, steady_silu

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not onednn_works(), reason="this build of torch has no oneDNN fp32 product")]

V = 61
PLAIN = {"vocab_size": V, "d_model": 36, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
EXPERTS = ExpertsSpec(
    n_experts=3, n_active=2, expert=MlpSpec(d_ff=20, activation="silu", gated=True), shared=MlpSpec(d_ff=12, activation="silu", gated=True)
)
SPECS = {
    "gpt-2's": decoder_spec(**PLAIN, positions="learned", norm="layer", bias=True, gated=False, activation="gelu_tanh"),
    "llama's": decoder_spec(**PLAIN, n_kv_heads=2, d_head=10, tied=False),
    "window and alibi": decoder_spec(**PLAIN, positions="alibi", window=70, qk_norm=True),
}
_first = SPECS["llama's"].decoder.blocks[0]
SPECS["experts"] = SPECS["llama's"].replace(decoder=SPECS["llama's"].decoder.replace(blocks=(_first.replace(mlp=EXPERTS), _first)))

LENGTHS = (1, 2, 63, 64, 65, 130, 17, 200)
rng = random.Random(1)
SHARED = [rng.randrange(V) for _ in range(150)]
PROMPTS = [[rng.randrange(V) for _ in range(length)] for length in LENGTHS]
PROMPTS += [[*SHARED[:n], *(rng.randrange(V) for _ in range(5))] for n in (70, 140)]


def steady(spec):
    net = sharpened(spec)
    if prepacking_works():  # as where a model is opened
        prepack(net)
    make_steady(net)
    return net


def request_of(prompt, seed=7):
    return Request(prompt, Sampling(seed=seed, max_new_tokens=6, top_logprobs=1))


def results(engine, prompts):
    return [(c.token_ids, c.logprobs, c.top_logprobs) for c in engine.generate([request_of(prompt) for prompt in prompts])]


@pytest.fixture(scope="module", params=SPECS)
def net(request):
    return steady(SPECS[request.param])


@pytest.fixture(scope="module")
def alone(net):
    """What each prompt gives with the machine to itself, read at once and with nothing cached."""
    return [results(Engine(net, invariant=True, prefix_cache=False), [prompt])[0] for prompt in PROMPTS]


# each setting of a factor meets each setting of every other one in some row
FACTORS = {
    "batch": (2, 3, 5, 10),
    "chunk": (16, 64, 512),
    "prefix": ("off", "cold", "full"),
    "order": ("as is", "turned"),
    "room": (None, 4),
}


def pairwise(factors):
    """Rows of settings that cover all pairs, found greedily."""
    names = list(factors)
    missing = {(a, x, b, y) for (a, xs), (b, ys) in itertools.combinations(factors.items(), 2) for x, y in itertools.product(xs, ys)}
    rows = []
    while missing:
        best = max(
            itertools.product(*factors.values()),
            key=lambda row: len(missing & pairs_of(names, row)),
        )
        missing -= pairs_of(names, best)
        rows.append(dict(zip(names, best, strict=True)))
    return rows


def pairs_of(names, row):
    return {(a, x, b, y) for (a, x), (b, y) in itertools.combinations(zip(names, row, strict=True), 2)}


@pytest.mark.parametrize("setting", pairwise(FACTORS), ids=lambda setting: "-".join(map(str, setting.values())))
def test_every_bit_is_that_of_the_request_alone(net, alone, setting):
    engine = Engine(
        net,
        invariant=True,
        limits=Limits(max_texts=setting["batch"], max_chunk=setting["chunk"]),
        prefix_cache=setting["prefix"] != "off",
        max_cached_tokens=64 * setting["room"] if setting["room"] else None,
    )
    order = list(range(len(PROMPTS)))
    if setting["order"] == "turned":
        order.reverse()
    if setting["prefix"] == "full":
        results(engine, [PROMPTS[n] for n in order])
    found = results(engine, [PROMPTS[n] for n in order])
    assert found == [alone[n] for n in order]


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_a_text_that_gave_way_and_came_back_has_the_same_bits(net, prefix_cache):
    prompts = [prompt[:62] for prompt in PROMPTS if len(prompt) > 62]  # each begins in one block and ends in two
    alone = [results(Engine(net, invariant=True), [prompt])[0] for prompt in prompts]
    engine = Engine(net, invariant=True, max_cached_tokens=5 * 64, prefix_cache=prefix_cache, limits=Limits(max_texts=4))
    assert results(engine, prompts) == alone
    assert engine.batch.scheduler.n_preempted > 1


def test_requests_that_join_while_others_write_change_nothing(net, alone):
    engine = Engine(net, invariant=True, limits=Limits(max_texts=10, max_chunk=32))
    streams, found = [], [[] for _ in PROMPTS]
    for prompt in PROMPTS:
        streams.append(engine.stream(request_of(prompt)))
        for mine, stream in zip(found, streams, strict=False):
            mine += [event] if (event := next(stream, None)) else []
    for mine, stream in zip(found, streams, strict=True):
        mine += stream
    assert [tuple(event.logprob for event in events) for events in found] == [logprobs for _, logprobs, _ in alone]


def test_guessing_changes_no_bit(net, alone):
    engine = Engine(net, invariant=True, drafter=DraftModel(net, V, 3))
    engine.batch.payoff.begin = lambda: True
    assert results(engine, PROMPTS) == alone


def test_blocks_that_lie_scattered_change_no_bit(net, alone):
    engine = Engine(net, invariant=True, prefix_cache=False)
    pool = engine.batch.scheduler.pool
    for block in range(0, pool.n_blocks, 2):
        pool._state[block] = 1
        pool._n_free -= 1
    assert results(engine, PROMPTS) == alone


def test_it_computes_what_the_fast_mode_computes(net, alone):
    fast = Engine(sharpened_like(net)).generate([request_of(prompt) for prompt in PROMPTS])
    for (token_ids, logprobs, _), other in zip(alone, fast, strict=True):
        assert other.token_ids == token_ids
        assert other.logprobs == pytest.approx(logprobs, abs=1e-4)


def sharpened_like(net):
    return sharpened(net.spec)


@pytest.mark.parametrize("width", [1, 36, 100, 768])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (steady_silu, torch.nn.functional.silu),
        (steady_sigmoid, torch.sigmoid),
        (steady_gelu_tanh, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ],
)
def test_steady_activations_equal_torchs_and_are_the_same_bits_for_any_rows(ours, theirs, width):
    x = torch.cat([torch.randn(40, width, generator=torch.Generator().manual_seed(0)) * 3, torch.full((1, width), -200.0)])
    torch.testing.assert_close(ours(x), theirs(x), rtol=2e-6, atol=1e-6)
    for n in (1, 2, 3, 7, 16):
        for first in (0, 5):
            assert torch.equal(ours(x[first : first + n].clone()), ours(x)[first : first + n])


@pytest.mark.parametrize("n", [0, 1, 2, 5, 700])
def test_a_steady_product_is_the_product(n):
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = torch.randn(n, 7, generator=rng), torch.randn(5, 7, generator=rng), torch.randn(5, generator=rng)
    torch.testing.assert_close(steady_product(x, weight, bias), torch.nn.functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not prepacking_works(), reason="this build of torch has no prepacked oneDNN product")
def test_weights_that_are_laid_out_give_the_same_bits():
    plain, laid_out = sharpened(SPECS["llama's"]), steady(SPECS["llama's"])
    make_steady(plain)
    assert results(Engine(laid_out, invariant=True), PROMPTS) == results(Engine(plain, invariant=True), PROMPTS)
    products = {module.product for module in laid_out.modules() if isinstance(module, Multiplying)}
    assert [product.keywords["multiply"].n_laid_out > 0 for product in products] == [True]


def test_it_is_refused_where_it_cannot_be_promised():
    with pytest.raises(Unsupported, match="float32"):
        make_steady(build(SPECS["llama's"]).double())
    with pytest.raises(ConfigError, match="multiple of 64"):
        PackedDecoder(build(SPECS["llama's"]), BlockPool(4, 16), invariant=True)


def test_a_model_that_decodes_in_waves_runs_each_choice_alone():
    net = sharpened(recurrent_spec(vocab_size=V, d_model=12, d_hidden=16))
    make_steady(net)
    engine = Engine(net, invariant=True)
    assert results(engine, PROMPTS[:4]) == [results(engine, [prompt])[0] for prompt in PROMPTS[:4]]
