"""From logits to a token: temperature, top-k, top-p and min-p over a batch, then one draw a row.

Every transform takes one setting a row, so requests with different settings share a batch; their results equal Hugging Face's
logits processors. The draw inverts the cumulative distribution with one uniform number a row; the numbers come from a counter-based
generator keyed by (seed, choice) and counted by step, so a request's tokens do not depend on its neighbours.
Sources: Holtzman et al. 2020 (top-p); Fan et al. 2018 (top-k); Nguyen et al. 2024 (min-p); Salmon et al. 2011 (Philox).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from touchstone.infer.request import Sampling

__all__ = ["SamplingTable", "Uniforms", "choose", "keep_min_p", "keep_top_k", "keep_top_p", "philox", "scale"]


@dataclass(frozen=True)
class SamplingTable:
    """The settings of all rows of a batch, one entry a row."""

    temperature: Float[Tensor, " B"]
    top_k: Int[Tensor, " B"]
    tail: Float[Tensor, " B"]  # 1 - top_p, subtracted before it is rounded to fp32, as Hugging Face does
    min_p: Float[Tensor, " B"]
    max_top_k: int  # of all rows; the any_* spare the work of what no row asks for
    any_sampled: bool
    any_top_p: bool
    any_min_p: bool

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> "SamplingTable":
        """Unset fields are the plain distribution's."""
        temperature = [1.0 if s.temperature is None else s.temperature for s in rows]
        top_k = [s.top_k or 0 for s in rows]
        top_p = [1.0 if s.top_p is None else s.top_p for s in rows]
        min_p = [s.min_p or 0.0 for s in rows]
        return cls(
            temperature=torch.tensor(temperature, device=device),
            top_k=torch.tensor(top_k, device=device),
            tail=torch.tensor([1.0 - p for p in top_p], device=device),
            min_p=torch.tensor(min_p, device=device),
            max_top_k=max(top_k, default=0),
            any_sampled=any(temperature),
            any_top_p=any(p < 1.0 for p in top_p),
            any_min_p=any(min_p),
        )


def choose(logits: Float[Tensor, "B V"], table: SamplingTable, uniforms: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """One token a row: the likeliest where temperature is 0, else drawn with the row's uniform number from [0, 1)."""
    likeliest = logits.argmax(dim=-1)
    if not table.any_sampled:
        return likeliest
    greedy = table.temperature == 0
    shaped = scale(logits, torch.where(greedy, 1.0, table.temperature))
    if table.max_top_k:
        shaped = keep_top_k(shaped, table.top_k, table.max_top_k)
    if table.any_top_p:
        shaped = keep_top_p(shaped, table.tail)
    if table.any_min_p:
        shaped = keep_min_p(shaped, table.min_p)
    return torch.where(greedy, likeliest, draw(shaped, uniforms))


def scale(logits: Float[Tensor, "B V"], temperature: Float[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """Divide by the temperature."""
    return logits / temperature[:, None]


def keep_top_k(logits: Float[Tensor, "B V"], top_k: Int[Tensor, " B"], max_top_k: int) -> Float[Tensor, "B V"]:
    """Ban what is less likely than the k-th likeliest; ties with it stay. 0 = no limit. max_top_k: the largest of `top_k`."""
    n_best = min(max_top_k, logits.shape[-1])
    best = torch.topk(logits, n_best, dim=-1).values  # (B, k)
    kth = best.gather(1, (top_k.clamp(1, n_best) - 1)[:, None])
    return _ban(logits, (logits < kth) & (top_k > 0)[:, None])


def keep_top_p(logits: Float[Tensor, "B V"], tail: Float[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """Ban the unlikeliest tokens of total probability `tail` = 1 - top_p at most; the likeliest stays. 0 = no limit."""
    ascending, order = torch.sort(logits, dim=-1)
    in_tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= tail[:, None]
    in_tail[:, -1] = False
    in_tail &= (tail > 0)[:, None]
    return _ban(logits, torch.zeros_like(in_tail).scatter(1, order, in_tail))


def keep_min_p(logits: Float[Tensor, "B V"], min_p: Float[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """Ban what has less than min_p times the likeliest token's probability. 0 = no limit."""
    probabilities = logits.softmax(dim=-1)
    return _ban(logits, probabilities < min_p[:, None] * probabilities.amax(dim=-1, keepdim=True))


def draw(logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The first token at which the cumulative probability exceeds the uniform number."""
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # mps has no fp64
    cumulative = logits.to(wide).softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = torch.minimum(uniforms.to(wide)[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


class Uniforms:
    """The uniform numbers of one choice: number `step` is a pure function of (seed, index, step)."""

    _BLOCK = 128  # made at once, to spread the cost of the array operations

    def __init__(self, seed: int, index: int) -> None:
        self._seed = seed
        self._index = index
        self._block_start = -1
        self._block: list[float] = []

    def at(self, step: int) -> float:
        """From [0, 1), with 53 random bits."""
        start = step - step % self._BLOCK
        if start != self._block_start:
            counters = np.zeros((self._BLOCK, 4), dtype=np.uint32)
            counters[:, 0] = np.arange(start, start + self._BLOCK)
            counters[:, 1] = self._index
            bits = philox(counters, (self._seed & 0xFFFFFFFF, self._seed >> 32))
            high, low = bits[:, 0].astype(np.uint64) >> np.uint64(5), bits[:, 1].astype(np.uint64) >> np.uint64(6)
            self._block = ((high * np.uint64(2**26) + low) / 2.0**53).tolist()
            self._block_start = start
        return self._block[step - start]


def philox(counters: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10: 128 random bits for each row of `counters` (N, 4) under a key of two 32-bit words."""
    c0, c1, c2, c3 = (counters[:, place].astype(np.uint64) for place in range(4))
    k0, k1 = key
    low32, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (second >> shift) ^ c1 ^ np.uint64(k0), second & low32, (first >> shift) ^ c3 ^ np.uint64(k1), first & low32
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _ban(logits: Float[Tensor, "B V"], banned: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    return logits.masked_fill(banned, -torch.inf)
