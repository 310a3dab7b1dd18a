"""State while decoding: the keys and values (or recurrent states) of the tokens seen so far, passed in and never kept on a module.

A `DecodingState` holds one `LayerCache` a layer. A forward pass calls `begin(order)` once, which decides where the new tokens go
and which slots may be seen, then each layer appends, then `commit` makes the new lengths known.
Growing: slots are the tokens as they came, padding included, the tensor grows by concatenation; simple, and the reference.
Static: slots are allocated once; a row's tokens are stored without gaps, so rows may have any lengths; nothing is allocated a step.
Recurrent: one state a row; it cannot be trimmed.
A decoder that looks at a source keeps that beside its own tokens: keys and values made once, a `Source`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from touchstone.errors import ShapeError, Unsupported
from touchstone.nn.mask import NO_ORDER

__all__ = ["AttentionState", "DecodingState", "GrowingState", "LayerCache", "Placement", "RecurrentState", "Source", "StaticState"]


@dataclass(frozen=True)
class Placement:
    """Where the tokens of one forward pass go, and what they will see. `slots` None = appended behind the others."""

    key_order: Int[Tensor, "B S"]
    slots: Int[Tensor, "B T"] | None


@dataclass(frozen=True)
class Source:
    """What cross-attention looks at: each layer's keys and values of the source, and which of its tokens count (None = all).

    n_beside: rows next to each other that look at the same source, such as the beams of a search; each source is kept once.
    """

    layers: tuple[tuple[Float[Tensor, "N _ S _"], Float[Tensor, "N _ S _"]], ...]  # heads and their width may differ by layer
    mask: Bool[Tensor, "N S"] | None
    n_beside: int = 1

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)

    def keep(self, rows: Int[Tensor, " R"]) -> "Source":
        """These rows only, in this order."""
        seen, counts = torch.unique_consecutive(rows // self.n_beside, return_counts=True)
        n_beside = int(counts[0]) if len(counts) else 1
        if bool((counts != n_beside).any()):  # some are looked at by more rows than others: every row gets its own
            seen, n_beside = rows // self.n_beside, 1
        n_sources = len(self.layers[0][0])
        if len(seen) == n_sources and bool((seen == torch.arange(n_sources, device=seen.device)).all()):
            return Source(self.layers, self.mask, n_beside)
        layers = tuple((k.index_select(0, seen), v.index_select(0, seen)) for k, v in self.layers)
        return Source(layers, self.mask[seen] if self.mask is not None else None, n_beside)


@runtime_checkable
class LayerCache(Protocol):
    """The keys and values of one layer, key-value heads unrepeated."""

    def append(
        self, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"], place: Placement
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Store the new keys and values; return all that the queries may meet."""
        ...


@runtime_checkable
class DecodingState(Protocol):
    """What a decoder needs to go on from where it stopped, for every row of a batch."""

    lengths: Int[Tensor, " B"]
    source: Source | None  # of an encoder-decoder, once it has read one

    @property
    def can_trim(self) -> bool:
        """Whether tokens can be taken back; those that cannot are left out of prefix reuse and speculation."""
        ...

    @property
    def nbytes(self) -> int: ...

    def keep(self, rows: Int[Tensor, " R"]) -> None:
        """Go on with these rows only, in this order; a row may be named twice (beam search)."""
        ...

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        """`keep` with as many rows as before."""
        ...

    def trim(self, lengths: Int[Tensor, " B"]) -> None:
        """Forget all but the first `lengths` tokens of each row; raises Unsupported where the kind cannot."""
        ...

    def snapshot(self) -> "DecodingState":
        """What `restore` goes back to; steps taken in between do not change it."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Be as a state of this kind was when the snapshot was taken."""
        ...


class AttentionState:
    """What growing and static states share: lengths, rows and snapshots."""

    def __init__(self, layers: Sequence["_Layer"], lengths: Int[Tensor, " B"]) -> None:
        self.layers = list(layers)
        self.lengths = lengths
        self.source: Source | None = None

    can_trim = True

    @property
    def nbytes(self) -> int:
        own = sum(t.numel() * t.element_size() for layer in self.layers for t in (layer.k, layer.v))
        return own + (self.source.nbytes if self.source is not None else 0)

    def begin(self, order: Int[Tensor, "B T"]) -> Placement:
        """Decide where the new tokens go and what they may see; nothing changes yet."""
        raise NotImplementedError

    def trim(self, lengths: Int[Tensor, " B"]) -> None:
        raise NotImplementedError

    def snapshot(self) -> "AttentionState":
        raise NotImplementedError

    def restore(self, snapshot: Any) -> None:
        raise NotImplementedError

    def commit(self, order: Int[Tensor, "B T"], place: Placement) -> None:
        """Count the new tokens in, after every layer has appended."""
        self.lengths = torch.maximum(self.lengths, order.max(dim=1).values + 1)

    def keep(self, rows: Int[Tensor, " R"]) -> None:
        for layer in self.layers:
            layer.k, layer.v = layer.k[rows], layer.v[rows]
        self.lengths = self.lengths[rows]
        self.source = self.source.keep(rows) if self.source is not None else None

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        if rows.shape != self.lengths.shape:
            raise ShapeError(f"`reorder` takes one row index for each of the {len(self.lengths)} rows, not {len(rows)}; use `keep`.")
        self.keep(rows)

    def _check_trim(self, lengths: Int[Tensor, " B"]) -> None:
        if lengths.shape != self.lengths.shape or bool((lengths > self.lengths).any()) or bool((lengths < 0).any()):
            raise ShapeError(f"`trim` takes lengths from 0 to {self.lengths.tolist()}, not {lengths.tolist()}.")


class GrowingState(AttentionState):
    """Slots in the order of arrival, padding included; grows by concatenation."""

    def __init__(self, layers: Sequence["GrowingLayer"], lengths: Int[Tensor, " B"]) -> None:
        super().__init__(layers, lengths)
        self.key_order = lengths.new_empty(len(lengths), 0)

    def begin(self, order: Int[Tensor, "B T"]) -> Placement:
        return Placement(torch.cat([self.key_order, order], dim=1), None)

    def commit(self, order: Int[Tensor, "B T"], place: Placement) -> None:
        super().commit(order, place)
        self.key_order = place.key_order

    def keep(self, rows: Int[Tensor, " R"]) -> None:
        super().keep(rows)
        self.key_order = self.key_order[rows]

    def trim(self, lengths: Int[Tensor, " B"]) -> None:
        self._check_trim(lengths)
        self.lengths = lengths.clone()
        self.key_order = torch.where(self.key_order < lengths[:, None], self.key_order, NO_ORDER)
        alive = (self.key_order != NO_ORDER).any(dim=0)
        n_kept = int(alive.nonzero().max()) + 1 if bool(alive.any()) else 0
        self.key_order = self.key_order[:, :n_kept]
        for layer in self.layers:
            layer.k, layer.v = layer.k[:, :, :n_kept], layer.v[:, :, :n_kept]

    def snapshot(self) -> "GrowingState":
        copy = type(self)([GrowingLayer(layer.k, layer.v) for layer in self.layers], self.lengths.clone())
        copy.key_order, copy.source = self.key_order, self.source
        return copy

    def restore(self, snapshot: "GrowingState") -> None:
        self.layers = [GrowingLayer(layer.k, layer.v) for layer in snapshot.layers]
        self.lengths, self.key_order, self.source = snapshot.lengths.clone(), snapshot.key_order, snapshot.source


class StaticState(AttentionState):
    """Slots allocated once; each row's tokens lie without gaps from slot 0. One spare slot takes the tokens that do not count."""

    def __init__(self, layers: Sequence["StaticLayer"], lengths: Int[Tensor, " B"]) -> None:
        super().__init__(layers, lengths)
        self.capacity = layers[0].k.shape[2] - 1

    def begin(self, order: Int[Tensor, "B T"]) -> Placement:
        after = torch.maximum(self.lengths, order.max(dim=1).values + 1)
        n_slots = max(1, int(after.max()))  # one at least: a softmax over nothing is NaN
        if n_slots > self.capacity:
            raise ShapeError(f"{n_slots} tokens do not fit a static cache of {self.capacity}; make it with a larger `max_seq_len`.")
        places = torch.arange(n_slots, device=order.device)
        key_order = torch.where(places < after[:, None], places, NO_ORDER)
        return Placement(key_order, torch.where(order == NO_ORDER, self.capacity, order))

    def keep(self, rows: Int[Tensor, " R"]) -> None:
        n_used = int(self.lengths.max()) if len(self.lengths) else 0
        for layer in cast("list[StaticLayer]", self.layers):
            layer.keep(rows, n_used)
        self.lengths = self.lengths[rows]
        self.source = self.source.keep(rows) if self.source is not None else None

    def trim(self, lengths: Int[Tensor, " B"]) -> None:
        self._check_trim(lengths)
        self.lengths = lengths.clone()

    def snapshot(self) -> "StaticState":
        copy = type(self)([StaticLayer(layer.k.clone(), layer.v.clone()) for layer in self.layers], self.lengths.clone())
        copy.source = self.source
        return copy

    def restore(self, snapshot: "StaticState") -> None:
        self.layers = [StaticLayer(layer.k.clone(), layer.v.clone()) for layer in snapshot.layers]
        self.lengths, self.source = snapshot.lengths.clone(), snapshot.source


@dataclass
class _Layer:
    k: Float[Tensor, "B G S K"]
    v: Float[Tensor, "B G S K"]


class GrowingLayer(_Layer):
    """Keys and values of one layer as they came."""

    def append(self, k: Tensor, v: Tensor, place: Placement) -> tuple[Tensor, Tensor]:
        self.k, self.v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        return self.k, self.v


class StaticLayer(_Layer):
    """Keys and values of one layer in preallocated slots, and as much room again where rows have changed places."""

    _spare: tuple[Tensor, Tensor] | None = None

    def keep(self, rows: Int[Tensor, " R"], n_used: int) -> None:
        """These rows only, in this order; n_used: slots of which any row has something."""
        if self.k.requires_grad:  # nothing is written in place that gradients go through
            self.k, self.v, self._spare = self.k.index_select(0, rows), self.v.index_select(0, rows), None
            return
        if self._spare is None or len(self._spare[0]) < len(rows):
            shape = (len(rows), *self.k.shape[1:])
            self._spare = self.k.new_zeros(shape), self.v.new_zeros(shape)
        k, v = (spare[: len(rows)] for spare in self._spare)
        for old, new in ((self.k, k), (self.v, v)):
            torch.index_select(old[:, :, :n_used], 0, rows, out=new[:, :, :n_used])
        self._spare, self.k, self.v = (self.k, self.v), k, v

    def append(self, k: Tensor, v: Tensor, place: Placement) -> tuple[Tensor, Tensor]:
        rows = torch.arange(k.shape[0], device=k.device)[:, None]
        assert place.slots is not None
        self.k[rows, :, place.slots] = k.transpose(1, 2)
        self.v[rows, :, place.slots] = v.transpose(1, 2)
        n_slots = place.key_order.shape[1]
        return self.k[:, :, :n_slots], self.v[:, :, :n_slots]


class RecurrentState:
    """The hidden states of every layer, (N, B, D) each: one tensor for a GRU, two (hidden, cell) for an LSTM."""

    can_trim = False

    def __init__(self, tensors: Sequence[Float[Tensor, "N B D"]], lengths: Int[Tensor, " B"]) -> None:
        self.tensors = list(tensors)
        self.lengths = lengths
        self.source: Source | None = None

    @property
    def nbytes(self) -> int:
        own = sum(t.numel() * t.element_size() for t in self.tensors)
        return own + (self.source.nbytes if self.source is not None else 0)

    def keep(self, rows: Int[Tensor, " R"]) -> None:
        self.tensors = [t[:, rows] for t in self.tensors]
        self.lengths = self.lengths[rows]
        self.source = self.source.keep(rows) if self.source is not None else None

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        if rows.shape != self.lengths.shape:
            raise ShapeError(f"`reorder` takes one row index for each of the {len(self.lengths)} rows, not {len(rows)}; use `keep`.")
        self.keep(rows)

    def trim(self, lengths: Int[Tensor, " B"]) -> None:
        raise Unsupported("A recurrent state cannot forget its last tokens; take a `snapshot` before them instead.")

    def snapshot(self) -> "RecurrentState":
        copy = type(self)([t.clone() for t in self.tensors], self.lengths.clone())
        copy.source = self.source
        return copy

    def restore(self, snapshot: "RecurrentState") -> None:
        self.tensors, self.lengths = [t.clone() for t in snapshot.tensors], snapshot.lengths.clone()
        self.source = snapshot.source
