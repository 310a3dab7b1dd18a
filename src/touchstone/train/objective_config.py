"""What a run minimises, as settings told apart by `kind`; those that need answers say which fields of a row hold them."""

from typing import Annotated, Literal

from pydantic import Field

from touchstone.config import Config
from touchstone.text.conll import Scheme
from touchstone.train.label_objectives import Classify, Span, Tag
from touchstone.train.objective import Causal
from touchstone.train.sequence_objectives import MaskedLm, Seq2Seq

__all__ = [
    "CausalConfig",
    "ClassifyConfig",
    "DenoisingConfig",
    "MaskedLmConfig",
    "ObjectiveConfig",
    "Seq2SeqConfig",
    "SpanConfig",
    "SpanCorruptionConfig",
    "TagConfig",
]


class CausalConfig(Config):
    """Predict every next token of a text."""

    kind: Literal["causal"] = "causal"
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # share of the target spread over the vocabulary; costs likelihood
    z_loss: float = Field(0.0, ge=0)  # on log(Z)^2; 1e-4 keeps the logits of long bfloat16 runs in place

    def build(self) -> Causal:
        """The objective itself."""
        return Causal(self.label_smoothing, self.z_loss)


class MaskedLmConfig(Config):
    """Restore hidden tokens; they are drawn anew every epoch."""

    kind: Literal["masked-lm"] = "masked-lm"
    share: float = Field(0.15, gt=0, lt=1)  # of the tokens that are chosen; BERT's
    whole_words: bool = False  # choose all tokens of a word or none: harder, as in BERT's later models

    def build(self) -> MaskedLm:
        """The objective itself."""
        return MaskedLm()


class SpanCorruptionConfig(Config):
    """Write the spans that were hidden behind sentinels."""

    kind: Literal["span-corruption"] = "span-corruption"
    density: float = Field(0.15, gt=0, lt=1)  # share of the tokens that are hidden; T5's
    mean_span: float = Field(3.0, ge=1)  # tokens; T5's
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def build(self) -> Seq2Seq:
        """The objective itself."""
        return Seq2Seq(self.label_smoothing)


class DenoisingConfig(Config):
    """Write the text whose noised form is read; the shares are those of text.denoise.Noises."""

    kind: Literal["denoising"] = "denoising"
    mask_share: float = Field(0.3, ge=0, le=1)  # of the tokens, hidden in spans of one mask each; BART's
    mean_span: float = Field(3.0, ge=0.5)  # tokens, of a Poisson distribution; BART's
    shuffle_share: float = Field(1.0, ge=0, le=1)  # of the texts, whose sentences change places; BART's
    drop_share: float = Field(0.0, ge=0, lt=1)  # of the tokens, left out; BART's large model has none
    rotate_share: float = Field(0.0, ge=0, le=1)  # of the texts, begun elsewhere; BART's large model has none
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def build(self) -> Seq2Seq:
        """The objective itself."""
        return Seq2Seq(self.label_smoothing)


class Seq2SeqConfig(Config):
    """Write the target of a source: rows with two fields, or two parallel files."""

    kind: Literal["seq2seq"] = "seq2seq"
    label_smoothing: float = Field(0.1, ge=0, lt=1)  # Vaswani et al. 2017 §5.4
    source_field: str = "source"
    target_field: str = "target"
    columns: tuple[str, ...] | None = None  # names of the fields of csv and tsv files without a header; None = they have one

    def build(self) -> Seq2Seq:
        """The objective itself."""
        return Seq2Seq(self.label_smoothing)


class ClassifyConfig(Config):
    """Give each row's text, or pair of texts, its class; `data.text_field` holds the first text."""

    kind: Literal["classify"] = "classify"
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # more than 0 makes confidences too low
    label_field: str = "label"
    second_field: str | None = None  # of the second text of a pair; None = rows have one text
    columns: tuple[str, ...] | None = None  # names of the fields of csv and tsv files without a header; None = they have one

    def build(self) -> Classify:
        """The objective itself."""
        return Classify(self.label_smoothing)


class TagConfig(Config):
    """Give each word its tag; files in columns, a word and its tag a line."""

    kind: Literal["tag"] = "tag"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    scheme: Scheme | None = None  # how the files write spans of words; None = found out from the tags

    def build(self) -> Tag:
        """The objective itself."""
        return Tag(self.label_smoothing)


class SpanConfig(Config):
    """Find the answer to a question in a text; files in SQuAD's json format."""

    kind: Literal["span"] = "span"
    stride: int = Field(64, ge=0)  # tokens by which the stretches of a long text overlap: more than most answers have

    def build(self) -> Span:
        """The objective itself."""
        return Span()


ObjectiveConfig = Annotated[
    CausalConfig | MaskedLmConfig | SpanCorruptionConfig | DenoisingConfig | Seq2SeqConfig | ClassifyConfig | TagConfig | SpanConfig,
    Field(discriminator="kind"),
]
"""Told apart by `kind`."""
