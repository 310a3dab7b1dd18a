"""The recurrent networks: language model, encoder, and encoder-decoder with attention, over the same embedding and heads as the others.

The decoder of a source asks with the hidden state h of each step, and answers from h' = tanh(W h + attention(h, memory)); its first
states are tanh(V m), m being the encoder's last state forward and its first backward.
Sources: Luong et al. 2015 eq. 5 (h'); Bahdanau et al. 2015 §A.1.2 (additive score), §A.2.2 (first state), §3.2 (reading both ways).
"""

from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.errors import ShapeError, Unsupported
from touchstone.models.heads import pool
from touchstone.models.net import Body, Inputs, LanguageNet, layers_wanted
from touchstone.models.spec import ModelSpec, RecurrentStack
from touchstone.nn.attention import CrossAttention
from touchstone.nn.cache import RecurrentState, Source
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.linear import build_linear
from touchstone.nn.mask import source_mask
from touchstone.nn.recurrent import RecurrentLayer
from touchstone.nn.shared import Shared

__all__ = ["RecurrentDecoder", "RecurrentEncoder", "RecurrentEncoderDecoder", "RecurrentLayers"]


class RecurrentLayers(nn.Module):
    """The layers of one recurrent stack."""

    def __init__(self, spec: RecurrentStack, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.dropout = Dropout(spec.dropout)
        self.layers = nn.ModuleList(RecurrentLayer(spec.cell, width) for width in spec.cell.widths(d_model))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
        mask: Bool[Tensor, "B T"] | None,
        state: RecurrentState,
        noise: Noise | None,
        want: Collection[str],
    ) -> Body:
        """Hidden states of the last layer; `state` moves on past the tokens that count."""
        keep = layers_wanted(want, "hiddens", len(self.layers) + 1)
        x = self.dropout(x, noise)
        hiddens = {0: x} if 0 in keep else {}
        after: list[list[Tensor]] = []
        for layer, cell in enumerate(self.layers):
            x, new = cell(x, [tensor[layer] for tensor in state.tensors], mask, noise)
            after.append(new)
            if layer + 1 in keep:
                hiddens[layer + 1] = x
        state.tensors = [torch.stack(tensors) for tensors in zip(*after, strict=True)]
        state.lengths = state.lengths + (mask.sum(dim=1) if mask is not None else x.shape[1])
        return Body(x, {}, hiddens)


class AttendingLayers(RecurrentLayers):
    """Layers whose last hidden states ask a source."""

    def __init__(self, spec: RecurrentStack, d_model: int, d_source: int) -> None:
        super().__init__(spec, d_model)
        assert spec.cross is not None
        d_hidden = spec.cell.d_hidden
        self.cross_attn = CrossAttention(spec.cross, d_hidden, d_keys=d_source)
        self.hidden_proj = build_linear(d_hidden, d_hidden, bias=False)

    def look(self, body: Body, source: Source, noise: Noise | None, want: Collection[str]) -> Body:
        """The hidden states with what they found in the source."""
        wanted = bool(layers_wanted(want, "cross_attentions", 1))
        shared = Shared(masks={}, noise=noise, source_mask=source_mask(source.mask))
        mixed, weights = self.cross_attn.look(body.hidden, source.layers[0], shared, weights=wanted)
        hidden = torch.tanh(self.hidden_proj(body.hidden) + mixed)
        return Body(hidden, {}, body.hiddens, {0: weights} if wanted and weights is not None else {})


class RecurrentDecoder(LanguageNet):
    """A recurrent language model. Positions are implicit; packed documents need rows of their own."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.decoder, RecurrentStack)
        self.decoder = self._layers(spec.decoder)

    def _layers(self, stack: RecurrentStack) -> RecurrentLayers:
        return RecurrentLayers(stack, self.spec.d_model)

    def run(self, inputs: Inputs) -> Body:
        _no_source(inputs)
        return self._decode(inputs, self._state(inputs))

    def _decode(self, inputs: Inputs, state: RecurrentState) -> Body:
        body: Body = self.decoder(
            self.embedded(inputs),
            mask=inputs.mask,
            state=state,
            noise=inputs.noise,
            want=_without(inputs.want, "cross_attentions", _ENCODER),
        )
        return body

    def _state(self, inputs: Inputs) -> RecurrentState:
        """The cache given, or an empty state; refuses what a recurrent network has no use for."""
        _check(inputs)
        cache = inputs.cache
        if cache is not None and not isinstance(cache, RecurrentState):
            raise ShapeError(f"This model needs a cache from its own `new_cache`, not a {type(cache).__name__}.")
        return cache if cache is not None else self.new_cache(_n_rows(inputs))

    def new_cache(
        self, batch_size: int, *, kind: Literal["growing", "static"] = "growing", max_seq_len: int | None = None
    ) -> RecurrentState:
        """An empty state; it has one size whatever `kind` and `max_seq_len` say."""
        return _empty_state(self.decoder.spec, batch_size, self.embed.weight)


class RecurrentEncoder(LanguageNet):
    """Reads a text whole, both ways unless its spec says otherwise."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.encoder, RecurrentStack)
        self.encoder = RecurrentLayers(spec.encoder, spec.d_model)

    def run(self, inputs: Inputs) -> Body:
        _no_source(inputs)
        _check(inputs)
        if inputs.cache is not None:
            raise Unsupported("An encoder reads a text whole: leave `cache` out.")
        return _encode(self.encoder, self.embedded(inputs), inputs, inputs.want)


class RecurrentEncoderDecoder(RecurrentDecoder):
    """Predicts the target's tokens from those before them and from a source, which it reads once."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.encoder, RecurrentStack)
        assert isinstance(spec.decoder, RecurrentStack)
        cell = spec.decoder.cell
        self.encoder = RecurrentLayers(spec.encoder, spec.d_model)
        self.bridge = build_linear(spec.encoder.d_out, cell.n_states * cell.n_layers * cell.d_hidden, bias=True)

    def _layers(self, stack: RecurrentStack) -> RecurrentLayers:
        assert self.spec.encoder is not None
        assert isinstance(self.spec.encoder, RecurrentStack)
        return AttendingLayers(stack, self.spec.d_model, self.spec.encoder.d_out)

    def run(self, inputs: Inputs) -> Body:
        layers, state = self.decoder, self._state(inputs)
        assert isinstance(layers, AttendingLayers)
        encoded: Body | None = None
        if state.source is None:
            encoded = self.read_source(inputs.source_ids, inputs.source_mask, inputs) if inputs.source_ids is not None else None
            memory = encoded.hidden if encoded is not None and inputs.memory is None else inputs.memory
            if memory is None or (encoded is not None and inputs.memory is not None):
                raise ShapeError("An encoder-decoder needs a source: give `source_ids`, or `memory` in their place.")
            state.source = Source((layers.cross_attn.keys_values(memory),), inputs.source_mask)
            state.tensors = self._first_states(memory, inputs.source_mask)
        else:
            _no_source(inputs, "This cache holds its source already: give `source_ids` and `memory` the first time only.")
        body = layers.look(self._decode(inputs, state), state.source, inputs.noise, _without(inputs.want, "hiddens", _ENCODER))
        return Body(body.hidden, {}, body.hiddens, body.cross_attentions, encoder=encoded)

    def read_source(self, source_ids: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"] | None, inputs: Inputs | None = None) -> Body:
        of_source = Inputs(source_ids, mask=source_mask, noise=inputs.noise if inputs else None)
        wanted = [name.removeprefix(_ENCODER) for name in (inputs.want if inputs else ()) if name.startswith(_ENCODER)]
        return _encode(self.encoder, self.embedded(of_source), of_source, wanted)

    def _first_states(self, memory: Float[Tensor, "B S W"], mask: Bool[Tensor, "B S"] | None) -> list[Float[Tensor, "N B H"]]:
        cell, width = self.decoder.spec.cell, self.encoder.spec.cell.d_hidden
        ends = [pool(memory[..., :width], mask, "last"), pool(memory[..., width:], mask, "first")][: memory.shape[-1] // width]
        states = torch.tanh(self.bridge(torch.cat(ends, dim=-1)))  # (B, n_states N H)
        return list(states.view(len(states), cell.n_states, cell.n_layers, cell.d_hidden).permute(1, 2, 0, 3).contiguous())


_ENCODER = "encoder."  # before the names in `want` that mean the encoder's


def _encode(layers: RecurrentLayers, x: Float[Tensor, "B T D"], inputs: Inputs, want: Collection[str]) -> Body:
    body: Body = layers(x, mask=inputs.mask, state=_empty_state(layers.spec, len(x), x), noise=inputs.noise, want=want)
    return body


def _empty_state(stack: RecurrentStack, batch_size: int, like: Tensor) -> RecurrentState:
    zeros = like.new_zeros(stack.cell.n_layers, batch_size, stack.cell.d_out)
    lengths = torch.zeros(batch_size, dtype=torch.long, device=like.device)
    return RecurrentState([zeros.clone() for _ in range(stack.cell.n_states)], lengths)


def _n_rows(inputs: Inputs) -> int:
    given = inputs.embeddings if inputs.embeddings is not None else inputs.token_ids
    if given is None:
        raise ShapeError("Give `token_ids`, or `embeddings` in their place.")
    return len(given)


def _check(inputs: Inputs) -> None:
    if inputs.positions is not None or inputs.segments is not None:
        raise Unsupported("A recurrent model reads tokens in order: it takes no `positions` and no `segments`.")
    if any(name.startswith(("attentions", f"{_ENCODER}attentions")) for name in inputs.want):
        raise Unsupported("A recurrent network has no attention weights of its own tokens to return.")


def _no_source(inputs: Inputs, why: str = "This model has one side: leave `source_ids`, `source_mask` and `memory` out.") -> None:
    if inputs.source_ids is not None or inputs.memory is not None or inputs.source_mask is not None:
        raise ShapeError(why)


def _without(want: Collection[str], *beginnings: str) -> list[str]:
    return [name for name in want if not name.startswith(beginnings)]
