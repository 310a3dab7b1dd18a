"""A whole run in one settings file: text, vocabulary, model, objective and training."""

from typing import Self

from pydantic import Field, model_validator

from touchstone.config import Config
from touchstone.models.heads import ClassifyHead, Head, SpanHead, TagHead
from touchstone.models.ngram import NgramSpec
from touchstone.models.spec import ModelSpec
from touchstone.nn.mlp import ActivationName
from touchstone.text.prepare import DataConfig, TokenizerConfig
from touchstone.train.model_settings import BagSettings, EncoderSettings, ModelSettings, NgramSettings, RecurrentEncoderSettings
from touchstone.train.objective_config import CausalConfig, ObjectiveConfig
from touchstone.train.settings import TrainConfig

__all__ = ["FITTING_MODELS", "RunConfig"]


class RunConfig(Config):
    """Everything that decides a run; `config.yaml` of a run folder holds one."""

    name: str = Field(min_length=1)  # of the recipe it began as
    data: DataConfig = DataConfig(corpus="python")
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelSettings
    context: int = Field(gt=0)  # tokens in a training window; of a text with answers the most that is read, on each side of a pair
    isolate_documents: bool = False  # keep attention and scoring inside each document of a window
    objective: ObjectiveConfig = CausalConfig()
    train: TrainConfig | None = None  # None for an n-gram model, which is counted

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.model, NgramSettings) != (self.train is None):
            raise ValueError("`train` belongs to every model but an n-gram model, which is counted; give it or leave it out.")
        longest = getattr(self.model, "max_seq_len", None)
        if longest is not None and self.context > longest:
            raise ValueError(f"`context` ({self.context}) must be at most `model.max_seq_len` ({longest}).")
        if (self.data.valid_sources or self.data.test_sources) and self.objective.kind not in _OF_ROWS:
            raise ValueError(
                f"`data.valid_sources` and `data.test_sources` are files of rows; `{self.objective.kind}` learns from text, of which"
                " `data.valid_fraction` and `data.test_fraction` hold some out."
            )
        fitting = FITTING_MODELS[self.objective.kind]
        if self.model.kind not in fitting:
            raise ValueError(f"`objective` ({self.objective.kind}) trains models of the kind {_listed(fitting)}, not `{self.model.kind}`.")
        if self.isolate_documents and self.objective.kind not in ("causal", "masked-lm"):
            raise ValueError(f"`isolate_documents` is for windows of packed text; leave it out of a run of `{self.objective.kind}`.")
        return self

    def to_spec(self, vocab_size: int, n_labels: int | None = None) -> ModelSpec | NgramSpec:
        """The spec of the model for the vocabulary that the tokenizer turned out to have.

        n_labels: of the data, for an objective that gives labels; None = two, for an estimate before the data is read.
        """
        return self.model.to_spec(vocab_size, self.context, self._head(n_labels or 2))

    def _head(self, n_labels: int) -> Head | None:
        """The head that the objective needs; None where the model has its own."""
        kind, model = self.objective.kind, self.model
        if kind == "classify":
            assert isinstance(model, EncoderSettings | BagSettings | RecurrentEncoderSettings)
            dense: ActivationName | None = "tanh" if isinstance(model, EncoderSettings) else None  # BERT's pooler
            return ClassifyHead(n_labels=n_labels, pooling=model.pooling, activation=dense, dropout=model.dropout)
        if kind == "tag":
            return TagHead(n_labels=n_labels, dropout=getattr(model, "dropout", 0.0))
        return SpanHead() if kind == "span" else None


FITTING_MODELS: dict[str, tuple[str, ...]] = {
    "causal": ("decoder", "recurrent", "ngram"),
    "masked-lm": ("encoder",),
    "span-corruption": ("encoder-decoder", "recurrent-seq2seq"),
    "denoising": ("encoder-decoder", "recurrent-seq2seq"),
    "seq2seq": ("encoder-decoder", "recurrent-seq2seq"),
    "classify": ("encoder", "bag", "recurrent-encoder"),
    "tag": ("encoder", "recurrent-encoder"),
    "span": ("encoder", "recurrent-encoder"),
}
"""The kinds of model that each objective trains."""

_OF_ROWS = ("classify", "tag", "span", "seq2seq")  # objectives that learn from rows with answers


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in names)
