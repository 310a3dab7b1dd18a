"""What a step of decoding brought: tokens with the model's log-probabilities, read from the device in one copy."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.infer.calibration import Calibrated
from touchstone.infer.request import TokenLogprob

__all__ = ["Sampled", "read_sampled", "widest"]


class Sampled(NamedTuple):
    """A token of a completion. logprob and top: of the model's own distribution, in nats; score: what it was chosen by."""

    token_id: int
    logprob: float
    score: float
    top: tuple[TokenLogprob, ...] | None
    confidence: float | None


def read_sampled(
    logits: Float[Tensor, "B V"],
    logprobs: Float[Tensor, "B V"],
    rows: Int[Tensor, " N"],
    token_ids: Int[Tensor, " N"],
    scores: Float[Tensor, " N"],
    n_top: Sequence[int | None],
    calibrated: Calibrated | None,
) -> list[Sampled]:
    """N tokens, each of one row, a row any number of times. n_top: how many of the likeliest each reports; None = none asked for."""
    columns = [token_ids[:, None], logprobs[rows, token_ids][:, None], scores[:, None]]
    if calibrated is not None:
        columns.append(calibrated.probability(logits[rows], token_ids)[:, None])
    n_best = min(max((n or 0 for n in n_top), default=0), logits.shape[-1])
    if n_best:
        best = logprobs.topk(n_best, dim=-1)
        columns += [best.indices[rows], best.values[rows]]
    table = torch.cat([column.to(widest(logits.device)) for column in columns], dim=1).tolist()
    n_fixed = 3 if calibrated is None else 4
    return [
        Sampled(
            token_id=int(row[0]),
            logprob=row[1],
            score=row[2],
            top=_top(n, int(row[0]), row[1], row[n_fixed : n_fixed + n_best], row[n_fixed + n_best :]),
            confidence=None if calibrated is None else row[3],
        )
        for n, row in zip(n_top, table, strict=True)
    ]


def widest(device: torch.device) -> torch.dtype:
    """The type in which ids and log-probabilities leave the device together; mps has no fp64, and fp32 holds ids to 2^24."""
    return torch.float32 if device.type == "mps" else torch.float64


def _top(
    n_top: int | None, token_id: int, logprob: float, best_ids: list[float], best_logprobs: list[float]
) -> tuple[TokenLogprob, ...] | None:
    """The n_top likeliest, and the sampled token if it is not among them."""
    if n_top is None:
        return None
    best = [TokenLogprob(int(id), value) for id, value in zip(best_ids[:n_top], best_logprobs, strict=False)]
    if all(entry.token_id != token_id for entry in best):
        best.append(TokenLogprob(token_id, logprob))
    return tuple(best)
