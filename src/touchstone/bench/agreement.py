"""Whether an engine computed what the reference computes, so that nobody is timed on wrong work.

The reference's network grades the tokens of an engine: of every greedy token how far its logit is below the best one of its step. That
needs no equal texts: where two tokens are close, engines part for good reasons, and each is judged on its own text. The limits are for
networks with random weights, whose steps have no clear favourite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from touchstone.bench.inference_jobs import EncodeJob, Job

__all__ = ["MAX_DEFICIT", "MAX_ERROR", "MAX_GAP", "Check", "check_answer", "check_deficits", "check_gaps", "check_vectors"]

MAX_GAP = {True: 0.01, False: 1.0}
"""How far a greedy token may be below the best, in standard deviations of the step's logits, in fp32 and in fewer bits. A random token is
about 4 below."""

MAX_DEFICIT = {True: 1e-3, False: 0.5}
"""How much less likely than the reference's own the outcome of a beam search may be, in nats a token."""

MAX_ERROR = {True: 1e-3, False: 0.25}
"""How far a vector may be from the reference's, relative to its length; wrong ones are about 1.4 away."""

N_GRADED = 4  # outputs of a batch that are graded; each costs the reference a forward pass

Grade = Callable[[list[list[int]], list[list[int]]], list[dict[str, Any]]]
"""From prompts and outputs to each one's `gaps`, a number a token, and `logprob`."""


@dataclass(frozen=True)
class Check:
    """How an engine's answer stands beside the reference's: what is told, and what is wrong with it, if anything."""

    said: str
    figures: dict[str, float]
    fault: str = ""


def check_answer(
    job: Job, request: Mapping[str, Any], outputs: list[Any], *, grade: Grade, expected: Callable[[], list[Any]], is_exact: bool
) -> Check:
    """Check the answer to a request. expected: asks the reference for its own outputs. is_exact: whether the engine computes in fp32."""
    if isinstance(job, EncodeJob):
        return check_vectors(np.array(outputs), np.array(expected()), MAX_ERROR[is_exact])
    if (lengths := [len(output) for output in outputs]) != request["n_new"]:
        return Check("", {}, f"{lengths} tokens were written where {request['n_new']} were asked for")
    prompts = request["prompts"][:N_GRADED]
    graded = grade(prompts, outputs[:N_GRADED])
    if job.num_beams == 1:
        return check_gaps([gap for output in graded for gap in output["gaps"]], MAX_GAP[is_exact])
    best = grade(prompts, expected()[:N_GRADED])
    deficits = [(theirs["logprob"] - its["logprob"]) / len(its["gaps"]) for theirs, its in zip(best, graded, strict=True)]
    return check_deficits(deficits, MAX_DEFICIT[is_exact])


def check_gaps(gaps: Sequence[float], most: float) -> Check:
    """Greedy tokens, by how far each is below the best, in standard deviations."""
    same, worst = sum(gap == 0 for gap in gaps) / len(gaps), max(gaps)
    fault = f"a token is {worst:.2f} standard deviations below the reference's best" if worst > most else ""
    return Check(f"{same:.1%} same, gap {worst:.2g}", {"agreement": same, "worst_gap": worst}, fault)


def check_deficits(deficits: Sequence[float], most: float) -> Check:
    """Beam searches, by how much less likely each ended than the reference's, in nats a token."""
    worst = max(deficits)
    fault = f"a search ended {worst:.2f} nats a token less likely than the reference's" if worst > most else ""
    return Check(f"{worst:+.2g} nats a token", {"worst_deficit_nats": worst}, fault)


def check_vectors(vectors: Float[np.ndarray, "N D"], expected: Float[np.ndarray, "N D"], most: float) -> Check:
    """Vectors, by their distance from the reference's relative to its length."""
    if vectors.shape != expected.shape:
        return Check("", {}, f"vectors of shape {vectors.shape} where {expected.shape} were expected")
    worst = float((np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())
    return Check(f"error {worst:.2g}", {"worst_error": worst}, f"a vector is {worst:.2f} of its length away" if worst > most else "")
