"""Decoders of real shapes against transformers: every log-probability, and 256 greedy tokens of 50 prompts.

Writes docs/results/real_shapes.md. Takes about 15 minutes on two cores.
"""

import datetime
import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from touchstone import load
from touchstone.infer.request import Sampling
from touchstone.runtime import available_cores, set_threads

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "real_shapes.md"
N_PROMPTS, N_PROMPT, N_NEW = 50, 32, 256
BOUND = 1e-5  # nats, of a log-probability
TIE = 1e-4  # logits closer than this may come in either order
BATCH = 10

COMMON = {"bos_token_id": 1, "eos_token_id": None}
SHAPES = {
    "GPT-2 124M": ("gpt2", {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, **COMMON}),
    "Llama 110M": (
        "llama",
        {
            "vocab_size": 32000,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "intermediate_size": 2048,
            "max_position_embeddings": 1024,
            **COMMON,
        },
    ),
}

pytestmark = pytest.mark.prove


@pytest.fixture(scope="module")
def rows():
    set_threads(available_cores())
    found = []
    yield found
    if len(found) == len(SHAPES):
        write_results(found)


@pytest.mark.parametrize("name", SHAPES)
def test_real_shapes_compute_what_transformers_computes(name, rows, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind, config = SHAPES[name]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **config)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, dtype="float32")
    prompts = torch.randint(2, config["vocab_size"], (N_PROMPTS, N_PROMPT), generator=torch.Generator().manual_seed(1))
    expected = greedy(theirs, prompts)
    apart, n_compared = taught(theirs, ours, expected)
    assert apart <= BOUND
    sampling = Sampling(max_new_tokens=N_NEW, temperature=0.0, ignore_eos=True)
    found = ours.generate([prompt.tolist() for prompt in prompts], **sampling.given())
    n_ties = 0
    for row, completion in zip(expected, found, strict=True):
        wanted = row[N_PROMPT:].tolist()
        place = next((i for i, (a, b) in enumerate(zip(wanted, completion.token_ids, strict=True)) if a != b), None)
        if place is None:
            continue
        n_ties += 1
        assert gap(theirs, row[: N_PROMPT + place]) < TIE, f"{name}: another token after {place}, and no tie"
    rows.append((name, n_compared, apart, N_PROMPTS - n_ties, n_ties))


@torch.inference_mode()
def greedy(model, prompts):
    """transformers' likeliest tokens, prompts in front."""
    parts = [
        model.generate(batch, attention_mask=torch.ones_like(batch), max_new_tokens=N_NEW, do_sample=False, pad_token_id=0)
        for batch in prompts.split(BATCH)
    ]
    return torch.cat(parts)


@torch.inference_mode()
def taught(theirs, ours, texts):
    """The largest difference between the log-probabilities of every token at every place, and how many were compared."""
    largest, n = 0.0, 0
    for batch in texts.split(2):
        a = theirs(batch).logits.log_softmax(dim=-1)
        b = ours.net(batch).logits.log_softmax(dim=-1)
        largest = max(largest, float((a - b).abs().max()))
        n += a.numel()
    return largest, n


@torch.inference_mode()
def gap(model, tokens):
    """How far the likeliest next token is ahead of the second."""
    best = model(tokens[None]).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


def write_results(rows):
    lines = [f"| {name} | {n:,} | {apart:.1e} | {same} of {N_PROMPTS} | {ties} |" for name, n, apart, same, ties in rows]
    text = f"""# Real shapes beside transformers

Written by `pytest -m prove tests/prove/test_real_shapes.py`, a part of `make prove`, on {datetime.date.today().isoformat()}: Python
{platform.python_version()}, torch {version("torch")}, transformers {version("transformers")}, {platform.system()} {platform.machine()},
{available_cores()} cores, float32. Random weights.

Log-probabilities of every token of the vocabulary at every place of {N_PROMPTS} texts of {N_PROMPT + N_NEW} tokens, and {N_NEW} greedy
tokens after {N_PROMPT} of each, ours from the continuous batch. A text may leave theirs only where the two likeliest tokens are within
{TIE:g} of each other.

| shape | compared | largest difference, nats | the same {N_NEW} tokens | left at a tie |
|---|---|---|---|---|
{chr(10).join(lines)}
"""
    RESULTS.write_text(text, encoding="utf-8")
