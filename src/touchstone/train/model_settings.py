"""The few numbers that name a model in a recipe or a settings file, and the spec they stand for.

A spec also needs the vocabulary, which comes from the tokenizer; the longest text, which is the context of the run unless it is given;
and for a model that labels, its head, which the objective asks for.
"""

from typing import Annotated, Literal

from pydantic import Field

from touchstone.config import Config
from touchstone.models.heads import Head, Pooling
from touchstone.models.ngram import NgramSpec
from touchstone.models.shorthand import (
    decoder_spec,
    encoder_decoder_spec,
    encoder_spec,
    recurrent_encoder_decoder_spec,
    recurrent_encoder_spec,
    recurrent_spec,
)
from touchstone.models.spec import ModelSpec
from touchstone.nn.mlp import ActivationName

__all__ = [
    "BagSettings",
    "DecoderSettings",
    "EncoderDecoderSettings",
    "EncoderSettings",
    "ModelSettings",
    "NgramSettings",
    "RecurrentEncoderSettings",
    "RecurrentSeq2SeqSettings",
    "RecurrentSettings",
]


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

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary; ConfigError where the numbers do not fit each other. Its head is its own, so `head` must be None."""
        assert head is None
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

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary; a recurrent network has no longest text, so the context does not matter."""
        assert head is None
        del context
        return recurrent_spec(vocab_size=vocab_size, **self.model_dump(exclude={"kind"}))


class EncoderSettings(Config):
    """An encoder of equal blocks; the defaults are BERT's."""

    kind: Literal["encoder"] = "encoder"
    d_model: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    d_ff: int | None = Field(None, gt=0)  # None = 4 d_model, or 8/3 d_model rounded up to 16 when gated
    activation: ActivationName = "gelu"
    gated: bool = False
    bias: bool = True  # of every product
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = Field(1e-12, gt=0)
    norm_place: Literal["pre", "post", "inner"] = "post"
    positions: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "learned"
    n_token_types: int = Field(2, ge=0)  # texts of a pair are told apart; 0 = they are not
    pooling: Pooling = "first"  # how a classifier makes one vector of a text
    dropout: float = Field(0.0, ge=0, lt=1)  # of attention, sublayers and embeddings
    max_seq_len: int | None = Field(None, gt=0)  # tokens the positions are made for; None = the context of the run

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary and a head; None restores hidden tokens."""
        chosen = self.model_dump(exclude={"kind", "max_seq_len", "pooling"})
        return encoder_spec(vocab_size=vocab_size, max_seq_len=self.max_seq_len or context, head=head, **chosen)


class BagSettings(Config):
    """A bag of words: a text is the mean of its tokens' vectors, their order is not seen; the baseline of every classifier."""

    kind: Literal["bag"] = "bag"
    d_model: int = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)  # of the vectors and of their mean

    @property
    def pooling(self) -> Pooling:
        """How a text's vectors become one."""
        return "mean"

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary and a head: an encoder without a layer."""
        return encoder_spec(
            vocab_size=vocab_size,
            d_model=self.d_model,
            n_layers=0,
            n_heads=1,
            max_seq_len=context,
            positions="none",
            n_token_types=0,
            head=head,
            dropout=self.dropout,
        )


class RecurrentEncoderSettings(Config):
    """LSTM or GRU layers that read a whole text, both ways unless told otherwise."""

    kind: Literal["recurrent-encoder"] = "recurrent-encoder"
    cell: Literal["lstm", "gru"] = "lstm"
    d_model: int = Field(gt=0)
    d_hidden: int = Field(gt=0)  # of each way
    n_layers: int = Field(1, gt=0)
    both_ways: bool = True
    pooling: Pooling = "max"  # how a classifier makes one vector of a text; the maximum was best in Conneau et al. 2017
    dropout: float = Field(0.0, ge=0, lt=1)

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary and a head; the context does not matter."""
        del context
        chosen = self.model_dump(exclude={"kind", "pooling"})
        return recurrent_encoder_spec(vocab_size=vocab_size, head=head, **chosen)


class EncoderDecoderSettings(Config):
    """An encoder and a decoder of equal blocks over one token table; the defaults are the original Transformer's."""

    kind: Literal["encoder-decoder"] = "encoder-decoder"
    d_model: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    n_encoder_layers: int = Field(gt=0)
    n_decoder_layers: int = Field(gt=0)
    d_head: int | None = Field(None, gt=0)  # None = d_model / n_heads
    d_ff: int | None = Field(None, gt=0)  # None = 4 d_model, or 8/3 d_model rounded up to 16 when gated
    activation: ActivationName = "relu"
    gated: bool = False
    bias: bool = True  # of every product
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = Field(1e-5, gt=0)
    norm_place: Literal["pre", "post", "inner"] = "post"
    positions: Literal["sinusoidal", "learned", "relative", "rotary"] = "sinusoidal"
    position_offset: int = Field(0, ge=0)  # rows of a learned table before the first position; BART has 2
    attention_scale: float | None = Field(None, gt=0)  # None = d_head^-0.5; T5 has 1
    embed_scale: float | None = Field(None, gt=0)  # None = sqrt(d_model) for sinusoidal positions, else 1
    input_norm: bool = False  # a norm on the embeddings; BART's
    tied: bool = True  # one table for tokens and scores
    head_bias: bool = False
    head_scale: float = Field(1.0, gt=0)  # factor on the last hidden states; T5's tied models have d_model^-0.5
    dropout: float = Field(0.0, ge=0, lt=1)
    max_seq_len: int | None = Field(None, gt=0)  # tokens the positions of either side are made for; None = the context of the run

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary."""
        assert head is None
        chosen = self.model_dump(exclude={"kind", "max_seq_len"})
        return encoder_decoder_spec(vocab_size=vocab_size, max_seq_len=self.max_seq_len or context, **chosen)


class RecurrentSeq2SeqSettings(Config):
    """A recurrent encoder that reads both ways, and a recurrent decoder with attention to it."""

    kind: Literal["recurrent-seq2seq"] = "recurrent-seq2seq"
    cell: Literal["lstm", "gru"] = "lstm"
    d_model: int = Field(gt=0)
    d_hidden: int = Field(gt=0)  # of the decoder; each way of the encoder has half of it
    n_encoder_layers: int = Field(1, gt=0)
    n_decoder_layers: int = Field(1, gt=0)
    score: Literal["additive", "scaled_dot"] = "additive"  # Bahdanau et al. 2015, or Luong et al. 2015
    tied: bool = False  # needs d_hidden equal to d_model
    dropout: float = Field(0.0, ge=0, lt=1)

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> ModelSpec:
        """The spec for a vocabulary; the context does not matter."""
        assert head is None
        del context
        return recurrent_encoder_decoder_spec(vocab_size=vocab_size, **self.model_dump(exclude={"kind"}))


class NgramSettings(Config):
    """The interpolated Kneser-Ney model that every report shows as its baseline; it is counted, not trained."""

    kind: Literal["ngram"] = "ngram"
    order: int = Field(5, ge=1, le=32)
    discounts: Literal["modified", "single"] = "modified"

    def to_spec(self, vocab_size: int, context: int, head: Head | None = None) -> NgramSpec:
        """The spec for a vocabulary; the order is the context."""
        assert head is None
        del context
        return NgramSpec(vocab_size=vocab_size, order=self.order, discounts=self.discounts)


ModelSettings = Annotated[
    DecoderSettings
    | RecurrentSettings
    | NgramSettings
    | EncoderSettings
    | BagSettings
    | RecurrentEncoderSettings
    | EncoderDecoderSettings
    | RecurrentSeq2SeqSettings,
    Field(discriminator="kind"),
]
"""Told apart by `kind`."""
