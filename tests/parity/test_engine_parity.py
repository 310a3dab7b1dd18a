"""The engine against transformers, for every family that writes: long greedy completions of many ragged prompts, decoded together.

transformers reads what the engine wrote, in float64: its log-probabilities must be the engine's, and its likeliest token the one that was
written, unless the two likeliest are closer than rounding. So the completions are its greedy ones.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Case, make_pair
from test_decoder_families import FREE, GPT2, LLAMA, MIXTRAL, QWEN2_MOE, QWEN3_MOE, VOCAB, YARN
from test_encoder_decoder_families import BART, GATED, MARIAN, SWITCH, T5, UNTIED
from torch.nn.utils.rnn import pad_sequence

from touchstone.infer.engine import Engine
from touchstone.infer.request import Completion, Request, Sampling
from touchstone.infer.scheduler import Limits

pytestmark = pytest.mark.slow

N_PROMPTS, N_NEW, LONGEST = 50, 256, 40
AT_ONCE = 10  # completions that transformers reads together, filled up on the right, where no place before sees it
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


def batches(completions: list[Completion]) -> Iterator[list[Completion]]:
    assert len(completions) == N_PROMPTS
    for begin in range(0, N_PROMPTS, AT_ONCE):
        yield completions[begin : begin + AT_ONCE]


def filled(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens filled up on the right, and which places are theirs."""
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True), pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)


def check(completion: Completion, theirs: torch.Tensor) -> None:
    """theirs (T, V): what transformers says before each token of the completion."""
    logprobs, written = theirs.double().log_softmax(-1), torch.tensor(completion.token_ids)
    ours = torch.tensor(completion.logprobs, dtype=torch.float64)
    assert (ours - logprobs.gather(1, written[:, None])[:, 0]).abs().max() <= LOGPROB_TOLERANCE
    assert logprobs.shape[0] == len(written) == N_NEW
    best = logprobs.topk(2).values
    likeliest = logprobs.argmax(-1)
    assert bool(((likeliest == written) | (best[:, 0] - best[:, 1] < LEAST_GAP)).all())


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_a_decoder_writes_what_transformers_would(case: Case, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path / "model", gentle)
    completions = greedy(Engine(pair.loaded.net.float(), limits=Limits(max_texts=20, max_chunk=16), max_cached_tokens=20 * 160))
    for some in batches(completions):
        texts, _ = filled([[*each.prompt_token_ids, *each.token_ids[:-1]] for each in some])
        for completion, theirs in zip(some, pair.their_logits(texts), strict=True):
            begin = len(completion.prompt_token_ids) - 1
            check(completion, theirs[begin : begin + N_NEW])


@pytest.mark.parametrize("case", ENCODER_DECODERS, ids=str)
def test_an_encoder_decoder_writes_what_transformers_would(case: Case, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path / "model", gentle)
    start = getattr(pair.theirs.config, "decoder_start_token_id", None) or 0
    for some in batches(greedy(Engine(pair.loaded.net.float(), decoder_start_id=start))):
        sources, is_real = filled([each.prompt_token_ids for each in some])
        targets = torch.tensor([[start, *each.token_ids[:-1]] for each in some])
        logits = pair.their_logits(sources, attention_mask=is_real, decoder_input_ids=targets)
        for completion, theirs in zip(some, logits, strict=True):
            check(completion, theirs)
