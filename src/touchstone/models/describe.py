"""A model as text: one block drawn, the stack with its repeats, and what each part costs in parameters and operations.

A multiply and an add count as two floating-point operations (FLOPs); norms, activations and softmax are not counted, as is usual.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from string import ascii_uppercase

from touchstone.errors import ConfigError
from touchstone.models.heads import MODULES, ClassifyHead, LmHead, MaskedLmHead, SpanHead, TagHead
from touchstone.models.spec import ModelSpec, RecurrentStack, Stack
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import AlibiPositions, LearnedPositions, RelativePositions, RotaryPositions, SinusoidalPositions

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
    found = [Part("embed", spec.embed.n_parameters(), 0.0)]
    for side, stack in spec.stacks.items():
        before = f"{side}: " if len(spec.stacks) > 1 else ""
        of_stack = _stack_parts(stack, spec.d_model, context) if isinstance(stack, Stack) else _recurrent_parts(stack, spec.d_model)
        found += [Part(before + part.name, part.n_parameters, part.flops_per_token) for part in of_stack]
    if spec.n_between():
        found.append(Part("attention between", spec.n_between(), 0.0))
    if spec.head is not None:
        n, flops = spec.head.n_parameters(spec.d_hidden, spec.vocab_size), spec.head.flops(spec.d_hidden, spec.vocab_size)
        found.append(Part(MODULES[spec.head.kind], n, flops))
    return found


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
    if distances := sum(position.n_buckets * n_heads for position, n_heads in stack.relative_tables()):
        yield Part("distances", distances, 0.0)
    projections = sum(block.attn.n_parameters(d_model) for block in blocks)
    yield Part("attn", projections, sum((2.0 * _attn_products(block.attn, d_model) for block in blocks), 0.0))
    if crossing := [block.cross for block in blocks if block.cross is not None]:
        n = sum(cross.n_parameters(d_model) for cross in crossing)
        yield Part("cross_attn", n, sum(2.0 * _attn_products(cross, d_model) for cross in crossing))
    yield Part(f"attn, scores and mixing with {context:,} keys", 0, stack.attention_flops_per_token(context))
    yield Part(
        "mlp", sum(block.mlp.n_parameters(d_model) for block in blocks), sum((2.0 * b.mlp.product_weights(d_model) for b in blocks), 0.0)
    )
    norms = [norm for block in blocks for norm in [block.norm] * (3 if block.cross is not None else 2)] + [
        n for n in (stack.input_norm, stack.final_norm) if n
    ]
    yield Part("norms", sum(norm.n_parameters(d_model) for norm in norms), 0.0)


def _recurrent_parts(stack: RecurrentStack, d_model: int) -> Iterator[Part]:
    yield Part(stack.cell.kind, stack.n_parameters(d_model), stack.product_flops_per_token(d_model))


def _attn_products(attn: AttentionSpec, d_model: int) -> int:
    return 2 * d_model * attn.d_head * (attn.n_heads + attn.n_kv_heads)


def _title(spec: ModelSpec) -> str:
    length = f"{spec.max_seq_len:,} tokens at most" if spec.max_seq_len else "any length"
    layers = f"{spec.n_layers} layer{'s' if spec.n_layers > 1 else ''}"
    return f"{spec.kind}: {spec.n_parameters():,} parameters, {layers}, d_model {spec.d_model}, {length}"


def _drawing(spec: ModelSpec) -> list[str]:
    lines: list[str] = []
    for side, stack in spec.stacks.items():
        if len(spec.stacks) > 1:
            lines += [f"{side}:"] if not lines else ["memory", "", f"{side}:"]
        lines += ["token_ids", "│", f"embed           {spec.vocab_size:,} × {spec.d_model}{_times(spec.embed.scale)}"]
        lines += [f"+ token_types   {spec.embed.n_token_types}"] if spec.embed.n_token_types else []
        lines += _stack(stack) if isinstance(stack, Stack) else _recurrent(stack, spec.d_model)
    return [_INDENT + line for line in lines + _head(spec)]


def _recurrent(stack: RecurrentStack, d_model: int) -> list[str]:
    cell, drop = stack.cell, _dropout(stack.cell.dropout)
    ways = ", both ways" if cell.both_ways else ""
    lines = [
        f"{f'layers.{layer}':<16}{cell.kind} {before} → {stack.d_out}{ways}{drop}" for layer, before in enumerate(cell.widths(d_model))
    ]
    look = [f"cross_attn      {_attn(stack.cross)}"] if stack.cross is not None else []
    return _embedding_dropout(stack.dropout) + lines + look


def _head(spec: ModelSpec) -> list[str]:
    head, name = spec.head, MODULES[spec.head.kind] if spec.head else ""
    if head is None:
        return ["│", "hidden states"]
    if isinstance(head, LmHead):
        tied = "the weight of embed" if head.tied else f"{spec.d_hidden} → {spec.vocab_size:,}"
        dense = f"dense, {head.activation}, {_norm(head.norm)}, " if isinstance(head, MaskedLmHead) else ""
        return [f"{name:<16}{dense}{tied}{' + bias' if head.bias else ''}{_times(head.scale)}", "│", "logits"]
    if isinstance(head, ClassifyHead):
        dense = f"dense, {head.activation}, " if head.activation else ""
        return [f"{name:<16}{head.pooling} token, {dense}{spec.d_hidden} → {head.n_labels} labels{_dropout(head.dropout)}", "│", "logits"]
    if isinstance(head, TagHead):
        return [f"{name:<16}{spec.d_hidden} → {head.n_labels} labels a token{_dropout(head.dropout)}", "│", "logits"]
    if isinstance(head, SpanHead):
        return [f"{name:<16}{spec.d_hidden} → begin and end{_dropout(head.dropout)}", "│", "logits"]
    return [f"{name:<16}{head.pooling} token, dense, {head.activation}", "│", "vector"]


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
    crossing = [("norm_cross", "cross", _attn(block.cross) + drop)] if block.cross is not None else []
    width = 10 if crossing else 9
    bar = "─" * (width - 2)
    on_attn = drop if block.attn_dropout is None else _dropout(block.attn_dropout, " before the +")
    sublayers = [("norm1", "attn", _attn(block.attn) + on_attn), *crossing, ("norm2", "mlp", _mlp(block.mlp) + drop)]
    lines = [f"┌── {label} " + "─" * max(2, 11 - len(label))]
    for norm_name, name, text in sublayers:
        norm, sublayer, split, join = (norm_name, _norm(block.norm)), (name, text), (f"├{bar}──╮", ""), (f"+ ◀{bar}╯", "")
        rows = {
            "pre": [split, norm, sublayer, join],
            "post": [split, sublayer, join, norm],
            "inner": [split, sublayer, norm, join],
        }[block.norm_place]
        inside = False
        for left, right in rows:
            inside = (inside or left == split[0]) and left != join[0]
            lines.append(f"│ {left:<{width}} {'│' if inside and left != split[0] else ' '}  {right}".rstrip() if right else f"│ {left}")
    return [*lines, "└" + "─" * 16]


def _attn(attn: AttentionSpec) -> str:
    heads = f"{attn.n_heads} heads of {attn.d_head}"
    shared = f", {attn.n_kv_heads} key-value" if attn.n_kv_heads != attn.n_heads else ""
    biased = [name for name, on in (("qkv", attn.qkv_bias), ("o", attn.o_bias)) if on]
    extras = [
        _position(attn.position),
        f"window {attn.window:,}" if attn.window else "",
        f"q/k norm {attn.qk_norm.kind}" if attn.qk_norm else "",
        f"bias on {' and '.join(biased)}" if biased else "",
        "additive score" if attn.score == "additive" else "",
        f"scale {attn.scale:g}" if attn.scale is not None else "",
        f"dropout {attn.dropout:g} on the weights" if attn.dropout else "",
    ]
    return ", ".join([heads + shared, *filter(None, extras)])


def _position(position: RotaryPositions | AlibiPositions | RelativePositions | None) -> str:
    if isinstance(position, RotaryPositions):
        return _rotary(position)
    if isinstance(position, RelativePositions):
        return f"relative, {position.n_buckets} buckets to {position.max_distance:,}"
    return "ALiBi" if position else ""


def _rotary(position: RotaryPositions) -> str:
    width = f" on {position.d_rotary}" if position.d_rotary else ""
    return f"rotary{width}, theta {position.theta:,.0f}{f', {position.scaling.kind} scaling' if position.scaling else ''}"


def _table(position: LearnedPositions | SinusoidalPositions) -> str:
    return f"{position.kind}, {position.max_seq_len:,}"


def _mlp(mlp: MlpSpec | ExpertsSpec) -> str:
    if isinstance(mlp, ExpertsSpec):
        shared = f", and one for all: {_mlp(mlp.shared)}" if mlp.shared else ""
        return f"{mlp.n_active} of {mlp.n_experts} experts: {_mlp(mlp.expert)}{shared}"
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
    if spec.decoder is None:
        return [_INDENT + line for line in lines]
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
