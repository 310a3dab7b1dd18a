"""How a verb opens a model: where it runs, in which numbers, and what else is asked of it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from touchstone.infer import LanguageModel

__all__ = ["Opening"]


@dataclass(frozen=True)
class Opening:
    """The settings of `touchstone.load`, to be used on a folder."""

    device: str = "auto"
    dtype: str = "auto"
    weights: Literal["int8"] | None = None
    invariant: bool = False
    draft: str | None = None

    def load(self, folder: Path | str) -> "LanguageModel":
        """The model in a folder; raises what `touchstone.load` raises."""
        from touchstone.infer import load  # here: a process that only passes the settings on needs no torch

        return load(
            os.fspath(folder), device=self.device, dtype=self.dtype, weights=self.weights, invariant=self.invariant, draft=self.draft
        )
