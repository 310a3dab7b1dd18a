"""What a network returns, and what all networks share: `body` makes hidden states, `head` scores them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.config import unknown_name
from touchstone.errors import ShapeError
from touchstone.models.heads import build_head
from touchstone.models.spec import ModelSpec
from touchstone.nn.cache import DecodingState
from touchstone.nn.dropout import Noise
from touchstone.nn.embedding import TokenTable

__all__ = ["Body", "LanguageNet", "ModelOutput", "check_rows", "layers_wanted"]


@dataclass(frozen=True)
class Body:
    """The last hidden states, and the attention weights of the layers asked for."""

    hidden: Float[Tensor, "B T D"]
    attentions: dict[int, Float[Tensor, "B H T S"]] = field(default_factory=dict)
    hiddens: dict[int, Float[Tensor, "B T _"]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelOutput:
    """One forward pass. `attentions` and `hiddens` hold the layers named in `want`; hiddens[0] is the input of the first layer."""

    logits: Float[Tensor, "B T V"]
    hidden: Float[Tensor, "B T D"]
    attentions: dict[int, Float[Tensor, "B H T S"]]
    hiddens: dict[int, Float[Tensor, "B T _"]]
    aux: dict[str, Tensor] = field(default_factory=dict)


class LanguageNet(nn.Module):
    """A network that predicts tokens: the embedding, a body that a subclass defines, and the head."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = TokenTable(spec.vocab_size, spec.d_model, spec.embed.scale)
        self.lm_head = build_head(spec.head, spec.d_hidden, spec.vocab_size)

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
        """Hidden states of the tokens given now; see `forward` for the arguments."""
        raise NotImplementedError

    def embedded(self, token_ids: Int[Tensor, "B T"] | None, embeddings: Float[Tensor, "B T D"] | None) -> Float[Tensor, "B T D"]:
        """The vectors that enter the first layer: looked up, or given in the lookup's place."""
        if embeddings is not None:
            return embeddings
        if token_ids is None:
            raise ShapeError("Give `token_ids`, or `embeddings` in their place.")
        return self.embed(token_ids)

    def head(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of any hidden states, so that scoring need not make those it does not use."""
        return self.lm_head(hidden, self.embed.weight)

    def new_cache(
        self, batch_size: int, *, kind: Literal["growing", "static"] = "growing", max_seq_len: int | None = None
    ) -> DecodingState:
        """An empty decoding state on the network's device and type; a static one has room for max_seq_len tokens a row."""
        raise NotImplementedError

    def forward(
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
    ) -> ModelOutput:
        """Logits and hidden states of the tokens given now.

        positions: None counts the tokens that count before each one, cached length included, from 0 in each segment. A model that
            has no use for them (ALiBi, no positions, recurrent) refuses any.
        mask: which of these tokens count (padding is False); the cache knows it of its own tokens.
        segments: packed documents; tokens of different segments do not see each other. Not with a cache.
        embeddings: replaces the lookup; token_ids may then be None.
        want: "attentions", "hiddens", or one layer of them as "attentions.2".
        """
        body = self.body(
            token_ids,
            positions=positions,
            mask=mask,
            segments=segments,
            embeddings=embeddings,
            cache=cache,
            noise=noise,
            want=want,
        )
        return ModelOutput(self.head(body.hidden), body.hidden, body.attentions, body.hiddens)


def check_rows(
    x: Float[Tensor, "B T D"], positions: Tensor | None, mask: Tensor | None, segments: Tensor | None, cache: DecodingState | None
) -> None:
    """Raises ShapeError if anything said about the tokens given now, or the cache, is for other tokens or other rows."""
    rows = tuple(x.shape[:2])
    if not rows[1]:
        raise ShapeError("A forward pass needs at least one token a row.")
    given = {"positions": positions, "mask": mask, "segments": segments}
    wrong = [f"`{name}` is {tuple(t.shape)}" for name, t in given.items() if t is not None and tuple(t.shape) != rows]
    if cache is not None and len(cache.lengths) != rows[0]:
        wrong.append(f"`cache` has {len(cache.lengths)} rows")
    if wrong:
        raise ShapeError(f"The tokens given now are {rows} (rows, tokens), but {', '.join(wrong)}; give one entry for each of them.")


def layers_wanted(want: Collection[str], what: Literal["attentions", "hiddens"], n_layers: int) -> frozenset[int]:
    """The layers whose `what` was asked for; raises UnknownName for any name in `want` that means nothing."""
    if not want:
        return frozenset()
    names = {what: frozenset(range(n_layers)), **{f"{what}.{layer}": frozenset([layer]) for layer in range(n_layers)}}
    other = "hiddens" if what == "attentions" else "attentions"
    unknown = [name for name in want if name not in names and name.partition(".")[0] != other]
    if unknown:
        raise unknown_name("output", unknown[0], [*names, other], hint="They are what `want` may hold.")
    return frozenset().union(*(names[name] for name in want if name in names))
