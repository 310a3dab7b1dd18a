"""LSTM and GRU layers over rows of any lengths: tokens that do not count leave the state as it was.

Sources: Hochreiter & Schmidhuber 1997 (LSTM); Cho et al. 2014 (GRU). The cell equations and gate order are torch.nn.LSTM's and GRU's.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from touchstone.config import Config
from touchstone.nn.dropout import Dropout, Noise

__all__ = ["RecurrentLayer", "RecurrentSpec"]


class RecurrentSpec(Config):
    """Identical recurrent layers, one above the other."""

    kind: Literal["lstm", "gru"] = "lstm"
    n_layers: int = Field(1, gt=0)
    d_hidden: int = Field(gt=0)
    both_ways: bool = False  # a second cell reads from the end; their outputs stand side by side
    dropout: float = Field(0.0, ge=0, lt=1)  # on the output of each layer

    @property
    def n_gates(self) -> int:
        return 4 if self.kind == "lstm" else 3

    @property
    def n_states(self) -> int:
        """Tensors a layer carries: hidden and cell for the LSTM, hidden for the GRU."""
        return 2 if self.kind == "lstm" else 1

    @property
    def d_out(self) -> int:
        """Width of the output and of each state: twice d_hidden if read both ways."""
        return self.d_hidden * (2 if self.both_ways else 1)

    def widths(self, d_in: int) -> list[int]:
        """What each layer reads."""
        return [d_in] + [self.d_out] * (self.n_layers - 1)

    def product_weights(self, d_in: int) -> int:
        """Weights that every token is multiplied by."""
        ways = 2 if self.both_ways else 1
        return ways * sum(self.n_gates * self.d_hidden * (width + self.d_hidden) for width in self.widths(d_in))

    def n_parameters(self, d_in: int) -> int:
        biases = 2 * self.n_gates * self.d_hidden * self.n_layers * (2 if self.both_ways else 1)
        return self.product_weights(d_in) + biases


class RecurrentLayer(nn.Module):
    """One LSTM or GRU layer with its dropout; parameters are those of torch's module, under `cell`."""

    def __init__(self, spec: RecurrentSpec, d_in: int) -> None:
        super().__init__()
        kind = nn.LSTM if spec.kind == "lstm" else nn.GRU
        self.cell = kind(d_in, spec.d_hidden, batch_first=True, bidirectional=spec.both_ways)
        self.dropout = Dropout(spec.dropout)

    def forward(
        self, x: Float[Tensor, "B T W"], state: list[Float[Tensor, "B H"]], mask: Bool[Tensor, "B T"] | None, noise: Noise | None
    ) -> tuple[Float[Tensor, "B T H"], list[Float[Tensor, "B H"]]]:
        """The output at every token (zero where it does not count) and the state after the last that counts.

        Read both ways, outputs and states of the two ways stand side by side; the backward state is the one at the first token.
        """
        hidden = tuple(s.view(len(s), -1, self.cell.hidden_size).transpose(0, 1).contiguous() for s in state)  # (1 or 2, B, H)
        if mask is None:
            out, after = self.cell(x, hidden if len(hidden) == 2 else hidden[0])
        else:
            out, after = self._ragged(x, hidden, mask)
        states = after if isinstance(after, tuple) else (after,)
        return self.dropout(out, noise), [s.transpose(0, 1).flatten(1) for s in states]

    def _ragged(self, x: Tensor, hidden: tuple[Tensor, ...], mask: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | Tensor]:
        lengths = mask.sum(dim=1)
        if not bool((lengths > 0).all()):
            return self._with_empty_rows(x, hidden, mask, lengths > 0)
        front = torch.argsort(~mask, dim=1, stable=True)  # counting tokens first, in order
        compact = torch.gather(x, 1, front[:, :, None].expand_as(x))
        packed = pack_padded_sequence(compact, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, after = self.cell(packed, hidden if len(hidden) == 2 else hidden[0])
        padded, _ = pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
        back = torch.argsort(front, dim=1)
        return torch.gather(padded, 1, back[:, :, None].expand_as(padded)), after

    def _with_empty_rows(self, x: Tensor, hidden: tuple[Tensor, ...], mask: Tensor, full: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Packing refuses rows in which nothing counts: they keep their state and give zeros."""
        out = x.new_zeros(*x.shape[:2], hidden[0].shape[0] * hidden[0].shape[-1])
        after = [state.clone() for state in hidden]
        if bool(full.any()):
            some, states = self._ragged(x[full], tuple(state[:, full].contiguous() for state in hidden), mask[full])
            out[full] = some
            for state, new in zip(after, states if isinstance(states, tuple) else (states,), strict=True):
                state[:, full] = new
        return out, tuple(after)
