"""The engine against transformers, for every family that writes: long greedy completions of many ragged prompts, decoded together.

transformers reads what the engine wrote, in float64: its log-probabilities must be the engine's, and its likeliest token the one that was
written, unless the two likeliest are closer than rounding. So the completions are its greedy ones.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Case, make_pair, widened
from test_decoder_families import FREE, GPT2, LLAMA, MIXTRAL, QWEN2_MOE, QWEN3_MOE, VOCAB, YARN
from test_encoder_decoder_families import BART, GATED, MARIAN, SWITCH, T5, UNTIED

from touchstone.infer.engine import Engine
from touchstone.infer.request import Completion, Request, Sampling
from touchstone.infer.scheduler import Limits

pytestmark = pytest.mark.slow

N_PROMPTS, N_NEW, LONGEST = 50, 256, 40
LOGPROB_TOLERANCE = 1e-5
LEAST_GAP = 1e-4
LONG = {"max_position_embeddings": 320}

DECODERS = [
    Case("gpt2", "gpt2", GPT2 | {"n_positions": 320}),
    Case("llama", "llama", LLAMA | LONG),
    Case("llama yarn rope", "llama", LLAMA | LONG | {"rope_parameters": YARN}),
    Case("mistral window", "mistral", FREE | LONG | {"sliding_window": 37}),
    Case("qwen2 some windows", "qwen2", FREE | LONG | {"use_sliding_window": True, "sliding_window": 37, "max_window_layers": 1}),
    Case("qwen3", "qwen3", FREE | LONG),
    Case("arcee", "arcee", LLAMA | LONG),
    Case("mixtral", "mixtral", MIXTRAL | LONG),
    Case("qwen2 experts", "qwen2_moe", QWEN2_MOE | LONG),
    Case("qwen3 experts", "qwen3_moe", QWEN3_MOE | LONG),
]
ENCODER_DECODERS = [
    Case("t5", "t5", T5, head="seq2seq"),
    Case("t5 1.1", "t5", T5 | GATED, UNTIED, head="seq2seq"),
    Case("mt5", "mt5", T5, head="seq2seq"),
    Case("switch", "switch_transformers", SWITCH | {"expert_capacity": 10**6}, head="seq2seq"),  # theirs drops tokens without training too
    Case("bart", "bart", BART | LONG, head="seq2seq"),
    Case("mbart", "mbart", BART | LONG, head="seq2seq"),
    Case("marian", "marian", MARIAN | LONG, head="seq2seq"),
]


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(3, VOCAB, size=rng.integers(1, LONGEST)).tolist() for _ in range(N_PROMPTS)]


def gentle(model: torch.nn.Module) -> None:
    """Weights half as large: with larger ones T5's unscaled scores magnify rounding, on either side, to more than the tolerance."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.5)
        for module in model.modules():
            if hasattr(module, "create_weight"):  # Marian's positions, which are no trained numbers
                module.weight.copy_(module.create_weight())


def greedy(engine: Engine) -> list[Completion]:
    sampling = Sampling(max_new_tokens=N_NEW, temperature=0.0, ignore_eos=True)
    return engine.generate([Request(prompt, sampling) for prompt in prompts()])


def check(completion: Completion, theirs: torch.Tensor) -> None:
    """theirs (T, V): what transformers says before each token of the completion."""
    logprobs, written = theirs.double().log_softmax(-1), torch.tensor(completion.token_ids)
    ours = torch.tensor(completion.logprobs, dtype=torch.float64)
    assert (ours - logprobs.gather(1, written[:, None])[:, 0]).abs().max() <= LOGPROB_TOLERANCE
    best = logprobs.topk(2).values
    likeliest = logprobs.argmax(-1)
    assert bool(((likeliest == written) | (best[:, 0] - best[:, 1] < LEAST_GAP)).all())


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_a_decoder_writes_what_transformers_would(case: Case, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path / "model", gentle)
    completions = greedy(Engine(pair.loaded.net.float(), limits=Limits(max_texts=20, max_chunk=16), max_cached_tokens=20 * 160))
    for completion in completions:
        whole = torch.tensor([[*completion.prompt_token_ids, *completion.token_ids[:-1]]])
        check(completion, pair.their_logits(whole)[0, len(completion.prompt_token_ids) - 1 :])


@pytest.mark.parametrize("case", ENCODER_DECODERS, ids=str)
def test_an_encoder_decoder_writes_what_transformers_would(case: Case, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path / "model", gentle)
    start = getattr(pair.theirs.config, "decoder_start_token_id", None) or 0
    for completion in greedy(Engine(pair.loaded.net.float(), decoder_start_id=start)):
        target = torch.tensor([[start, *completion.token_ids[:-1]]])
        with widened(pair.theirs), torch.no_grad():
            theirs = pair.theirs(input_ids=torch.tensor([completion.prompt_token_ids]), decoder_input_ids=target).logits
        check(completion, theirs[0])
