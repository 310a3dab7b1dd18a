"""What a network returns, and what all networks share: `body` makes hidden states, `head` makes answers of them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.config import unknown_name
from touchstone.errors import ShapeError, Unsupported
from touchstone.models.heads import MODULES, HeadModule, build_head
from touchstone.models.spec import ModelSpec
from touchstone.nn.cache import DecodingState
from touchstone.nn.dropout import Noise
from touchstone.nn.embedding import TokenTable

__all__ = ["Body", "Inputs", "LanguageNet", "ModelOutput", "check_rows", "layers_wanted"]


@dataclass(frozen=True)
class Inputs:
    """What one forward pass is given; see `LanguageNet.forward`."""

    token_ids: Tensor | None
    positions: Tensor | None = None
    mask: Tensor | None = None
    segments: Tensor | None = None
    token_types: Tensor | None = None
    embeddings: Tensor | None = None
    source_ids: Tensor | None = None
    source_mask: Tensor | None = None
    memory: Tensor | None = None
    cache: DecodingState | None = None
    noise: Noise | None = None
    want: Collection[str] = ()


@dataclass(frozen=True)
class Body:
    """The last hidden states, what was asked for of the layers, and the encoder's own where there is one beside a decoder.

    aux: losses of the body itself; "balance" and "router_z" are those of its experts, their factors applied.
    """

    hidden: Float[Tensor, "B T _"]
    attentions: dict[int, Float[Tensor, "B H T S"]] = field(default_factory=dict)
    hiddens: dict[int, Float[Tensor, "B T _"]] = field(default_factory=dict)
    cross_attentions: dict[int, Float[Tensor, "B _ T _"]] = field(default_factory=dict)
    aux: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    encoder: "Body | None" = None


@dataclass(frozen=True)
class ModelOutput:
    """One forward pass.

    logits: (B, T, V) of a language model, (B, L) of a classifier, (B, T, L) of a tagger, (B, T, 2) of a span finder, (B, D) pooled,
    the hidden states where there is no head. `attentions`, `hiddens` and `cross_attentions` hold the layers named in `want`; hiddens[0] is
    the input of the first layer. encoder: the same of the encoder, whose `hidden` is the memory; None without one, or from a cache.
    """

    logits: Float[Tensor, "B ..."]
    hidden: Float[Tensor, "B T _"]
    attentions: dict[int, Float[Tensor, "B H T S"]]
    hiddens: dict[int, Float[Tensor, "B T _"]]
    cross_attentions: dict[int, Float[Tensor, "B _ T _"]] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)
    encoder: Body | None = None


class LanguageNet(nn.Module):
    """The embedding, a body that a subclass defines, and the head."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = TokenTable(spec.vocab_size, spec.d_model, spec.embed.scale, spec.embed.n_token_types)
        if spec.head is not None:
            self.add_module(MODULES[spec.head.kind], build_head(spec.head, spec.d_hidden, spec.vocab_size))

    def body(
        self,
        token_ids: Int[Tensor, "B T"] | None,
        *,
        positions: Int[Tensor, "B T"] | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
        embeddings: Float[Tensor, "B T D"] | None = None,
        source_ids: Int[Tensor, "B S"] | None = None,
        source_mask: Bool[Tensor, "B S"] | None = None,
        memory: Float[Tensor, "B S _"] | None = None,
        cache: DecodingState | None = None,
        noise: Noise | None = None,
        want: Collection[str] = (),
    ) -> Body:
        """Hidden states of the tokens given now; see `forward` for the arguments."""
        inputs = Inputs(token_ids, positions, mask, segments, token_types, embeddings, source_ids, source_mask, memory, cache, noise, want)
        return self.run(inputs)

    def run(self, inputs: Inputs) -> Body:
        """The body of a subclass."""
        raise NotImplementedError

    def read_source(self, source_ids: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"] | None) -> Body:
        """What the encoder of an encoder-decoder makes of a source."""
        raise Unsupported("This model has one side: it reads no source.")

    def embedded(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """The vectors that enter the first layer: looked up, or given in the lookup's place; with those of the token types."""
        x = inputs.embeddings
        if x is None:
            if inputs.token_ids is None:
                raise ShapeError("Give `token_ids`, or `embeddings` in their place.")
            x = self.embed(inputs.token_ids)
        check_rows(x, inputs)
        return self.embed.add_types(x, inputs.token_types)

    def head(
        self, hidden: Float[Tensor, "... D"], *, mask: Bool[Tensor, "B T"] | None = None, noise: Noise | None = None
    ) -> Float[Tensor, "..."]:
        """Answers of any hidden states, so that scoring need not make those it does not use; a head that pools needs the mask too."""
        if self.spec.head is None:
            return hidden
        return self._head_module()(hidden, self.embed.weight, mask, noise)

    def new_cache(
        self, batch_size: int, *, kind: Literal["growing", "static"] = "growing", max_seq_len: int | None = None
    ) -> DecodingState:
        """An empty decoding state on the network's device and type; a static one has room for max_seq_len tokens a row."""
        raise Unsupported("An encoder reads a text whole: it has no state to go on from.")

    def forward(
        self,
        token_ids: Int[Tensor, "B T"] | None,
        *,
        positions: Int[Tensor, "B T"] | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
        embeddings: Float[Tensor, "B T D"] | None = None,
        source_ids: Int[Tensor, "B S"] | None = None,
        source_mask: Bool[Tensor, "B S"] | None = None,
        memory: Float[Tensor, "B S _"] | None = None,
        cache: DecodingState | None = None,
        noise: Noise | None = None,
        want: Collection[str] = (),
    ) -> ModelOutput:
        """Answers and hidden states of the tokens given now; an encoder-decoder's are those of the target side.

        positions: None counts the tokens that count before each one, cached length included, from 0 in each segment. A model that
            has no use for them (distances, no positions, recurrent) refuses any.
        mask: which of these tokens count (padding is False); the cache knows it of its own tokens.
        segments: packed documents; tokens of different segments do not see each other. Not with a cache.
        token_types: which text of a pair each token is of; None = all of the first.
        embeddings: replaces the lookup; token_ids may then be None.
        source_ids, source_mask: what the encoder of an encoder-decoder reads; with a cache only the first time.
        memory: the encoder's hidden states, in place of source_ids.
        want: "attentions", "hiddens", "cross_attentions", or one layer of them as "attentions.2"; "encoder." before it for those of the
            encoder of an encoder-decoder.
        """
        body = self.body(
            token_ids,
            positions=positions,
            mask=mask,
            segments=segments,
            token_types=token_types,
            embeddings=embeddings,
            source_ids=source_ids,
            source_mask=source_mask,
            memory=memory,
            cache=cache,
            noise=noise,
            want=want,
        )
        logits = self.head(body.hidden, mask=mask, noise=noise)
        return ModelOutput(logits, body.hidden, body.attentions, body.hiddens, body.cross_attentions, body.aux, body.encoder)

    def _head_module(self) -> HeadModule:
        assert self.spec.head is not None
        module = getattr(self, MODULES[self.spec.head.kind])
        assert isinstance(module, HeadModule)
        return module


def check_rows(x: Float[Tensor, "B T D"], inputs: Inputs) -> None:
    """Raises ShapeError if anything said about the tokens given now, or the cache, is for other tokens or other rows."""
    rows = tuple(x.shape[:2])
    if not rows[1]:
        raise ShapeError("A forward pass needs at least one token a row.")
    given = {name: getattr(inputs, name) for name in ("positions", "mask", "segments", "token_types")}
    wrong = [f"`{name}` is {tuple(t.shape)}" for name, t in given.items() if t is not None and tuple(t.shape) != rows]
    if inputs.cache is not None and len(inputs.cache.lengths) != rows[0]:
        wrong.append(f"`cache` has {len(inputs.cache.lengths)} rows")
    if wrong:
        raise ShapeError(f"The tokens given now are {rows} (rows, tokens), but {', '.join(wrong)}; give one entry for each of them.")


_WHAT = ("attentions", "hiddens", "cross_attentions")


def layers_wanted(want: Collection[str], what: Literal["attentions", "hiddens", "cross_attentions"], n_layers: int) -> frozenset[int]:
    """The layers whose `what` was asked for; raises UnknownName for any name in `want` that means nothing."""
    if not want:
        return frozenset()
    names = {what: frozenset(range(n_layers)), **{f"{what}.{layer}": frozenset([layer]) for layer in range(n_layers)}}
    others = [other for other in _WHAT if other != what]
    unknown = [name for name in want if name not in names and name.partition(".")[0] not in others]
    if unknown:
        raise unknown_name("output", unknown[0], [*names, *others], hint="They are what `want` may hold.")
    return frozenset().union(*(names[name] for name in want if name in names))
