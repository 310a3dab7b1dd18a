"""One side of a transformer: positions, input norm, blocks, final norm, and what its layers share in a forward pass."""

from collections.abc import Collection
from typing import TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.errors import Unsupported
from touchstone.models.net import Body, layers_wanted
from touchstone.models.spec import Stack
from touchstone.nn.attention import AttentionSpec, KernelName, bias_key
from touchstone.nn.block import CrossBlock, build_block
from touchstone.nn.cache import AttentionState, Placement, Source
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.experts import ExpertsSpec, balance_loss, router_z_loss
from touchstone.nn.mask import AttentionMask, attention_mask, source_mask, token_order, token_positions
from touchstone.nn.norm import build_norm
from touchstone.nn.position import (
    AlibiPositions,
    RelativeBias,
    RelativePositions,
    RotaryAngles,
    RotaryPositions,
    alibi_slopes,
    angles_key,
    build_table,
)
from touchstone.nn.shared import Route, Shared

__all__ = ["AttentionStack"]


class AttentionStack(nn.Module):
    """The blocks of an encoder or a decoder with everything around them."""

    def __init__(self, spec: Stack, d_model: int, kernel: KernelName) -> None:
        super().__init__()
        self.spec = spec
        self.positions = build_table(spec.position, d_model) if spec.position else None
        self.input_norm = build_norm(spec.input_norm, d_model) if spec.input_norm else nn.Identity()
        self.dropout = Dropout(spec.dropout)
        self.layers = nn.ModuleList(build_block(block, d_model, kernel) for block in spec.blocks)
        self.final_norm = build_norm(spec.final_norm, d_model) if spec.final_norm else nn.Identity()
        self.final_dropout = Dropout(spec.final_dropout)
        attentions = [block.attn for block in spec.blocks]
        self.windows = tuple(dict.fromkeys(attn.window for attn in attentions))
        turning = {angles_key(a.position, a.d_head): RotaryAngles(a.position, a.d_head) for a in attentions if _turns(a.position)}
        self.angles_keys, self.rotaries = tuple(turning), nn.ModuleList(turning.values())
        self.biased = {key: attn for attn in attentions if (key := bias_key(attn)) is not None}
        self.relative_keys = tuple(spec.relative_tables())
        self.relative_bias = nn.ModuleList(RelativeBias(*key) for key in self.relative_keys)
        experts = [block.mlp for block in spec.blocks if isinstance(block.mlp, ExpertsSpec)]
        self.balance_weight = max((mlp.balance_weight for mlp in experts), default=0.0)
        self.z_weight = max((mlp.z_weight for mlp in experts), default=0.0)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
        positions: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T"] | None,
        segments: Int[Tensor, "B T"] | None,
        state: AttentionState | None,
        noise: Noise | None,
        want: Collection[str],
        source: Source | None = None,
    ) -> Body:
        """Hidden states after the final norm."""
        order = self._order(x, mask, state)
        place = state.begin(order) if state is not None else None
        below = x.shape[1] if positions is None and state is None else None
        if positions is None:
            positions = token_positions(order, segments)
        elif self.biased or not (self.angles_keys or self.positions):
            raise Unsupported("This model counts distances along the tokens, or nothing: it takes no `positions`.")
        if self.positions is not None:
            x = x + self.positions(positions, below)
        x = self.dropout(self.input_norm(x), noise)
        shared = self._shared(x, positions, order, mask, segments, place, noise, source)
        body = self._run(x, shared, state, source, want)
        if state is not None:
            assert place is not None
            state.commit(order, place)
        return body

    def source(self, memory: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"] | None) -> Source:
        """The keys and values that every layer makes of the encoder's hidden states."""
        return Source(tuple(block.cross_attn.keys_values(memory) for block in self.layers if isinstance(block, CrossBlock)), mask)

    def _run(self, x: Tensor, shared: Shared, state: AttentionState | None, source: Source | None, want: Collection[str]) -> Body:
        n = len(self.layers)
        look, keep = layers_wanted(want, "attentions", n), layers_wanted(want, "hiddens", n + 1)
        look_across = layers_wanted(want, "cross_attentions", n)
        attentions: dict[int, Tensor] = {}
        cross_attentions: dict[int, Tensor] = {}
        hiddens: dict[int, Tensor] = {0: x} if 0 in keep else {}
        for layer, block in enumerate(self.layers):
            cache = state.layers[layer] if state is not None else None
            offered = source.layers[layer] if source is not None else None
            x, weights, cross = block(x, shared, cache, offered, weights=layer in look, cross_weights=layer in look_across)
            if weights is not None and layer in look:
                attentions[layer] = weights
            if cross is not None and layer in look_across:
                cross_attentions[layer] = cross
            if layer + 1 in keep:
                hiddens[layer + 1] = x
        hidden = self.final_dropout(self.final_norm(x), shared.noise)
        return Body(hidden, attentions, hiddens, cross_attentions, self._aux(shared.routes, shared.counts))

    def _aux(self, routes: list[Route], counts: Tensor | None) -> dict[str, Tensor]:
        losses = {"balance": (self.balance_weight, balance_loss), "router_z": (self.z_weight, router_z_loss)}
        return {name: weight * loss(routes, counts) for name, (weight, loss) in losses.items() if weight and routes}

    def _order(self, x: Tensor, mask: Tensor | None, state: AttentionState | None) -> Int[Tensor, "b T"]:
        """Of one row (b = 1) where all rows have the same, so that what is made of it is made once."""
        if mask is not None:
            return token_order(mask, state.lengths if state is not None else None)
        order = torch.arange(x.shape[1], device=x.device)[None]
        return order + state.lengths[:, None] if state is not None else order

    def _shared(
        self,
        x: Tensor,
        positions: Tensor,
        order: Tensor,
        mask: Tensor | None,
        segments: Tensor | None,
        place: Placement | None,
        noise: Noise | None,
        source: Source | None,
    ) -> Shared:
        key_order = place.key_order if place is not None else order
        n_keys = key_order.shape[1]
        plain = mask is None and segments is None and place is None

        def mask_of(window: int | None) -> AttentionMask:
            if plain and (window is None or window >= n_keys):
                return AttentionMask(None, is_causal=self.spec.causal)
            return attention_mask(order, key_order, causal=self.spec.causal, window=window, query_segments=segments, key_segments=segments)

        masks = {window: mask_of(window) for window in self.windows}
        return Shared(
            masks=masks,
            angles={key: rotary(positions, x.dtype) for key, rotary in zip(self.angles_keys, self.rotaries, strict=True)},
            biases={key: self._bias(attn, order, key_order, masks, x) for key, attn in self.biased.items()},
            place=place,
            noise=noise,
            source_mask=source_mask(source.mask) if source is not None else None,
            counts=mask,
        )

    def _bias(
        self, attn: AttentionSpec, order: Tensor, key_order: Tensor, masks: dict[int | None, AttentionMask], x: Tensor
    ) -> Float[Tensor, "b H T S"]:
        """What is added to the scores, -inf where a query may not look."""
        if isinstance(attn.position, AlibiPositions):
            distance = (order[:, :, None] - key_order[:, None, :]).abs().float()
            bias = -alibi_slopes(attn.n_heads).to(x.device)[None, :, None, None] * distance[:, None]
        else:
            assert isinstance(attn.position, RelativePositions)
            bias = self.relative_bias[self.relative_keys.index((attn.position, attn.n_heads))](order, key_order)
        allowed = masks[attn.window].dense(x.shape[1], key_order.shape[1], x.device)
        return bias.masked_fill(~allowed, -torch.inf).to(x.dtype)


def _turns(position: object) -> TypeGuard[RotaryPositions]:
    return isinstance(position, RotaryPositions)
