"""The layers of one side of a network over packed tokens: the tokens of many texts in one matrix, without padding.

What it computes is what the network computes, up to rounding; the network itself stays the oracle.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from touchstone.infer.packed_layer import PackedLayer, Span, Step
from touchstone.models.net import LanguageNet
from touchstone.models.stack import AttentionStack
from touchstone.models.transformer import Decoder
from touchstone.nn.block import Block
from touchstone.nn.position import AlibiPositions, RelativePositions

__all__ = ["Caches", "PackedBody", "cached_bytes_per_token", "can_pack", "can_pack_stack", "packed_rows"]

Caches = Sequence[tuple[Tensor, Tensor]]
"""Slots for keys and values, (G, S, K) each, one pair a layer."""


def can_pack(net: LanguageNet) -> bool:
    """Whether a network can decode packed: a decoder alone whose layers can."""
    return type(net) is Decoder and can_pack_stack(net.decoder)


def can_pack_stack(stack: AttentionStack) -> bool:
    """Whether one side of a network can run packed: it reads itself alone, scores by products and counts no relative distances.

    What looks both ways has no window and no slopes either.
    """
    attentions = [block.attn for block in stack.spec.blocks]
    one_way = all(attn.score == "scaled_dot" and not isinstance(attn.position, RelativePositions) for attn in attentions)
    plain = all(attn.window is None and not isinstance(attn.position, AlibiPositions) for attn in attentions)
    return one_way and (stack.spec.causal or plain) and len(_blocks(stack)) == len(stack.layers)


def cached_bytes_per_token(net: LanguageNet) -> int:
    """What keys and values of one token take in all layers."""
    assert isinstance(net, Decoder)
    width = sum(2 * block.attn.spec.n_kv_heads * block.attn.spec.d_head for block in _blocks(net.decoder))
    return width * _cache_type(net).itemsize


class PackedBody:
    """One side of a network from token ids to hidden states. The network's weights are used where they are."""

    def __init__(self, net: LanguageNet, stack: AttentionStack, layer_type: type[PackedLayer] = PackedLayer) -> None:
        self.net = net
        self.stack = stack
        self._layer_type = layer_type
        self._layers = self._packed_layers()

    def renew(self) -> None:
        """Take the network's weights as they are now, if others were put in their place."""
        if not all(layer.is_current for layer in self._layers):
            self._layers = self._packed_layers()

    def new_caches(self, n_slots: int) -> Caches:
        """Room for the keys and values of so many tokens."""
        return [layer.new_cache(n_slots, self.net.embed.weight.device, _cache_type(self.net)) for layer in self._layers]

    def passing_caches(self, n_slots: int) -> Caches:
        """The same where no later step needs what a layer keeps: layers of one shape share theirs."""
        kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for layer in self._layers:
            shape = (layer.spec.n_kv_heads, layer.d_cached)
            if shape not in kept:
                kept[shape] = layer.new_cache(n_slots, self.net.embed.weight.device, _cache_type(self.net))
        return [kept[layer.spec.n_kv_heads, layer.d_cached] for layer in self._layers]

    @torch.inference_mode()
    def hidden(self, step: Step, caches: Caches) -> Float[Tensor, "N D"]:
        """What the last layer makes of the step's tokens, before the final norm."""
        stack = self.stack
        x = self.net.embed(step.token_ids)
        if self.net.embed.token_types is not None:
            x = self.net.embed.add_types(x, step.token_types)
        if stack.positions is not None:
            table = stack.positions
            x = x + F.embedding(step.positions + table.offset if table.offset else step.positions, table.weight)
        x = stack.input_norm(x)
        angles = zip(stack.angles_keys, stack.rotaries, strict=True)
        step.angles = {key: tuple(a[0].transpose(0, 1) for a in rotary(step.positions[None], x.dtype)) for key, rotary in angles}
        for layer, cache in zip(self._layers, caches, strict=True):
            x = layer(x, step, cache)
        return x

    def final_norm(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """What the head reads."""
        normed: Tensor = self.stack.final_norm(hidden)
        return normed

    def _packed_layers(self) -> list[PackedLayer]:
        with torch.inference_mode(False):  # fused weights are the network's own, which may be trained later
            return [self._layer_type(block, causal=self.stack.spec.causal) for block in _blocks(self.stack)]


def packed_rows(rows: Sequence[Sequence[int]], device: torch.device, token_types: Sequence[Sequence[int]] | None = None) -> Step:
    """Whole texts side by side, each read from its first token on."""
    ends = list(accumulate(map(len, rows)))
    spans = [Span(end - len(row), end, 0, len(row), [(end - len(row), end)]) for row, end in zip(rows, ends, strict=True)]

    def packed(values: Iterable[Iterable[int]]) -> Tensor:
        return torch.tensor(list(chain.from_iterable(values)), dtype=torch.long, device=device)

    types = packed(token_types) if token_types is not None else None
    return Step(packed(rows), packed(range(len(row)) for row in rows), None, spans, types)


def _blocks(stack: AttentionStack) -> list[Block]:
    return [block for block in stack.layers if type(block) is Block]


def _cache_type(net: LanguageNet) -> torch.dtype:
    return net.embed.weight.dtype
