"""Which query may look at which key: causal, window, padding, cached prefix and packed documents in one rule.

Every token that counts has an `order`, its place among the tokens that count in its row (cached ones included); tokens that do not
count have none. All rules are comparisons of orders, so padding on either side and ragged caches need no case of their own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["NO_ORDER", "AttentionMask", "attention_mask", "source_mask", "token_order", "token_positions"]

NO_ORDER = -1  # the order of a slot that does not count


@dataclass(frozen=True)
class AttentionMask:
    """A mask value. `allowed` None means a whole pattern that needs no tensor: causal over a square, or everything."""

    allowed: Bool[Tensor, "B 1 T S"] | None  # T is 1 where all queries see the same
    is_causal: bool = False

    def dense(self, n_queries: int, n_keys: int, device: torch.device) -> Bool[Tensor, "B 1 _ S"]:
        """The same mask as a tensor; B is 1 where all rows agree, and an entry for each query may stand for all."""
        if self.allowed is not None:
            return self.allowed
        everything = torch.ones(1, 1, n_queries, n_keys, dtype=torch.bool, device=device)
        return everything.tril(n_keys - n_queries) if self.is_causal else everything


def attention_mask(
    query_order: Int[Tensor, "b T"],
    key_order: Int[Tensor, "b S"],
    *,
    causal: bool,
    window: int | None = None,
    query_segments: Int[Tensor, "B T"] | None = None,
    key_segments: Int[Tensor, "B S"] | None = None,
) -> AttentionMask:
    """The dense mask from orders. A query that does not count looks at the first slot, so that no row of the softmax is empty.

    b is 1 where all rows have one order.
    window: how many tokens back a query sees, itself included; None = all.
    """
    query, key = query_order[:, :, None], key_order[:, None, :]
    allowed = key != NO_ORDER
    if causal:
        allowed = allowed & (key <= query)
    if window is not None:
        allowed = allowed & (query - key < window)
        if not causal:
            allowed = allowed & (key - query < window)
    if query_segments is not None and key_segments is not None:
        allowed = allowed & (query_segments[:, :, None] == key_segments[:, None, :])
    first_slot = torch.arange(key_order.shape[1], device=key_order.device) == 0
    allowed = torch.where(query == NO_ORDER, first_slot, allowed)
    return AttentionMask(allowed[:, None])


def source_mask(counts: Bool[Tensor, "B S"] | None) -> AttentionMask:
    """Every query sees every token of the source that counts; None = all count."""
    return AttentionMask(None if counts is None else counts[:, None, None])


def token_order(mask: Bool[Tensor, "B T"], before: Int[Tensor, " B"] | None = None) -> Int[Tensor, "B T"]:
    """The order of each token: how many counting tokens precede it, `before` (cached ones) included; NO_ORDER where mask is False."""
    order = mask.long().cumsum(dim=1) - 1
    if before is not None:
        order = order + before[:, None]
    return torch.where(mask, order, NO_ORDER)


def token_positions(order: Int[Tensor, "b T"], segments: Int[Tensor, "B T"] | None = None) -> Int[Tensor, "_ T"]:
    """Positions for tables and angles: the order, started again at each packed document; 0 where a token does not count."""
    if segments is None:
        return order.clamp(min=0)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    counts = (order != NO_ORDER).long()
    before = counts.cumsum(dim=1) - counts  # a document may open with tokens that do not count and so have no order
    first = torch.where(starts, before, 0).cummax(dim=1).values
    return (order - first).clamp(min=0)
