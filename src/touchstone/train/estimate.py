"""What a run will take, before it is begun: operations, memory and time, from its configuration alone.

Time is operations over a pace. The paces below were measured on two cores of a server CPU (docs/results holds later ones); a machine's
own pace comes from timing its first steps. Dropout is counted apart: its masks are hashes of 64-bit numbers, which take time and, while
the widest is made, memory. Memory counts weights, gradients, optimiser state, the activations that the backward pass needs, and the
process itself with the rows it holds.
"""

from dataclasses import dataclass

from touchstone.models.heads import LmHead, TagHead
from touchstone.models.spec import ModelSpec, RecurrentStack, Stack
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.train.objective_config import CausalConfig, MaskedLmConfig, SpanCorruptionConfig
from touchstone.train.run_config import RunConfig
from touchstone.train.settings import TrainConfig

__all__ = ["Estimate", "estimate"]

PACES = {3e6: 80e9, 3e7: 150e9, float("inf"): 120e9}
"""Operations a second of training on two cores, by the largest number of parameters: small models lose time between the products."""

RECURRENT_PACE = 60e9
"""The same for LSTM and GRU, whose steps wait for each other."""

DROPOUT_S = 17e-9
"""Seconds on two cores for each place that dropout decides on, in a step."""

_PROCESS_BYTES = 400 << 20  # Python with torch, before any tensor
_ROWS_BYTES = 100 << 20  # rows of examples, which are held where text is mapped: 544 MiB were measured with two megabytes of reviews
_MASK_FLOATS = 20  # floats a place while a mask is made: up to eight copies of 64-bit numbers, and what the heap keeps between them
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
    flops = 3 * (spec.flops_per_token(config.context) - _unread_flops(spec, config)) * n_tokens
    n_dropped = sum(_n_dropped(stack, spec.d_model, config.context) * share for stack, share in _read_shares(spec, config))
    return Estimate(
        n_parameters=spec.n_parameters(),
        n_tokens=n_tokens,
        flops=flops,
        memory_bytes=_memory(spec, config, config.train),
        seconds=flops / _pace(spec) + DROPOUT_S * n_dropped * n_tokens,
    )


def _pace(spec: ModelSpec) -> float:
    if isinstance(spec.stack, RecurrentStack):
        return RECURRENT_PACE
    return next(pace for limit, pace in PACES.items() if spec.n_parameters() <= limit)


def _target_share(config: RunConfig) -> float:
    """Of the tokens that are read, as many are written: hidden spans, each with its sentinel, are few."""
    asked = config.objective
    return asked.density * (1 + 1 / asked.mean_span) if isinstance(asked, SpanCorruptionConfig) else 1.0


def _scored_share(config: RunConfig) -> float:
    """Of the tokens, those that scores are made for: the hidden ones alone where they are restored."""
    return config.objective.share if isinstance(config.objective, MaskedLmConfig) else _target_share(config)


def _read_shares(spec: ModelSpec, config: RunConfig) -> list[tuple[Stack | RecurrentStack, float]]:
    """Each stack, and the share of the context that passes through it."""
    has_sides = len(spec.stacks) > 1
    return [(stack, _target_share(config) if has_sides and name == "decoder" else 1.0) for name, stack in spec.stacks.items()]


def _unread_flops(spec: ModelSpec, config: RunConfig) -> float:
    """Of the head and of a decoder that writes little, saved a token on average."""
    head = spec.head.flops(spec.d_hidden, spec.vocab_size) if spec.head is not None else 0.0
    stacks = [
        (1.0 - share) * (stack.product_flops_per_token(spec.d_model) + stack.attention_flops_per_token(config.context))
        for stack, share in _read_shares(spec, config)
    ]
    return (1.0 - _scored_share(config)) * head + sum(stacks)


def _memory(spec: ModelSpec, config: RunConfig, train: TrainConfig) -> int:
    """Weights, gradients and two moments of every parameter; of one micro-batch activations, three sizes of scores and the widest mask."""
    state = 4 * spec.n_parameters()
    n_at_once = (train.micro_batch_size or train.batch_size) * config.context
    activations = sum(_activations(stack, spec.d_model, config.context) * share for stack, share in _read_shares(spec, config))
    scores = 3 * _n_scores(spec) * _scored_share(config)
    masks = _MASK_FLOATS * max(_widest_mask(stack, spec.d_model, config.context) for stack in spec.stacks.values())
    process = _PROCESS_BYTES + (0 if isinstance(config.objective, CausalConfig) else _ROWS_BYTES)
    return round(process + _FLOAT * (state + n_at_once * (activations + scores + masks)))


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
    between = _cross_activations(stack.cross, context) if stack.cross is not None else 0
    return n_ways * cell.n_layers * cell.d_hidden * (5 * cell.n_gates + 2) + d_model + between


def _block_activations(block: BlockSpec, d_model: int, context: int) -> int:
    attentions = sum(_attention_activations(attn, context) for attn in (block.attn, block.cross) if attn is not None)
    masks = 4 * d_model if block.dropout else 0
    return 6 * d_model + attentions + masks + _mlp_activations(block.mlp)


def _attention_activations(attn: AttentionSpec, context: int) -> int:
    heads, keys = attn.n_heads * attn.d_head, 2 * attn.n_kv_heads * attn.d_head
    scores = 3 * attn.n_heads * context if attn.dropout else 0  # dropped-out attention keeps its weights
    return 4 * heads + 2 * keys + scores


def _cross_activations(cross: AttentionSpec, context: int) -> int:
    """The additive score keeps a vector for each pair of tokens, and its backward pass makes two more."""
    pairs = 3 * cross.n_heads * cross.d_head * context if cross.score == "additive" else 0
    return _attention_activations(cross, context) + pairs


def _n_dropped(stack: Stack | RecurrentStack, d_model: int, context: int) -> int:
    """Places a token that dropout decides on."""
    on_input = d_model if stack.dropout else 0
    if isinstance(stack, RecurrentStack):
        return on_input + (stack.cell.n_layers * stack.cell.d_out if stack.cell.dropout else 0)
    return on_input + sum(sum(_masks(block, d_model, context)) for block in stack.blocks)


def _widest_mask(stack: Stack | RecurrentStack, d_model: int, context: int) -> int:
    """Places a token of the largest of its masks."""
    if isinstance(stack, RecurrentStack):
        return max(d_model, stack.cell.d_out) if stack.dropout or stack.cell.dropout else 0
    return max([d_model if stack.dropout else 0, *(n for block in stack.blocks for n in _masks(block, d_model, context))])


def _masks(block: BlockSpec, d_model: int, context: int) -> list[int]:
    """Places a token of each mask of a block: its sublayers', and its attentions' for every key."""
    attentions = [attn for attn in (block.attn, block.cross) if attn is not None]
    sublayers = (1 + len(attentions)) * [d_model] if block.dropout else []
    return sublayers + [attn.n_heads * context for attn in attentions if attn.dropout]


def _mlp_activations(mlp: MlpSpec | ExpertsSpec) -> int:
    if isinstance(mlp, MlpSpec):
        return (4 if mlp.gated else 3) * mlp.d_ff
    shared = _mlp_activations(mlp.shared) if mlp.shared else 0
    return mlp.n_active * _mlp_activations(mlp.expert) + shared + mlp.n_experts
