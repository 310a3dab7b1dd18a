"""What a tokenizer puts around a text, or a pair of texts, before a model reads it: `[CLS] a [SEP] b [SEP]`, `a </s>`, nothing.

The marks are asked of the tokenizer, so that a model is trained on what its tokenizer makes of a text in use.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone.errors import TokenizerError
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Frame"]

Ids = NDArray[np.int64]

_PROBE = "a"


@dataclass(frozen=True, slots=True)
class Frame:
    """The marks before, between and after texts; second_type: the token type of the second text and what is behind it."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    second_type: int = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Frame":
        """The marks of a tokenizer."""
        pair = tokenizer.encode_special(_PROBE, _PROBE)
        first, second = ([place for place, side in enumerate(pair.sides) if side == which] for which in (0, 1))
        if not first or not second:
            raise TokenizerError(f"the tokenizer has no token for `{_PROBE}`, by which what it puts around texts is found out.")
        return cls(tokenizer.prefix_ids, pair.token_ids[first[-1] + 1 : second[0]], tokenizer.suffix_ids, pair.token_types[second[0]])

    @property
    def n_single(self) -> int:
        """Marks around one text."""
        return len(self.before) + len(self.after)

    @property
    def n_pair(self) -> int:
        """Marks around and between two texts."""
        return self.n_single + len(self.between)

    def around(self, text: Ids, second: Ids | None = None) -> Ids:
        """The token ids of a text, or of a pair, with the marks."""
        middle = [] if second is None else [self.between, second]
        return np.concatenate([self.before, text, *middle, self.after]).astype(np.int64)

    def types(self, n_text: int, n_second: int | None = None) -> Ids:
        """The token types of `around`'s tokens for texts of these lengths."""
        if n_second is None:
            return np.zeros(n_text + self.n_single, dtype=np.int64)
        n_first = len(self.before) + n_text + len(self.between)
        return np.repeat([0, self.second_type], [n_first, n_second + len(self.after)]).astype(np.int64)
