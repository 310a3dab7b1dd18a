"""The invariant mode at real sizes: 20 prompts on GPT-2 124M's and Llama 110M's shapes, in fp32 and int8, every bit compared.

Writes docs/results/invariance.md (about 40 minutes on two cores) and docs/results/invariance_cost.md (a few; `-k costs`
alone on a quiet machine).
"""

import datetime
import platform
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from touchstone.infer.engine import Engine
from touchstone.infer.request import Request, Sampling
from touchstone.infer.scheduler import Limits
from touchstone.models import build, decoder_spec
from touchstone.models.quantized import quantize
from touchstone.nn.int8 import use_int8_product
from touchstone.nn.int8_choice import choose_int8_product
from touchstone.nn.prepacked import prepack, prepacking_works
from touchstone.nn.products import choose_product, use_product
from touchstone.nn.steady import make_steady
from touchstone.runtime import available_cores, set_threads

RESULTS = Path(__file__).parents[2] / "docs" / "results"
N_PROMPTS = 20
N_NEW = 6
FAST_BOUND = 1e-4  # nats, of the fast mode in fp32
ROUNDS = 3

pytestmark = pytest.mark.prove

COMMON = {"d_model": 768, "n_layers": 12, "n_heads": 12, "max_seq_len": 1024}
SHAPES = {
    "GPT-2 124M": decoder_spec(
        **COMMON, vocab_size=50257, positions="learned", norm="layer", bias=True, gated=False, activation="gelu_tanh"
    ),
    "Llama 110M": decoder_spec(**COMMON, vocab_size=32000, n_kv_heads=4, d_ff=2048, tied=False),
}
LENGTHS = np.linspace(1, 400, N_PROMPTS).astype(int).tolist()

# every setting of a factor meets every setting of each other one in some row
ROWS = [
    {"batch": batch, "prefix": prefix, "chunk": chunk, "turned": turned, "room": room}
    for batch, prefix, chunk, turned, room in (
        (1, "off", 16, False, None),
        (1, "cold", 64, True, 8),
        (1, "partial", 4096, False, None),
        (1, "full", 16, True, 8),
        (2, "off", 64, True, 8),
        (2, "cold", 16, False, None),
        (2, "partial", 16, True, 8),
        (2, "full", 4096, False, None),
        (3, "off", 4096, True, None),
        (3, "cold", 16, False, 8),
        (3, "partial", 64, True, None),
        (3, "full", 64, False, 8),
        (5, "off", 16, False, 8),
        (5, "cold", 4096, True, None),
        (5, "partial", 64, False, None),
        (5, "full", 16, True, None),
        (8, "off", 64, False, None),
        (8, "cold", 16, True, None),
        (8, "partial", 4096, True, 16),
        (8, "full", 16, False, 16),
        (16, "off", 4096, False, 16),
        (16, "cold", 64, True, None),
        (16, "partial", 16, False, None),
        (16, "full", 4096, True, None),
    )
]


@pytest.fixture(scope="module")
def pages():
    found = {"bits": [], "costs": []}
    set_threads(available_cores())
    yield found
    if len(found["bits"]) == 4:
        write_bits(found["bits"])
    if len(found["costs"]) == 4:
        write_costs(found["costs"])


@pytest.fixture(scope="module", params=[(name, weights) for name in SHAPES for weights in ("float32", "int8")], ids=" ".join)
def subject(request):
    """The name, the number type, and a network for the fast mode and one for the invariant mode, with equal weights."""
    name, weights = request.param
    nets = [build(SHAPES[name], seed=0).eval() for _ in range(2)]
    if weights == "int8":
        choice = choose_int8_product()
        for net in nets:
            use_int8_product(quantize(net), *choice.operators)
    else:
        use_product(nets[0], choose_product(nets[0]).name)
        for net in nets if prepacking_works() else ():
            prepack(net)
    make_steady(nets[1])
    return name, weights, *nets


def prompts_of(spec):
    rng = random.Random(0)
    shared = [rng.randrange(2, spec.vocab_size) for _ in range(200)]
    prompts = []
    for number, length in enumerate(LENGTHS):
        begin = shared[: length - 1] if number % 3 == 0 else []  # a third of them begin alike
        prompts.append([*begin, *(rng.randrange(2, spec.vocab_size) for _ in range(length - len(begin)))])
    return prompts


def completions(engine, prompts):
    sampling = Sampling(max_new_tokens=N_NEW, temperature=0.0, ignore_eos=True)
    return [(c.token_ids, c.logprobs) for c in engine.generate([Request(prompt, sampling) for prompt in prompts])]


def test_every_bit_is_that_of_the_request_alone(subject, pages):
    name, weights, fast, steady = subject
    prompts = prompts_of(steady.spec)
    by_itself = Engine(steady, invariant=True, prefix_cache=False, limits=Limits(max_texts=1))
    alone = [completions(by_itself, [prompt])[0] for prompt in prompts]
    n_preempted = 0
    for row in ROWS:
        engine = Engine(
            steady,
            invariant=True,
            limits=Limits(max_texts=row["batch"], max_chunk=row["chunk"]),
            prefix_cache=row["prefix"] != "off",
            max_cached_tokens=64 * row["room"] if row["room"] else None,
        )
        order = list(range(N_PROMPTS))
        if row["turned"]:
            order.reverse()
        if row["prefix"] in ("partial", "full"):
            completions(engine, [p if row["prefix"] == "full" else p[: max(1, len(p) // 2)] for p in prompts])
        found = completions(engine, [prompts[n] for n in order])
        assert found == [alone[n] for n in order], row
        n_preempted += engine.batch.scheduler.n_preempted
    assert n_preempted > 0
    quick = [completions(Engine(fast, prefix_cache=False), prompts)][0]
    apart = max(
        abs(a - b)
        for (ids, ours), (others, theirs) in zip(alone, quick, strict=True)
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if ids[:place] == others[:place] and ids[place] == others[place]
    )
    if weights == "float32":
        assert apart < FAST_BOUND
    pages["bits"].append((name, weights, len(ROWS), n_preempted, apart))


def test_what_the_mode_costs(subject, pages):
    """The fast mode's time over the invariant mode's, by work: reading 512 tokens, writing alone, writing 16 at once."""
    name, weights, fast, steady = subject
    rng = random.Random(1)
    works = {
        "prefill": ([[rng.randrange(2, 30000) for _ in range(512)]], 1),
        "one": ([[rng.randrange(2, 30000) for _ in range(64)]], 32),
        "sixteen": ([[rng.randrange(2, 30000) for _ in range(64)] for _ in range(16)], 16),
    }
    engines = (Engine(fast, prefix_cache=False), Engine(steady, invariant=True, prefix_cache=False))
    found = []
    for prompts, n_new in works.values():
        ratios = []
        for _ in range(ROUNDS + 1):
            seconds = []
            for engine in engines:
                asked = [Request(p, Sampling(max_new_tokens=n_new, temperature=0.0, ignore_eos=True)) for p in prompts]
                begun = time.perf_counter()
                engine.generate(asked)
                seconds.append(time.perf_counter() - begun)
            ratios.append(seconds[0] / seconds[1])
        found.append(statistics.median(ratios[1:]))
    pages["costs"].append((name, weights, *found))


def made_by(options=""):
    return f"""Written by `pytest -m prove tests/prove/test_invariance.py{options}`, a part of `make prove`, on
{datetime.date.today().isoformat()}: Python {platform.python_version()}, torch {version("torch")}, {platform.system()} {platform.machine()},
{available_cores()} cores. Random weights."""


def write_bits(rows):
    lines = [f"| {name} | {weights} | {n_rows} | {n_preempted} | 0 | {apart:.1e} |" for name, weights, n_rows, n_preempted, apart in rows]
    text = f"""# The invariant mode at real sizes

{made_by()}

{N_PROMPTS} prompts of {LENGTHS[0]} to {LENGTHS[-1]} tokens, {N_NEW} new tokens each, in every row of a plan in which all pairs occur of
batch (1, 2, 3, 5, 8, 16), prefix cache (off, cold, half of each prompt known, all known), chunk (16, 64, whole prompts), order of arrival,
and room in the cache (enough, or so little that texts give way and come back). Compared with each request alone: every token, and every bit
of every log-probability. What the mode costs is in [another table](invariance_cost.md).

| shape | weights | rows | texts that gave way | largest difference, nats | the fast mode's, nats |
|---|---|---|---|---|---|
{chr(10).join(lines)}
"""
    (RESULTS / "invariance.md").write_text(text, encoding="utf-8")


def write_costs(rows):
    lines = [f"| {name} | {weights} | {prefill:.2f} | {one:.2f} | {sixteen:.2f} |" for name, weights, prefill, one, sixteen in rows]
    text = f"""# What the invariant mode costs

{made_by(" -k costs")}

The speed of the invariant mode over that of the fast mode, each on the same weights, in turns in one process, median of {ROUNDS}: reading
512 tokens, writing one text, writing 16.

| shape | weights | reading | writing 1 | writing 16 |
|---|---|---|---|---|
{chr(10).join(lines)}
"""
    (RESULTS / "invariance_cost.md").write_text(text, encoding="utf-8")
