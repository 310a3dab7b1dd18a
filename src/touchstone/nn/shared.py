"""What all layers of one forward pass share, made once by the stack."""

from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor

from touchstone.nn.cache import Placement
from touchstone.nn.dropout import Noise
from touchstone.nn.mask import AttentionMask

__all__ = ["Route", "Shared"]


@dataclass(frozen=True)
class Route:
    """How one experts layer shared its tokens out, N of them: the router's score of each expert, and which were taken."""

    logits: Float[Tensor, "N E"]
    taken: Bool[Tensor, "N E"]


@dataclass(frozen=True)
class Shared:
    """The values; `routes` is filled by the experts layers as they run, in order.

    source_mask: which of the source's tokens cross-attention may look at. counts: which tokens count; None = all.
    """

    masks: dict[int | None, AttentionMask]  # by window
    angles: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # cos and sin, by `angles_key`
    biases: dict[str, Float[Tensor, "b H T S"]] = field(default_factory=dict)  # on the scores, by `bias_key`
    place: Placement | None = None
    noise: Noise | None = None
    source_mask: AttentionMask | None = None
    counts: Bool[Tensor, "B T"] | None = None
    routes: list[Route] = field(default_factory=list)
