"""One layer of a packed decoder: products over the tokens of all texts, attention text by text over exactly the keys it has."""

import contextlib
import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.nn.block import Block
from touchstone.nn.linear import Linear
from touchstone.nn.mlp import GatedMlp, Mlp
from touchstone.nn.position import AlibiPositions, alibi_slopes, rotate

__all__ = ["FusedLayer", "PackedLayer", "Span", "Step"]


@dataclass
class Span:
    """The rows low to high of a step: tokens `start` to `end` of a text, whose keys lie in these stretches of slots.

    distance: how many tokens each row stands behind each key, below 0 where it does not see it; None = as in one text, where the tokens
    follow each other.
    """

    low: int
    high: int
    start: int
    end: int
    stretches: list[tuple[int, int]]
    distance: Int[Tensor, "T S"] | None = None
    masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

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

    def tile(self, cache: Float[Tensor, "G S K"], first: int, end: int) -> Float[Tensor, "G _ K"]:
        """The slots of tokens first to end, those of the last block that no token has yet included."""
        pieces, n_before = [], 0
        for place, (low, high) in enumerate(self.stretches):
            n = high - low if place + 1 < len(self.stretches) else end - n_before
            begin, stop = max(first, n_before), min(end, n_before + n)
            if begin < stop:
                pieces.append(cache[:, low + begin - n_before : low + stop - n_before])
            n_before += n
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


@dataclass
class Step:
    """Where the tokens of a step stand in their texts, and their keys in the cache; slots: None = in the order of the tokens."""

    token_ids: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    slots: Int[Tensor, " N"] | None
    spans: list[Span]
    token_types: Int[Tensor, " N"] | None = None
    angles: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def store(self, cache: Float[Tensor, "G S K"], new: Float[Tensor, "N G K"]) -> None:
        if self.slots is None:
            cache[:, : len(new)].copy_(new.transpose(0, 1))
        elif len(self.spans) == 1 and len(self.spans[0].stretches) == 1:  # one run of slots: a copy, and no scattering
            span = self.spans[0]
            first = span.stretches[0][0]
            cache[:, first + span.start : first + span.end].copy_(new.transpose(0, 1))
        else:
            cache.index_copy_(1, self.slots, new.transpose(0, 1).to(cache.dtype))


def empty_slots(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros; on a CPU no memory is taken before it is written (torch's own zeros are written at once).

    In small pages, where the system lets us choose: a text's tokens lie in one place a head, and each would take 2 MB.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or n_bytes == 0:
        return torch.zeros(shape, device=device, dtype=dtype)
    memory = mmap.mmap(-1, n_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class PackedLayer:
    """One block over packed tokens; the block's own layers compute. causal: whether tokens see none behind them."""

    def __init__(self, block: Block, *, causal: bool = True) -> None:
        spec = block.attn.spec
        self._causal = causal
        self.block = block
        self.spec = spec
        self.n_shared = spec.n_heads // spec.n_kv_heads  # queries a key-value head
        self._mlp = self._mlp_of(block)
        self.slopes = alibi_slopes(spec.n_heads) if isinstance(spec.position, AlibiPositions) else None

    @property
    def d_cached(self) -> int:
        """Features a head that the cache has room for."""
        return self.spec.d_head

    @property
    def is_current(self) -> bool:
        """Whether the fused weights still are the network's."""
        return True

    def new_cache(self, n_slots: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Empty slots for keys and values, (G, S, K) each; memory is taken from the machine as they are written."""
        shape = (self.spec.n_kv_heads, n_slots, self.d_cached)
        return empty_slots(shape, device, dtype), empty_slots(shape, device, dtype)

    def __call__(self, x: Float[Tensor, "N D"], step: Step, cache: tuple[Tensor, Tensor]) -> Float[Tensor, "N D"]:
        block = self.block
        x, _ = block.place(x, block.norm1, lambda y: (self._attend(y, step, cache), None))
        x, _ = block.place(x, block.norm2, lambda y: (self._mlp(y), None))
        return x

    def _attend(self, x: Float[Tensor, "N D"], step: Step, cache: tuple[Tensor, Tensor]) -> Float[Tensor, "N D"]:
        attn, d_head = self.block.attn, self.spec.d_head
        q, k, v = (part.unflatten(1, (-1, d_head)) for part in self.project(x))  # (N, heads, K)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if attn.angles_key is not None:
            cos, sin = step.angles[attn.angles_key]  # (N, 1, R)
            q, k = rotate(q, (cos, sin)), rotate(k, (cos, sin))
        keys, values = cache
        step.store(keys[..., :d_head], k)
        step.store(values[..., :d_head], v)
        return attn.o_proj(self.mix(q, step, keys, values))

    def mix(self, q: Float[Tensor, "N H K"], step: Step, keys: Tensor, values: Tensor) -> Float[Tensor, "N HK"]:
        """What the queries of all texts mix of their values."""
        mixed = [self.look(q[span.low : span.high], span, keys, values) for span in step.spans]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def project(self, x: Float[Tensor, "N D"]) -> tuple[Tensor, ...]:
        """Queries, keys and values, the heads side by side."""
        attn = self.block.attn
        return attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)

    def look(self, q: Float[Tensor, "T H K"], span: Span, keys: Tensor, values: Tensor) -> Float[Tensor, "T HK"]:
        """What the queries of one text mix of its values."""
        n, n_shared, window, scale = span.n_queries, self.n_shared, self.spec.window, self.block.attn.scale
        k, v = span.keys(keys, window)[None], span.keys(values, window)[None]
        if self._is_whole(span):
            heads = q.transpose(0, 1)[None]
            mixed = F.scaled_dot_product_attention(heads, k, v, is_causal=self._causal and n > 1, scale=scale, enable_gqa=n_shared > 1)
            return mixed[0].transpose(0, 1).flatten(1)
        rows = q.unflatten(1, (-1, n_shared)).permute(1, 2, 0, 3).flatten(1, 2)[None]  # (1, G, n_shared T, K)
        mixed = F.scaled_dot_product_attention(rows, k, v, attn_mask=self._mask(span, q), scale=scale)
        return mixed[0].unflatten(1, (n_shared, n)).permute(2, 0, 1, 3).flatten(1)

    def _is_whole(self, span: Span) -> bool:
        """Whether a text is read from its first token on with no more to mind than whether it looks both ways."""
        if not self._causal:
            return True
        window = self.spec.window
        plain = self.slopes is None and span.distance is None and (window is None or window >= span.end)
        return plain and span.start == 0 and span.n_queries > 1

    def _mask(self, span: Span, q: Tensor) -> Tensor | None:
        """What is added to the scores, for the rows of `look`; made once a step for all layers alike."""
        window = self.spec.window
        if self.slopes is None and span.distance is None and span.n_queries == 1:
            return None
        key = (window, self.n_shared if self.slopes is None else -self.spec.n_heads)
        if key not in span.masks:
            span.masks[key] = self._new_mask(span, span.first_key(window), q)
        return span.masks[key]

    def _new_mask(self, span: Span, first: int, q: Tensor) -> Float[Tensor, "1 _ T S"]:
        if span.distance is not None:
            return self.mask_of(span.distance[:, first:], q)
        query = torch.arange(span.start, span.end, device=q.device)[:, None]
        return self.mask_of(query - torch.arange(first, span.end, device=q.device), q)

    def mask_of(self, distance: Int[Tensor, "T S"], q: Tensor) -> Float[Tensor, "1 _ R S"]:
        """What is added to the scores of queries that stand so many tokens behind the keys, for the rows of `look`."""
        banned = distance < 0
        if self.spec.window is not None:
            banned = banned | (distance >= self.spec.window)
        if self.slopes is None:
            mask = torch.zeros(distance.shape, dtype=q.dtype, device=q.device).masked_fill_(banned, -torch.inf)
            return mask.repeat(self.n_shared, 1)[None, None]
        bias = -self.slopes.to(q.device)[:, None, None] * distance.float()  # (H, T, S)
        bias = bias.masked_fill_(banned, -torch.inf).to(q.dtype)
        return bias.unflatten(0, (-1, self.n_shared)).flatten(1, 2)[None]

    def _mlp_of(self, block: Block) -> Callable[[Tensor], Tensor]:
        return block.mlp if isinstance(block.mlp, Mlp | GatedMlp) else _Experts(block.mlp)


class FusedLayer(PackedLayer):
    """The same with q, k and v as one product and gate and up as another, whose weights the network's own become views of."""

    def __init__(self, block: Block, *, causal: bool = True) -> None:
        attn, spec = block.attn, block.attn.spec
        self._widths = [spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head, spec.n_kv_heads * spec.d_head]
        self._qkv = attn.q_proj.beside(attn.k_proj, attn.v_proj)
        self._fused: list[tuple[Linear, tuple[Linear, ...]]] = [(self._qkv, (attn.q_proj, attn.k_proj, attn.v_proj))]
        super().__init__(block, causal=causal)

    @property
    def is_current(self) -> bool:
        return all(joined.holds(*parts) for joined, parts in self._fused)

    def project(self, x: Float[Tensor, "N D"]) -> tuple[Tensor, ...]:
        return self._qkv(x).split(self._widths, dim=1)

    def mix(self, q: Float[Tensor, "N H K"], step: Step, keys: Tensor, values: Tensor) -> Float[Tensor, "N HK"]:
        """The same; texts that write one token each take as few operations as they can: these are most of a step's."""
        if self.slopes is not None:
            return super().mix(q, step, keys, values)
        heads, scale, window = (self.spec.n_kv_heads, self.n_shared, self.spec.d_head), self.block.attn.scale, self.spec.window
        singles = q.reshape(-1, 1, *heads).unbind(0)  # a token's queries as rows beside the head that they share
        k, v = keys[None], values[None]
        mixed = []
        for span in step.spans:
            if span.n_queries == 1 and len(span.stretches) == 1:
                low, high = span.stretches[0]
                low += span.first_key(window)
                seen = k.narrow(2, low, high - low), v.narrow(2, low, high - low)
                mixed.append(F.scaled_dot_product_attention(singles[span.low], *seen, scale=scale))
            else:
                mixed.append(self.look(q[span.low : span.high], span, keys, values).view(-1, *heads))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).flatten(1)

    def _mlp_of(self, block: Block) -> Callable[[Tensor], Tensor]:
        mlp = block.mlp
        if not isinstance(mlp, GatedMlp):
            return super()._mlp_of(block)
        gate_up = mlp.gate_proj.beside(mlp.up_proj)
        self._fused.append((gate_up, (mlp.gate_proj, mlp.up_proj)))
        return _GatedMlp(mlp, gate_up)


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

    def __init__(self, experts: nn.Module) -> None:
        self._experts = experts

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        mixed: Tensor = self._experts(x[None])
        return mixed[0]
