"""A decoder laid out for decoding: the tokens of all texts of a step packed into one matrix, their keys and values in one pool of slots.

There is no padding: prompts being read and texts being written share every product, and attention runs text by text over exactly the
tokens it has. Queries that share a key-value head stand side by side as rows of one product, so keys are never repeated. q, k and v are
one product, gate and up another. What it computes is what the network computes, up to rounding; the network itself stays the oracle.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from touchstone.infer.blocks import BlockPool
from touchstone.infer.runner import at_least_fp32, evaluating
from touchstone.infer.scheduler import Part
from touchstone.models.net import LanguageNet
from touchstone.models.stack import AttentionStack
from touchstone.models.transformer import Decoder
from touchstone.nn.block import Block
from touchstone.nn.linear import Linear
from touchstone.nn.mlp import GatedMlp, Mlp
from touchstone.nn.position import AlibiPositions, RelativePositions, alibi_slopes, rotate

__all__ = ["PackedDecoder", "cached_bytes_per_token", "can_pack"]


def can_pack(net: LanguageNet) -> bool:
    """Whether a network can run packed: a decoder alone, whose layers score by products and count no relative distances."""
    if type(net) is not Decoder:
        return False
    attentions = [block.attn.spec for block in _blocks(net)]
    return all(attn.score == "scaled_dot" and not isinstance(attn.position, RelativePositions) for attn in attentions)


def cached_bytes_per_token(net: LanguageNet) -> int:
    """What keys and values of one token take in all layers."""
    assert isinstance(net, Decoder)
    width = sum(2 * block.attn.spec.n_kv_heads * block.attn.spec.d_head for block in _blocks(net))
    return width * _cache_type(net).itemsize


class PackedDecoder:
    """Computes steps of a scheduler over a pool of blocks.

    The network's weights are used where they are; `running` must be held while steps are computed.
    """

    def __init__(self, net: Decoder, pool: BlockPool) -> None:
        self.net = net
        self.pool = pool
        self._stack: AttentionStack = net.decoder
        self._layers = _packed_layers(net)
        n_slots = pool.n_blocks * pool.block_size
        self._caches = [layer.new_cache(n_slots, net) for layer in self._layers]
        self._versions = self._seen_versions()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Held while steps are computed: dropout is off, and if weights were changed meanwhile, what they had computed is forgotten."""
        if not all(layer.is_current for layer in self._layers):
            self._layers = _packed_layers(self.net)
        versions = self._seen_versions()
        if versions != self._versions:
            self._versions = versions
            self.pool.clear()
        with evaluating(self.net):
            yield

    def _seen_versions(self) -> list[tuple[int, int]]:
        return [(weight.data_ptr(), weight._version) for weight in self.net.parameters()]

    @torch.inference_mode()
    def where_not_finite(self, token_ids: Sequence[int]) -> str | None:
        """Where numbers first stop being finite when the network reads these tokens; None if they are finite everywhere."""
        output = self.net(torch.tensor([list(token_ids)], device=self.net.embed.weight.device), want=("hiddens",))
        broken = [n for n, hidden in sorted(output.hiddens.items()) if not bool(hidden.isfinite().all())]
        if not broken and bool(output.logits.isfinite().all()):
            return None
        return ("embeddings" if broken[0] == 0 else f"layer {broken[0] - 1}") if broken else "final norm or head"

    @torch.inference_mode()
    def step(self, parts: Sequence[Part]) -> Float[Tensor, "M V"]:
        """Compute the parts; the next-token logits after each part that is its text's last, and after each of its drafts, in order."""
        hidden = self.hidden(parts)
        rows = torch.tensor(list(_scored_rows(parts)), dtype=torch.long, device=hidden.device)
        if not len(rows):
            return hidden.new_empty(0, self.net.spec.vocab_size)
        scored = hidden if len(rows) == len(hidden) else hidden[rows]
        return at_least_fp32(self.net.head(self._stack.final_norm(scored)))

    @torch.inference_mode()
    def hidden(self, parts: Sequence[Part]) -> Float[Tensor, "N D"]:
        """What the last layer makes of the parts' tokens, before the final norm."""
        step = self._begin(parts)
        x = self.net.embed(step.token_ids)
        if self._stack.positions is not None:
            table = self._stack.positions
            x = x + F.embedding(step.positions + table.offset if table.offset else step.positions, table.weight)
        x = self._stack.input_norm(x)
        angles = zip(self._stack.angles_keys, self._stack.rotaries, strict=True)
        step.angles = {key: tuple(a[0].transpose(0, 1) for a in rotary(step.positions[None], x.dtype)) for key, rotary in angles}
        for layer, cache in zip(self._layers, self._caches, strict=True):
            x = layer(x, step, cache)
        return x

    def _begin(self, parts: Sequence[Part]) -> "_Step":
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[_Span] = []
        size = self.pool.block_size
        for part in parts:
            text, end = part.text, part.end + part.n_drafts
            assert text.table is not None
            token_ids += text.token_ids[part.start : part.end]
            token_ids += text.drafts[: part.n_drafts]
            positions += range(part.start, end)
            blocks = text.table.blocks
            slots += [blocks[at // size] * size + at % size for at in range(part.start, end)]
            spans.append(_Span(len(token_ids) - part.n_tokens, len(token_ids), part.start, end, _stretches(text.table.runs, size, end)))
        device = self.net.embed.weight.device
        tensors = [torch.tensor(numbers, dtype=torch.long, device=device) for numbers in (token_ids, positions, slots)]
        return _Step(tensors[0], tensors[1], tensors[2], spans)


@dataclass
class _Span:
    """The rows low to high of a step: tokens `start` to `end` of a text, whose keys lie in these stretches of slots."""

    low: int
    high: int
    start: int
    end: int
    stretches: list[tuple[int, int]]
    masks: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)

    @property
    def n_queries(self) -> int:
        return self.high - self.low

    def first_key(self, window: int | None) -> int:
        """The first token that any of the queries sees."""
        return 0 if window is None else max(0, self.start + 1 - window)

    def keys(self, cache: Float[Tensor, "G S K"], window: int | None) -> Float[Tensor, "G _ K"]:
        """What the cache holds of the text, as far as the queries see it."""
        skipped = self.first_key(window)
        if len(self.stretches) == 1:
            low, high = self.stretches[0]
            return cache[:, low + skipped : high]
        return torch.cat([cache[:, low:high] for low, high in self.stretches], dim=1)[:, skipped:]


@dataclass
class _Step:
    """Where the tokens of a step stand in their texts, and their keys in the cache."""

    token_ids: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    slots: Int[Tensor, " N"]
    spans: list[_Span]
    angles: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def store(self, cache: Float[Tensor, "G S K"], new: Float[Tensor, "N G K"]) -> None:
        if len(self.spans) == 1 and len(self.spans[0].stretches) == 1:  # one run of slots: a copy, and no scattering
            span = self.spans[0]
            first = span.stretches[0][0]
            cache[:, first + span.start : first + span.end].copy_(new.transpose(0, 1))
        else:
            cache.index_copy_(1, self.slots, new.transpose(0, 1).to(cache.dtype))


class _PackedLayer:
    """One block over packed tokens."""

    def __init__(self, block: Block) -> None:
        attn, spec = block.attn, block.attn.spec
        self._block = block
        self._spec = spec
        self._n_shared = spec.n_heads // spec.n_kv_heads  # queries a key-value head
        self._widths = [spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head, spec.n_kv_heads * spec.d_head]
        self._qkv = attn.q_proj.beside(attn.k_proj, attn.v_proj)
        self._fused: list[tuple[Linear, tuple[Linear, ...]]] = [(self._qkv, (attn.q_proj, attn.k_proj, attn.v_proj))]
        self._mlp = self._mlp_of(block)
        self._slopes = alibi_slopes(spec.n_heads) if isinstance(spec.position, AlibiPositions) else None

    @property
    def is_current(self) -> bool:
        """Whether the fused weights still are the network's."""
        return all(joined.holds(*parts) for joined, parts in self._fused)

    def new_cache(self, n_slots: int, net: Decoder) -> tuple[Tensor, Tensor]:
        """Empty slots for keys and values, (G, S, K) each; memory is taken from the machine as they are written."""
        shape = (self._spec.n_kv_heads, n_slots, self._spec.d_head)
        device, dtype = net.embed.weight.device, _cache_type(net)
        return torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype)

    def __call__(self, x: Float[Tensor, "N D"], step: _Step, cache: tuple[Tensor, Tensor]) -> Float[Tensor, "N D"]:
        block = self._block
        x, _ = block.place(x, block.norm1, lambda y: (self._attend(y, step, cache), None))
        x, _ = block.place(x, block.norm2, lambda y: (self._mlp(y), None))
        return x

    def _attend(self, x: Float[Tensor, "N D"], step: _Step, cache: tuple[Tensor, Tensor]) -> Float[Tensor, "N D"]:
        attn, d_head = self._block.attn, self._spec.d_head
        q, k, v = (part.unflatten(1, (-1, d_head)) for part in self._qkv(x).split(self._widths, dim=1))  # (N, heads, K)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if attn.angles_key is not None:
            cos, sin = step.angles[attn.angles_key]  # (N, 1, R)
            q, k = rotate(q, (cos, sin)), rotate(k, (cos, sin))
        keys, values = cache
        step.store(keys, k)
        step.store(values, v)
        mixed = [self._look(q[span.low : span.high], span, keys, values) for span in step.spans]
        return attn.o_proj(mixed[0] if len(mixed) == 1 else torch.cat(mixed))

    def _look(self, q: Float[Tensor, "T H K"], span: _Span, keys: Tensor, values: Tensor) -> Float[Tensor, "T HK"]:
        """What the queries of one text mix of its values."""
        n, n_shared, window = span.n_queries, self._n_shared, self._spec.window
        rows = q.unflatten(1, (-1, n_shared)).permute(1, 2, 0, 3).flatten(1, 2)[None]  # (1, G, n_shared T, K)
        mask, is_causal = self._mask(span, q)
        mixed = F.scaled_dot_product_attention(
            rows,
            span.keys(keys, window)[None],
            span.keys(values, window)[None],
            attn_mask=mask,
            is_causal=is_causal,
            scale=self._block.attn.scale,
        )
        return mixed[0].unflatten(1, (n_shared, n)).permute(2, 0, 1, 3).flatten(1)

    def _mask(self, span: _Span, q: Tensor) -> tuple[Tensor | None, bool]:
        """What is added to the scores, for the rows of `_look`; made once a step for all layers alike. And whether it is plainly causal."""
        n, window = span.n_queries, self._spec.window
        first = span.first_key(window)
        if self._slopes is None:
            if n == 1:
                return None, False
            if span.start == 0 and self._n_shared == 1 and (window is None or window >= span.end):
                return None, True
        key = (window, self._n_shared if self._slopes is None else -self._spec.n_heads)
        if key not in span.masks:
            span.masks[key] = self._new_mask(span, first, q)
        return span.masks[key], False

    def _new_mask(self, span: _Span, first: int, q: Tensor) -> Float[Tensor, "1 _ T S"]:
        query = torch.arange(span.start, span.end, device=q.device)[:, None]
        distance = query - torch.arange(first, span.end, device=q.device)  # (T, S)
        banned = distance < 0
        if self._spec.window is not None:
            banned = banned | (distance >= self._spec.window)
        if self._slopes is None:
            mask = torch.zeros(distance.shape, dtype=q.dtype, device=q.device).masked_fill_(banned, -torch.inf)
            return mask.repeat(self._n_shared, 1)[None, None]
        bias = -self._slopes.to(q.device)[:, None, None] * distance.float()  # (H, T, S)
        bias = bias.masked_fill_(banned, -torch.inf).to(q.dtype)
        return bias.unflatten(0, (-1, self._n_shared)).flatten(1, 2)[None]

    def _mlp_of(self, block: Block) -> "_GatedMlp | Mlp | _Experts":
        mlp = block.mlp
        if isinstance(mlp, GatedMlp):
            gate_up = mlp.gate_proj.beside(mlp.up_proj)
            self._fused.append((gate_up, (mlp.gate_proj, mlp.up_proj)))
            return _GatedMlp(mlp, gate_up)
        return mlp if isinstance(mlp, Mlp) else _Experts(mlp)


class _GatedMlp:
    """A gated feed-forward layer whose gate and up are one product."""

    def __init__(self, mlp: GatedMlp, gate_up: Linear) -> None:
        self._mlp = mlp
        self._gate_up = gate_up

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        gate, up = self._gate_up(x).chunk(2, dim=1)
        return self._mlp.down_proj(self._mlp.activation(gate) * up)


class _Experts:
    """An experts layer over packed tokens."""

    def __init__(self, experts: torch.nn.Module) -> None:
        self._experts = experts

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        mixed: Tensor = self._experts(x[None])
        return mixed[0]


def _packed_layers(net: Decoder) -> list[_PackedLayer]:
    with torch.inference_mode(False):  # the fused weights are the network's own, which may be trained later
        return [_PackedLayer(block) for block in _blocks(net)]


def _blocks(net: Decoder) -> list[Block]:
    return [block for block in net.decoder.layers if isinstance(block, Block)]


def _cache_type(net: LanguageNet) -> torch.dtype:
    return net.embed.weight.dtype


def _scored_rows(parts: Sequence[Part]) -> Iterator[int]:
    row = 0
    for part in parts:
        row += part.n_tokens
        if part.is_last:
            yield from range(row - part.n_drafts - 1, row)


def _stretches(runs: Sequence[tuple[int, int]], size: int, n_tokens: int) -> list[tuple[int, int]]:
    """The slots of the first n_tokens of a text, as (first, end) of each stretch of neighbours."""
    found = []
    for first, n_blocks in runs:
        n = min(n_blocks * size, n_tokens)
        if n > 0:
            found.append((first * size, first * size + n))
        n_tokens -= n
    return found
