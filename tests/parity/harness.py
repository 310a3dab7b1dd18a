"""Tiny random models of transformers, which is the oracle, beside what Touchstone loads of their folders.

transformers keeps a few steps in fp32 whatever the model's type; its modules are run with those widened (`widened`), so that float64
results can be compared to the last digits.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from touchstone.models.checkpoint import LoadedModel, load_model

AUTO = {
    "lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked-lm": "AutoModelForMaskedLM",
    "classify": "AutoModelForSequenceClassification",
    "tag": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "base": "AutoModel",
    "encoder": "AutoModelForTextEncoding",
}
"""transformers' class that makes and opens a model with each kind of head."""


@dataclass(frozen=True)
class Case:
    """A config class of transformers, and the settings to try it with."""

    name: str
    model_type: str
    settings: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)  # keys that must stand in config.json, so that a case cannot lose its point
    head: str = "lm"

    def __str__(self) -> str:
        return self.name

    @property
    def auto(self) -> Any:
        import transformers

        return getattr(transformers, AUTO[self.head])


class Wide:
    """The torch module with one name changed, for transformers' own modules to look into."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def widened(model: torch.nn.Module) -> Iterator[None]:
    """Single precision means double in the files of this model's modules, and in what routers do: `.float()` of a matrix, and softmax.

    The angles of rotary positions stay in fp32, as ours do.
    """
    narrow, softmax = torch.Tensor.float, torch.nn.functional.softmax

    def wide(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.dtype == torch.float64 and tensor.ndim == 2 else narrow(tensor)

    def wide_softmax(tensor: torch.Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> torch.Tensor:
        return softmax(tensor, dim, dtype=None if tensor.dtype == torch.float64 else dtype)

    with ExitStack() as changes:
        for name in {type(module).__module__ for module in model.modules()}:
            if name.startswith("transformers.models."):
                changes.enter_context(patch.object(sys.modules[name], "torch", Wide()))
        changes.enter_context(patch.object(torch.Tensor, "float", wide))
        changes.enter_context(patch.object(torch.nn.functional, "softmax", wide_softmax))
        yield


@dataclass(frozen=True)
class Pair:
    """One random model on both sides, in float64."""

    case: Case
    theirs: Any
    folder: Path
    loaded: LoadedModel

    def their_output(self, token_ids: torch.Tensor, **inputs: Any) -> Any:
        with widened(self.theirs), torch.no_grad():
            return self.theirs(token_ids, **inputs)

    def their_logits(self, token_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """What our `logits` should be, for any kind of head."""
        return answers(self.their_output(token_ids, **inputs))


def answers(output: Any) -> torch.Tensor:
    """The logits of an output of theirs, both ends of a span beside each other; the hidden states of a base model."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits if "logits" in output else output.last_hidden_state


def make_pair(case: Case, folder: Path, prepare: Callable[[torch.nn.Module], None] | None = None) -> Pair:
    """A fresh model of the case with random weights, saved to the folder by transformers and loaded from there.

    prepare: what is done to their model before it is saved; None = nothing.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(case.model_type, **case.settings)
    theirs = case.auto.from_config(config, attn_implementation="eager", experts_implementation="eager").double().eval()
    randomise(theirs)
    if prepare is not None:
        prepare(theirs)
    theirs.save_pretrained(folder)
    return Pair(case, theirs, folder, load_model(folder))


def rows(cases: Sequence[Case]) -> list[Any]:
    """The first case of each type and head runs in every check; the rest are for the long run."""
    first = {(case.model_type, case.head): case for case in reversed(cases)}
    return [pytest.param(case, id=str(case), marks=() if first[case.model_type, case.head] is case else pytest.mark.slow) for case in cases]


def randomise(model: torch.nn.Module) -> None:
    """Every parameter of its own: fresh models have norms of one and biases of zero, which hide mistakes."""
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() or "ln_" in name else 0.0, 0.4, generator=rng)


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
