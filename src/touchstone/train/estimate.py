"""What a run will take, before it is begun: operations, memory and time, from its configuration alone.

Time is operations over a pace. The paces below were measured on two cores of a server CPU (docs/results holds later ones); a machine's
own pace comes from timing its first steps. Memory counts weights, gradients, optimiser state, the activations that the backward pass
needs, and the process itself; for the recipes it came out 4 to 27 % above the peak that was measured.
"""

from dataclasses import dataclass

from touchstone.models.spec import ModelSpec, RecurrentStack, Stack
from touchstone.nn.block import BlockSpec
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
    flops = 3 * spec.flops_per_token(config.context) * n_tokens
    return Estimate(
        n_parameters=spec.n_parameters(),
        n_tokens=n_tokens,
        flops=flops,
        memory_bytes=_memory(spec, config.train, config.context),
        seconds=flops / _pace(spec),
    )


def _pace(spec: ModelSpec) -> float:
    if isinstance(spec.stack, RecurrentStack):
        return RECURRENT_PACE
    return next(pace for limit, pace in PACES.items() if spec.n_parameters() <= limit)


def _memory(spec: ModelSpec, train: TrainConfig, context: int) -> int:
    """Weights, gradients and two moments of every parameter; activations and three sizes of logits of one micro-batch."""
    state = 4 * spec.n_parameters()
    n_at_once = (train.micro_batch_size or train.batch_size) * context
    return _PROCESS_BYTES + _FLOAT * (state + n_at_once * (_activations(spec, context) + 3 * spec.vocab_size))


def _activations(spec: ModelSpec, context: int) -> int:
    """Numbers a token that the backward pass keeps."""
    if isinstance(spec.stack, Stack):
        return sum(_block_activations(block, spec.d_model, context) for block in spec.stack.blocks) + 2 * spec.d_model
    cell = spec.stack.cell
    return cell.n_layers * cell.d_hidden * (2 * cell.n_gates + 4) + spec.d_model


def _block_activations(block: BlockSpec, d_model: int, context: int) -> int:
    attn, mlp = block.attn, block.mlp
    heads = attn.n_heads * attn.d_head
    keys = 2 * attn.n_kv_heads * attn.d_head
    scores = 3 * attn.n_heads * context if attn.dropout else 0  # dropped-out attention keeps its weights
    masks = 4 * d_model if block.dropout else 0
    return 6 * d_model + 4 * heads + 2 * keys + scores + masks + (4 if mlp.gated else 3) * mlp.d_ff
