"""The recurrent language model: LSTM or GRU layers between the same embedding and head as the decoder's."""

from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.errors import ShapeError, Unsupported
from touchstone.models.net import Body, LanguageNet, check_rows, layers_wanted
from touchstone.models.spec import ModelSpec, RecurrentStack
from touchstone.nn.cache import DecodingState, RecurrentState
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.recurrent import RecurrentLayer

__all__ = ["RecurrentDecoder", "RecurrentLayers"]


class RecurrentLayers(nn.Module):
    """The layers of one recurrent stack."""

    def __init__(self, spec: RecurrentStack, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.dropout = Dropout(spec.dropout)
        widths = [d_model] + [spec.cell.d_hidden] * (spec.cell.n_layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(spec.cell, width) for width in widths)

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


class RecurrentDecoder(LanguageNet):
    """A recurrent language model. Positions are implicit; packed documents need rows of their own."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.decoder, RecurrentStack)
        self.decoder = RecurrentLayers(spec.decoder, spec.d_model)

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
        if positions is not None or segments is not None:
            raise Unsupported("A recurrent model reads tokens in order: it takes no `positions` and no `segments`.")
        if any(name.startswith("attentions") for name in want):
            raise Unsupported("A recurrent language model has no attention weights to return.")
        if cache is not None and not isinstance(cache, RecurrentState):
            raise ShapeError(f"This model needs a cache from its own `new_cache`, not a {type(cache).__name__}.")
        x = self.embedded(token_ids, embeddings)
        check_rows(x, None, mask, None, cache)
        state = cache if cache is not None else self.new_cache(x.shape[0])
        return self.decoder(x, mask=mask, state=state, noise=noise, want=want)

    def new_cache(
        self, batch_size: int, *, kind: Literal["growing", "static"] = "growing", max_seq_len: int | None = None
    ) -> RecurrentState:
        """An empty state; it has one size whatever `kind` and `max_seq_len` say."""
        cell = self.decoder.spec.cell
        zeros = self.embed.weight.new_zeros(cell.n_layers, batch_size, cell.d_hidden)
        lengths = torch.zeros(batch_size, dtype=torch.long, device=zeros.device)
        return RecurrentState([zeros.clone() for _ in range(cell.n_states)], lengths)
