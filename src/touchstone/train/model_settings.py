"""The few numbers that name a model in a recipe or a settings file, and the spec they stand for.

Three kinds: a decoder of equal blocks, a recurrent network, an n-gram model. A spec also needs the vocabulary, which comes from the
tokenizer, and for a decoder the longest text, which is the context of the run unless it is given.
"""

from typing import Annotated, Literal

from pydantic import Field

from touchstone.config import Config
from touchstone.models.ngram import NgramSpec
from touchstone.models.spec import ModelSpec, decoder_spec, recurrent_spec
from touchstone.nn.mlp import ActivationName

__all__ = ["DecoderSettings", "ModelSettings", "NgramSettings", "RecurrentSettings"]


class DecoderSettings(Config):
    """A decoder of equal blocks; the defaults are Llama's."""

    kind: Literal["decoder"] = "decoder"
    d_model: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    n_kv_heads: int | None = Field(None, gt=0)  # None = n_heads
    d_head: int | None = Field(None, gt=0)  # None = d_model / n_heads
    d_ff: int | None = Field(None, gt=0)  # None = 4 d_model, or 8/3 d_model rounded up to 16 when gated
    activation: ActivationName = "silu"
    gated: bool = True
    bias: bool = False  # of every product
    norm: Literal["layer", "rms"] = "rms"
    norm_eps: float = Field(1e-5, gt=0)
    norm_place: Literal["pre", "post", "inner"] = "pre"
    positions: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "rotary"
    rope_theta: float = Field(10_000.0, gt=0)
    qk_norm: bool = False  # steadies the attention at high rates (Henry et al. 2020); Qwen3 has it, Llama not
    window: int | None = Field(None, gt=0)  # tokens each layer looks back; None = all
    tied: bool = True  # one table for tokens and scores: a third to half of a small model
    dropout: float = Field(0.0, ge=0, lt=1)  # of attention, sublayers and embeddings; of use from the second epoch on
    max_seq_len: int | None = Field(None, gt=0)  # tokens the positions are made for; None = the context of the run

    def to_spec(self, vocab_size: int, context: int) -> ModelSpec:
        """The spec for a vocabulary; ConfigError where the numbers do not fit each other."""
        chosen = self.model_dump(exclude={"kind", "max_seq_len"})
        return decoder_spec(vocab_size=vocab_size, max_seq_len=self.max_seq_len or context, **chosen)


class RecurrentSettings(Config):
    """LSTM or GRU layers between the token table and the head."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru"] = "lstm"
    d_model: int = Field(gt=0)
    d_hidden: int = Field(gt=0)
    n_layers: int = Field(1, gt=0)
    tied: bool = False  # needs d_hidden equal to d_model
    dropout: float = Field(0.0, ge=0, lt=1)

    def to_spec(self, vocab_size: int, context: int) -> ModelSpec:
        """The spec for a vocabulary; a recurrent network has no longest text, so the context does not matter."""
        del context
        return recurrent_spec(vocab_size=vocab_size, **self.model_dump(exclude={"kind"}))


class NgramSettings(Config):
    """The interpolated Kneser-Ney model that every report shows as its baseline; it is counted, not trained."""

    kind: Literal["ngram"] = "ngram"
    order: int = Field(5, ge=1, le=32)
    discounts: Literal["modified", "single"] = "modified"

    def to_spec(self, vocab_size: int, context: int) -> NgramSpec:
        """The spec for a vocabulary; the order is the context."""
        del context
        return NgramSpec(vocab_size=vocab_size, order=self.order, discounts=self.discounts)


ModelSettings = Annotated[DecoderSettings | RecurrentSettings | NgramSettings, Field(discriminator="kind")]
"""Told apart by `kind`."""
