"""The transformers: decoder, encoder, and encoder-decoder, each a stack or two of attention blocks over one token table.

A decoding step of an encoder-decoder looks like that of a decoder: the source is read once, and its keys and values stay in the cache.
Source: Vaswani et al. 2017.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from touchstone.errors import ShapeError, Unsupported
from touchstone.models.net import Body, Inputs, LanguageNet
from touchstone.models.spec import ModelSpec, Stack
from touchstone.models.stack import AttentionStack
from touchstone.nn.attention import KernelName
from touchstone.nn.block import Block
from touchstone.nn.cache import AttentionState, GrowingLayer, GrowingState, Source, StaticLayer, StaticState

__all__ = ["AttentionStack", "Decoder", "Encoder", "EncoderDecoder", "KernelName"]


class Decoder(LanguageNet):
    """Looks back only: tokens are predicted from those before them."""

    def __init__(self, spec: ModelSpec, kernel: KernelName = "sdpa") -> None:
        super().__init__(spec)
        assert isinstance(spec.decoder, Stack)
        self.decoder = AttentionStack(spec.decoder, spec.d_model, kernel)

    def run(self, inputs: Inputs) -> Body:
        _no_source(inputs)
        return self._decode(inputs, None)

    def _decode(self, inputs: Inputs, source: Source | None) -> Body:
        return self.decoder(
            self.embedded(inputs),
            positions=inputs.positions,
            mask=inputs.mask,
            segments=inputs.segments,
            state=_attention_state(inputs),
            noise=inputs.noise,
            want=[name for name in inputs.want if not name.startswith(_ENCODER)],
            source=source,
        )

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


class Encoder(LanguageNet):
    """Looks both ways: every token is read in the light of all others."""

    def __init__(self, spec: ModelSpec, kernel: KernelName = "sdpa") -> None:
        super().__init__(spec)
        assert isinstance(spec.encoder, Stack)
        self.encoder = AttentionStack(spec.encoder, spec.d_model, kernel)

    def run(self, inputs: Inputs) -> Body:
        _no_source(inputs)
        if inputs.cache is not None:
            raise Unsupported("An encoder reads a text whole: leave `cache` out.")
        return _encode(self.encoder, self.embedded(inputs), inputs, list(inputs.want))


class EncoderDecoder(Decoder):
    """Predicts the target's tokens from those before them and from a source, which it reads once."""

    def __init__(self, spec: ModelSpec, kernel: KernelName = "sdpa") -> None:
        super().__init__(spec, kernel)
        assert isinstance(spec.encoder, Stack)
        self.encoder = AttentionStack(spec.encoder, spec.d_model, kernel)

    def run(self, inputs: Inputs) -> Body:
        state = _attention_state(inputs)
        if state is not None and state.source is not None:
            _no_source(inputs, "This cache holds its source already: give `source_ids` and `memory` the first time only.")
            return self._decode(inputs, state.source)
        encoded = self.encode(inputs)
        memory = encoded.hidden if encoded is not None else inputs.memory
        assert memory is not None
        source = self.decoder.source(memory, inputs.source_mask)
        if state is not None:
            state.source = source
        body = self._decode(inputs, source)
        return Body(body.hidden, body.attentions, body.hiddens, body.cross_attentions, _added(body.aux, encoded), encoded)

    def read_source(self, source_ids: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"] | None) -> Body:
        """The encoder's side alone."""
        encoded = self.encode(Inputs(None, source_ids=source_ids, source_mask=source_mask))
        assert encoded is not None
        return encoded

    def encode(self, inputs: Inputs) -> Body | None:
        """What the encoder makes of the source; None where its `memory` is given. Raises ShapeError for neither or both."""
        if (inputs.source_ids is None) == (inputs.memory is None):
            raise ShapeError("An encoder-decoder needs a source: give `source_ids`, or `memory` in their place.")
        given = inputs.source_ids if inputs.source_ids is not None else inputs.memory
        assert given is not None
        if inputs.source_mask is not None and inputs.source_mask.shape != given.shape[:2]:
            raise ShapeError(
                f"`source_mask` is {tuple(inputs.source_mask.shape)}, and the source has {tuple(given.shape[:2])} rows, tokens."
            )
        if inputs.source_ids is None:
            return None
        of_source = Inputs(inputs.source_ids, mask=inputs.source_mask, noise=inputs.noise)
        wanted = [name.removeprefix(_ENCODER) for name in inputs.want if name.startswith(_ENCODER)]
        return _encode(self.encoder, self.embedded(of_source), of_source, wanted)


_ENCODER = "encoder."  # before the names in `want` that mean the encoder's


def _encode(stack: AttentionStack, x: Float[Tensor, "B T D"], inputs: Inputs, want: list[str]) -> Body:
    body: Body = stack(
        x,
        positions=inputs.positions,
        mask=inputs.mask,
        segments=inputs.segments,
        state=None,
        noise=inputs.noise,
        want=want,
    )
    return body


def _attention_state(inputs: Inputs) -> AttentionState | None:
    cache = inputs.cache
    if cache is not None and not isinstance(cache, AttentionState):
        raise ShapeError(f"This model needs a cache from its own `new_cache`, not a {type(cache).__name__}.")
    if cache is not None and inputs.segments is not None:
        raise Unsupported("`segments` with a cache: packed documents are a training layout; give each document its own row.")
    return cache


def _no_source(inputs: Inputs, why: str = "This model has one side: leave `source_ids`, `source_mask` and `memory` out.") -> None:
    if inputs.source_ids is not None or inputs.memory is not None or inputs.source_mask is not None:
        raise ShapeError(why)


def _added(aux: dict[str, Tensor], encoded: Body | None) -> dict[str, Tensor]:
    """The losses of both sides, added by name."""
    other = encoded.aux if encoded is not None else {}
    return {**other, **{name: loss + other[name] if name in other else loss for name, loss in aux.items()}}
