"""A model as text: one block drawn, the stack with its repeats, and what each part costs in parameters and operations.

A multiply and an add count as two floating-point operations (FLOPs); norms, activations and softmax are not counted, as is usual.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from string import ascii_uppercase

from touchstone.errors import ConfigError
from touchstone.models.spec import ModelSpec, RecurrentStack, Stack
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions, RotaryPositions, SinusoidalPositions

__all__ = ["Part", "describe", "parts"]

_TRAINING = 3  # backward is two products for each of forward's: by the input and by the weight
_UNBOUNDED_CONTEXT = 1024  # keys a token is reckoned with where the model sets no length
_INDENT = "  "


@dataclass(frozen=True)
class Part:
    """One row of the account: trained numbers, and FLOPs of one token's forward pass."""

    name: str
    n_parameters: int
    flops_per_token: float


def describe(spec: ModelSpec, *, context: int | None = None) -> str:
    """The drawing and the account of a model, as text.

    context: how many keys a token meets, for the FLOPs of attention and the size of the cache; None = the model's own length.
    """
    context = _context(spec, context)
    return "\n".join([_title(spec), "", *_drawing(spec), "", *_account(spec, context), "", *_sizes(spec, context)])


def parts(spec: ModelSpec, *, context: int | None = None) -> list[Part]:
    """What each part has and does; the columns add up to `spec.n_parameters()` and `spec.flops_per_token(context)`."""
    context = _context(spec, context)
    d_model, head = spec.d_model, spec.head
    embed = Part("embed", spec.vocab_size * d_model, 0.0)
    head_weights = 0 if head.tied else spec.vocab_size * spec.d_hidden
    lm_head = Part("lm_head", head_weights + (spec.vocab_size if head.bias else 0), 2.0 * spec.vocab_size * spec.d_hidden)
    middle = _stack_parts(spec.stack, d_model, context) if isinstance(spec.stack, Stack) else _recurrent_parts(spec.stack, d_model)
    return [embed, *middle, lm_head]


def _context(spec: ModelSpec, context: int | None) -> int:
    if context is None:
        return spec.max_seq_len or _UNBOUNDED_CONTEXT
    if context < 1:
        raise ConfigError(f"`context` ({context}) must be at least 1 token.")
    return context


def _stack_parts(stack: Stack, d_model: int, context: int) -> Iterator[Part]:
    blocks = stack.blocks
    if isinstance(stack.position, LearnedPositions):
        yield Part("positions", (stack.position.max_seq_len + stack.position.offset) * d_model, 0.0)
    projections = sum(block.attn.n_parameters(d_model) for block in blocks)
    yield Part("attn", projections, sum(2.0 * _attn_products(block.attn, d_model) for block in blocks))
    yield Part(f"attn, scores and mixing with {context:,} keys", 0, stack.attention_flops_per_token(context))
    yield Part("mlp", sum(block.mlp.n_parameters(d_model) for block in blocks), sum(2.0 * _mlp_products(b.mlp, d_model) for b in blocks))
    norms = [norm for block in blocks for norm in (block.norm, block.norm)] + [n for n in (stack.input_norm, stack.final_norm) if n]
    yield Part("norms", sum(norm.n_parameters(d_model) for norm in norms), 0.0)


def _recurrent_parts(stack: RecurrentStack, d_model: int) -> Iterator[Part]:
    yield Part(stack.cell.kind, stack.n_parameters(d_model), stack.product_flops_per_token(d_model))


def _attn_products(attn: AttentionSpec, d_model: int) -> int:
    return 2 * d_model * attn.d_head * (attn.n_heads + attn.n_kv_heads)


def _mlp_products(mlp: MlpSpec, d_model: int) -> int:
    return (3 if mlp.gated else 2) * d_model * mlp.d_ff


def _title(spec: ModelSpec) -> str:
    length = f"{spec.max_seq_len:,} tokens at most" if spec.max_seq_len else "any length"
    layers = f"{spec.n_layers} layer{'s' if spec.n_layers > 1 else ''}"
    return f"{spec.kind}: {spec.n_parameters():,} parameters, {layers}, d_model {spec.d_model}, {length}"


def _drawing(spec: ModelSpec) -> list[str]:
    stack = spec.stack
    lines = ["token_ids", "│", f"embed           {spec.vocab_size:,} × {spec.d_model}{_times(spec.embed.scale)}"]
    if isinstance(stack, Stack):
        lines += _stack(stack)
    else:
        widths = [spec.d_model] + [stack.cell.d_hidden] * stack.cell.n_layers
        drop = _dropout(stack.cell.dropout)
        lines += _embedding_dropout(stack.dropout)
        lines += [
            f"{f'layers.{layer}':<16}{stack.cell.kind} {before} → {after}{drop}" for layer, (before, after) in enumerate(pairwise(widths))
        ]
    tied = "the weight of embed" if spec.head.tied else f"{spec.d_hidden} → {spec.vocab_size:,}"
    lines += [f"lm_head         {tied}{' + bias' if spec.head.bias else ''}{_times(spec.head.scale)}", "│", "logits"]
    return [_INDENT + line for line in lines]


def _stack(stack: Stack) -> list[str]:
    lines = [f"+ positions     {_table(stack.position)}"] if stack.position else []
    lines += [f"input_norm      {_norm(stack.input_norm)}"] if stack.input_norm else []
    lines += _embedding_dropout(stack.dropout)
    kinds = dict(zip(dict.fromkeys(stack.blocks), _letters(), strict=False))
    if len(kinds) == 1:
        lines += ["│", *_block(stack.blocks[0], f"× {len(stack.blocks)}")]
    else:
        runs = [(letter, len(list(run))) for letter, run in groupby(kinds[block] for block in stack.blocks)]
        order = " ".join(letter if n == 1 else f"{letter}×{n}" for letter, n in runs)
        lines += ["│", f"layers          {order}"]
        for block, letter in kinds.items():
            lines += ["│", *_block(block, letter)]
    lines += ["│"]
    return lines + ([f"final_norm      {_norm(stack.final_norm)}"] if stack.final_norm else [])


def _letters() -> Iterator[str]:
    yield from ascii_uppercase
    n = 1
    while True:
        yield from (f"{letter}{n}" for letter in ascii_uppercase)
        n += 1


def _block(block: BlockSpec, label: str) -> list[str]:
    """The block with its residual connections: the line on the right goes round each sublayer to the +."""
    drop = _dropout(block.dropout, " before the +")
    sublayers = (("norm1", "attn", _attn(block.attn) + drop), ("norm2", "mlp", _mlp(block.mlp) + drop))
    lines = [f"┌── {label} " + "─" * max(2, 11 - len(label))]
    for norm_name, name, text in sublayers:
        norm, sublayer, split, join = (norm_name, _norm(block.norm)), (name, text), ("├─────────╮", ""), ("+ ◀───────╯", "")
        rows = {
            "pre": [split, norm, sublayer, join],
            "post": [split, sublayer, join, norm],
            "inner": [split, sublayer, norm, join],
        }[block.norm_place]
        inside = False
        for left, right in rows:
            inside = (inside or left == split[0]) and left != join[0]
            lines.append(f"│ {left:<9} {'│' if inside and left != split[0] else ' '}  {right}".rstrip() if right else f"│ {left}")
    return [*lines, "└" + "─" * 16]


def _attn(attn: AttentionSpec) -> str:
    heads = f"{attn.n_heads} heads of {attn.d_head}"
    shared = f", {attn.n_kv_heads} key-value" if attn.n_kv_heads != attn.n_heads else ""
    biased = [name for name, on in (("qkv", attn.qkv_bias), ("o", attn.o_bias)) if on]
    extras = [
        _rotary(attn.position) if isinstance(attn.position, RotaryPositions) else ("ALiBi" if attn.position else ""),
        f"window {attn.window:,}" if attn.window else "",
        f"q/k norm {attn.qk_norm.kind}" if attn.qk_norm else "",
        f"bias on {' and '.join(biased)}" if biased else "",
        "additive score" if attn.score == "additive" else "",
        f"scale {attn.scale:g}" if attn.scale is not None else "",
        f"dropout {attn.dropout:g} on the weights" if attn.dropout else "",
    ]
    return ", ".join([heads + shared, *filter(None, extras)])


def _rotary(position: RotaryPositions) -> str:
    width = f" on {position.d_rotary}" if position.d_rotary else ""
    return f"rotary{width}, theta {position.theta:,.0f}{f', {position.scaling.kind} scaling' if position.scaling else ''}"


def _table(position: LearnedPositions | SinusoidalPositions) -> str:
    return f"{position.kind}, {position.max_seq_len:,}"


def _mlp(mlp: MlpSpec) -> str:
    act = f"{mlp.activation}(gate) · up" if mlp.gated else mlp.activation
    return f"→ {mlp.d_ff:,} →, {act}{', bias' if mlp.bias else ''}{_dropout(mlp.dropout)}"


def _norm(norm: NormSpec) -> str:
    return f"{norm.kind}, eps {norm.norm_eps:g}"


def _dropout(p: float, where: str = "") -> str:
    return f", dropout {p:g}{where}" if p else ""


def _embedding_dropout(p: float) -> list[str]:
    return [f"dropout         {p:g}"] if p else []


def _times(scale: float) -> str:
    return f", × {scale:g}" if scale != 1.0 else ""


def _account(spec: ModelSpec, context: int) -> list[str]:
    rows = parts(spec, context=context)
    total = Part("total", sum(part.n_parameters for part in rows), sum(part.flops_per_token for part in rows))
    width = max(len(part.name) for part in rows)
    lines = [f"{_INDENT}{'':<{width}}  {'parameters':>14}  {'share':>6}  {'FLOPs a token':>14}"]
    for part in [*rows, total]:
        share = part.n_parameters / total.n_parameters
        lines.append(f"{_INDENT}{part.name:<{width}}  {part.n_parameters:>14,}  {share:>6.1%}  {_short(part.flops_per_token):>14}")
    training = _short(_TRAINING * total.flops_per_token)
    return [*lines, f"{_INDENT}a training token (forward and backward): {training} FLOPs"]


def _sizes(spec: ModelSpec, context: int) -> list[str]:
    n = spec.n_parameters()
    lines = [f"weights: {_bytes(4 * n)} in fp32, {_bytes(2 * n)} in bf16"]
    if isinstance(spec.stack, RecurrentStack):
        cell = spec.stack.cell
        state = cell.n_states * cell.n_layers * cell.d_hidden
        lines.append(f"state: {_bytes(4 * state)} a row in fp32, whatever its length")
    else:
        token = sum(2 * block.attn.n_kv_heads * block.attn.d_head for block in spec.stack.blocks)
        lines.append(f"cache: {4 * token:,} bytes a token in fp32, {_bytes(4 * token * context)} a row of {context:,} tokens; half in bf16")
    return [_INDENT + line for line in lines]


def _short(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:,.0f}"


def _bytes(n: int) -> str:
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n:,.0f} bytes"
