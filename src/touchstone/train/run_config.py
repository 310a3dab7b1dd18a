"""A whole run in one settings file: text, vocabulary, model, objective and training."""

from typing import Literal, Self

from pydantic import Field, model_validator

from touchstone.config import Config
from touchstone.models.ngram import NgramSpec
from touchstone.models.spec import ModelSpec
from touchstone.text.prepare import DataConfig, TokenizerConfig
from touchstone.train.model_settings import DecoderSettings, ModelSettings, NgramSettings
from touchstone.train.objective import Causal
from touchstone.train.settings import TrainConfig

__all__ = ["ObjectiveConfig", "RunConfig"]


class ObjectiveConfig(Config):
    """What is minimised."""

    kind: Literal["causal"] = "causal"
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # share of the target spread over the vocabulary; costs likelihood
    z_loss: float = Field(0.0, ge=0)  # on log(Z)^2; 1e-4 keeps the logits of long bfloat16 runs in place

    def build(self) -> Causal:
        """The objective itself."""
        return Causal(self.label_smoothing, self.z_loss)


class RunConfig(Config):
    """Everything that decides a run; `config.yaml` of a run folder holds one."""

    name: str = Field(min_length=1)  # of the recipe it began as
    data: DataConfig = DataConfig(corpus="python")
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelSettings
    context: int = Field(gt=0)  # tokens in a training window
    isolate_documents: bool = False  # keep attention and scoring inside each document of a window
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig | None = None  # None for an n-gram model, which is counted

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.model, NgramSettings) != (self.train is None):
            raise ValueError("`train` belongs to every model but an n-gram model, which is counted; give it or leave it out.")
        longest = self.model.max_seq_len if isinstance(self.model, DecoderSettings) else None
        if longest is not None and self.context > longest:
            raise ValueError(f"`context` ({self.context}) must be at most `model.max_seq_len` ({longest}).")
        return self

    def to_spec(self, vocab_size: int) -> ModelSpec | NgramSpec:
        """The spec of the model for the vocabulary that the tokenizer turned out to have."""
        return self.model.to_spec(vocab_size, self.context)
