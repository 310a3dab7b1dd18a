"""The decoder: a stack of attention blocks over embeddings, run whole or step by step with a cache."""

from collections.abc import Collection
from typing import Literal, TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.errors import ShapeError, Unsupported
from touchstone.models.net import Body, LanguageNet, check_rows, layers_wanted
from touchstone.models.spec import ModelSpec, Stack
from touchstone.nn.attention import Shared
from touchstone.nn.block import Block, build_block
from touchstone.nn.cache import AttentionState, DecodingState, GrowingLayer, GrowingState, Placement, StaticLayer, StaticState
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.mask import AttentionMask, attention_mask, token_order, token_positions
from touchstone.nn.norm import build_norm
from touchstone.nn.position import AlibiPositions, RotaryAngles, RotaryPositions, alibi_slopes, angles_key, build_table

__all__ = ["AttentionStack", "Decoder", "KernelName"]

KernelName = Literal["reference", "sdpa"]


class AttentionStack(nn.Module):
    """Positions, input norm, blocks and final norm of one side of a model."""

    def __init__(self, spec: Stack, d_model: int, kernel: KernelName) -> None:
        super().__init__()
        self.spec = spec
        self.positions = build_table(spec.position, d_model) if spec.position else None
        self.input_norm = build_norm(spec.input_norm, d_model) if spec.input_norm else nn.Identity()
        self.dropout = Dropout(spec.dropout)
        self.layers = nn.ModuleList(build_block(block, d_model, kernel) for block in spec.blocks)
        self.final_norm = build_norm(spec.final_norm, d_model) if spec.final_norm else nn.Identity()
        attentions = [block.attn for block in spec.blocks]
        self.windows = tuple(dict.fromkeys(attn.window for attn in attentions))
        turning = {angles_key(a.position, a.d_head): RotaryAngles(a.position, a.d_head) for a in attentions if _turns(a.position)}
        self.angles_keys, self.rotaries = tuple(turning), nn.ModuleList(turning.values())
        self.bias_keys = tuple(dict.fromkeys((a.n_heads, a.window) for a in attentions if isinstance(a.position, AlibiPositions)))

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
    ) -> Body:
        """Hidden states after the final norm."""
        order = self._order(x, mask, state)
        place = state.begin(order) if state is not None else None
        below = x.shape[1] if positions is None and state is None else None
        if positions is None:
            positions = token_positions(order, segments)
        elif self.bias_keys or not (self.angles_keys or self.positions):
            raise Unsupported("This model counts distances along the tokens, or nothing: it takes no `positions`.")
        if self.positions is not None:
            x = x + self.positions(positions, below)
        x = self.dropout(self.input_norm(x), noise)
        shared = self._shared(x, positions, order, mask, segments, place, noise)
        body = self._run(x, shared, state, want)
        if state is not None:
            assert place is not None
            state.commit(order, place)
        return body

    def _run(self, x: Tensor, shared: Shared, state: AttentionState | None, want: Collection[str]) -> Body:
        look, keep = layers_wanted(want, "attentions", len(self.layers)), layers_wanted(want, "hiddens", len(self.layers) + 1)
        attentions: dict[int, Tensor] = {}
        hiddens: dict[int, Tensor] = {0: x} if 0 in keep else {}
        for layer, block in enumerate(self.layers):
            x, weights = block(x, shared, state.layers[layer] if state is not None else None, weights=layer in look)
            if weights is not None and layer in look:
                attentions[layer] = weights
            if layer + 1 in keep:
                hiddens[layer + 1] = x
        return Body(self.final_norm(x), attentions, hiddens)

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
    ) -> Shared:
        key_order = place.key_order if place is not None else order
        n_keys = key_order.shape[1]
        plain = mask is None and segments is None and place is None

        def mask_of(window: int | None) -> AttentionMask:
            if plain and (window is None or window >= n_keys):
                return AttentionMask(None, is_causal=self.spec.causal)
            return attention_mask(order, key_order, causal=self.spec.causal, window=window, query_segments=segments, key_segments=segments)

        def bias_of(n_heads: int, window: int | None) -> Float[Tensor, "b H T S"]:
            distance = (order[:, :, None] - key_order[:, None, :]).abs().float()
            bias = -alibi_slopes(n_heads).to(x.device)[None, :, None, None] * distance[:, None]
            allowed = masks[window].dense(x.shape[1], n_keys, x.device)
            return bias.masked_fill(~allowed, -torch.inf).to(x.dtype)

        masks = {window: mask_of(window) for window in self.windows}
        return Shared(
            masks=masks,
            angles={key: rotary(positions, x.dtype) for key, rotary in zip(self.angles_keys, self.rotaries, strict=True)},
            biases={key: bias_of(*key) for key in self.bias_keys},
            place=place,
            noise=noise,
        )


class Decoder(LanguageNet):
    """A decoder-only language model."""

    def __init__(self, spec: ModelSpec, kernel: KernelName = "sdpa") -> None:
        super().__init__(spec)
        assert isinstance(spec.decoder, Stack)
        self.decoder = AttentionStack(spec.decoder, spec.d_model, kernel)

    def body(
        self,
        token_ids: Int[Tensor, "B T"] | None,
        *,
        positions: Int[Tensor, "B T"] | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        embeddings: Float[Tensor, "B T D"] | None = None,
        cache: DecodingState | None = None,
        noise: Noise | None = None,
        want: Collection[str] = (),
    ) -> Body:
        if cache is not None and not isinstance(cache, AttentionState):
            raise ShapeError(f"This model needs a cache from its own `new_cache`, not a {type(cache).__name__}.")
        if cache is not None and segments is not None:
            raise Unsupported("`segments` with a cache: packed documents are a training layout; give each document its own row.")
        x = self.embedded(token_ids, embeddings)
        check_rows(x, positions, mask, segments, cache)
        return self.decoder(x, positions=positions, mask=mask, segments=segments, state=cache, noise=noise, want=want)

    def new_cache(
        self, batch_size: int, *, kind: Literal["growing", "static"] = "growing", max_seq_len: int | None = None
    ) -> AttentionState:
        weight = self.embed.weight
        lengths = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        if kind == "growing":
            return GrowingState([GrowingLayer(*self._empty_slots(batch_size, 0, block)) for block in self._blocks()], lengths)
        capacity = max_seq_len if max_seq_len is not None else self.spec.max_seq_len
        if capacity is None:
            raise ShapeError("A static cache of a model without a bound on its length needs `max_seq_len`.")
        return StaticState([StaticLayer(*self._empty_slots(batch_size, capacity + 1, block)) for block in self._blocks()], lengths)

    def _blocks(self) -> list[Block]:
        return [block for block in self.decoder.layers if isinstance(block, Block)]

    def _empty_slots(self, batch_size: int, n_slots: int, block: Block) -> tuple[Tensor, Tensor]:
        shape = (batch_size, block.attn.spec.n_kv_heads, n_slots, block.attn.spec.d_head)
        return self.embed.weight.new_zeros(shape), self.embed.weight.new_zeros(shape)


def _turns(position: RotaryPositions | AlibiPositions | None) -> TypeGuard[RotaryPositions]:
    return isinstance(position, RotaryPositions)
