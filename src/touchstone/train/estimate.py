"""What a run will take, before it is begun: operations, memory and time, from its configuration alone.

Time is operations over a pace. The paces below were measured on two cores of a server CPU (docs/results holds later ones); a machine's
own pace comes from timing its first steps. Memory counts weights, gradients, optimiser state, the activations that the backward pass
needs, and the process itself; for the recipes of language models it came out 4 to 27 % above the peak that was measured. Models that
label, and those with dropout, were not held to it: a classifier of two layers took well over its estimate.
"""

from dataclasses import dataclass

from touchstone.models.heads import LmHead, TagHead
from touchstone.models.spec import ModelSpec, RecurrentStack, Stack
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.train.objective_config import MaskedLmConfig
from touchstone.train.run_config import RunConfig
from touchstone.train.settings import TrainConfig

__all__ = ["Estimate", "estimate"]

PACES = {3e6: 80e9, 3e7: 150e9, float("inf"): 120e9}
"""Operations a second of training on two cores, by the largest number of parameters: small models lose time between the products."""

RECURRENT_PACE = 60e9
"""The same for LSTM and GRU, whose steps wait for each other."""

_PROCESS_BYTES = 400 << 20  # Python with torch, before any tensor
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Estimate:
    """Of one run; an n-gram model has no operations to speak of."""

    n_parameters: int
    n_tokens: int  # that the run trains on, repeats included
    flops: float  # forward and backward
    memory_bytes: int  # peak
    seconds: float  # on two cores, without evaluation

    @property
    def minutes(self) -> float:
        return self.seconds / 60


def estimate(config: RunConfig, vocab_size: int) -> Estimate:
    """The estimate for a configuration and the vocabulary that is expected."""
    spec = config.to_spec(vocab_size)
    if config.train is None or not isinstance(spec, ModelSpec):
        return Estimate(0, 0, 0.0, _PROCESS_BYTES, 0.0)
    n_tokens = config.train.n_steps * config.train.batch_size * config.context
    flops = 3 * (spec.flops_per_token(config.context) - _unscored_flops(spec, config)) * n_tokens
    return Estimate(
        n_parameters=spec.n_parameters(),
        n_tokens=n_tokens,
        flops=flops,
        memory_bytes=_memory(spec, config, config.train),
        seconds=flops / _pace(spec),
    )


def _pace(spec: ModelSpec) -> float:
    if isinstance(spec.stack, RecurrentStack):
        return RECURRENT_PACE
    return next(pace for limit, pace in PACES.items() if spec.n_parameters() <= limit)


def _scored_share(config: RunConfig) -> float:
    """Of the tokens, those that scores are made for: the hidden ones alone where they are restored."""
    return config.objective.share if isinstance(config.objective, MaskedLmConfig) else 1.0


def _unscored_flops(spec: ModelSpec, config: RunConfig) -> float:
    """Of the head, saved a token on average."""
    return (1.0 - _scored_share(config)) * spec.head.flops(spec.d_hidden, spec.vocab_size) if spec.head is not None else 0.0


def _memory(spec: ModelSpec, config: RunConfig, train: TrainConfig) -> int:
    """Weights, gradients and two moments of every parameter; activations and three sizes of scores of one micro-batch."""
    state = 4 * spec.n_parameters()
    n_at_once = (train.micro_batch_size or train.batch_size) * config.context
    activations = sum(_activations(stack, spec.d_model, config.context) for stack in spec.stacks.values())
    scores = 3 * _n_scores(spec) * _scored_share(config)
    return round(_PROCESS_BYTES + _FLOAT * (state + n_at_once * (activations + scores)))


def _n_scores(spec: ModelSpec) -> int:
    """Scores a token; those of a whole text are too few to count."""
    if isinstance(spec.head, LmHead):
        return spec.vocab_size
    return spec.head.n_labels if isinstance(spec.head, TagHead) else 2


def _activations(stack: Stack | RecurrentStack, d_model: int, context: int) -> int:
    """Numbers a token that the backward pass keeps."""
    if isinstance(stack, Stack):
        return sum(_block_activations(block, d_model, context) for block in stack.blocks) + 2 * d_model
    cell = stack.cell
    n_ways = 2 if cell.both_ways else 1
    return n_ways * cell.n_layers * cell.d_hidden * (2 * cell.n_gates + 4) + d_model


def _block_activations(block: BlockSpec, d_model: int, context: int) -> int:
    attentions = sum(_attention_activations(attn, context) for attn in (block.attn, block.cross) if attn is not None)
    masks = 4 * d_model if block.dropout else 0
    return 6 * d_model + attentions + masks + _mlp_activations(block.mlp)


def _attention_activations(attn: AttentionSpec, context: int) -> int:
    heads, keys = attn.n_heads * attn.d_head, 2 * attn.n_kv_heads * attn.d_head
    scores = 3 * attn.n_heads * context if attn.dropout else 0  # dropped-out attention keeps its weights
    return 4 * heads + 2 * keys + scores


def _mlp_activations(mlp: MlpSpec | ExpertsSpec) -> int:
    if isinstance(mlp, MlpSpec):
        return (4 if mlp.gated else 3) * mlp.d_ff
    shared = _mlp_activations(mlp.shared) if mlp.shared else 0
    return mlp.n_active * _mlp_activations(mlp.expert) + shared + mlp.n_experts
