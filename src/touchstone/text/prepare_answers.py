"""Rows with answers, made ready: read, divided without near-copies on two sides, and a vocabulary learned from the training side.

Rows are held in memory; the vocabulary, which takes the time, is kept in the cache under a hash of the text it is learned from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from touchstone.files import check_writable, hash_of, is_complete, publish_folder
from touchstone.text.near_copies import Fingerprints
from touchstone.text.prepare import DataConfig, TokenizerConfig
from touchstone.text.read import ReadReport
from touchstone.text.split import SIDES, assign_sides, content_key
from touchstone.text.tokenizer import Tokenizer
from touchstone.text.vocabulary import Progress

__all__ = ["AnswerSides", "divide", "learned_tokenizer"]

T = TypeVar("T")

_VERSION = 2  # raised whenever the same text and settings would give another vocabulary


@dataclass(frozen=True)
class AnswerSides(Generic[T]):
    """Rows by side, each in the order given. n_near_copies: rows that share their group with an earlier one."""

    train: list[T]
    valid: list[T]
    test: list[T]
    rows_hash: str  # of all rows, in order
    n_near_copies: int = 0
    n_left_out: int = 0  # rows of the pool that are near-copies of rows given as a side of their own
    report: ReadReport = field(default_factory=ReadReport)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each side."""
        return {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)}


def divide(
    rows: Sequence[T],
    text_of: Callable[[T], str],
    data: DataConfig,
    report: ReadReport | None = None,
    *,
    valid: Sequence[T] = (),
    test: Sequence[T] = (),
) -> AnswerSides[T]:
    """Divide rows by the share of their text; rows whose texts are near-copies stay together.

    text_of: what stands for a row, such as the context of a question, so that all questions on one text are on one side.
    valid, test: sides that are given; no share of the rows is taken for them, and rows that are near-copies of theirs are left out.
    Raises DataError when there are too few independent rows for a side that is asked for.
    """
    given = [*rows, *valid, *test]
    groups = _groups([text_of(row) for row in given], data.near_copy_share)
    is_apart = ~np.isin(groups[: len(rows)], groups[len(rows) :])
    kept = [row for row, apart in zip(rows, is_apart.tolist(), strict=True) if apart]
    _, of_kept = np.unique(groups[: len(rows)][is_apart], return_inverse=True)
    shares = {"valid_fraction": 0.0 if valid else data.valid_fraction, "test_fraction": 0.0 if test else data.test_fraction}
    parts = _shared_out(kept, text_of, of_kept, seed=data.seed, **shares)
    return AnswerSides(
        parts[0],
        list(valid) or parts[1],
        list(test) or parts[2],
        rows_hash=hash_of([repr(row) for row in given]),
        n_near_copies=len(groups) - len(np.unique(groups)),
        n_left_out=len(rows) - len(kept),
        report=report or ReadReport(),
    )


def learned_tokenizer(texts: Sequence[str], tokenizer: TokenizerConfig, cache: Path | str, progress: Progress | None = None) -> Tokenizer:
    """The tokenizer that these texts give, from the cache if it was learned before.

    Raises TokenizerError on a vocabulary that the texts do not support.
    """
    settings = tokenizer.model_dump(mode="json")
    key = hash_of([_VERSION, settings, version("tokenizers"), list(texts)])[:40]
    folder = Path(cache) / "tokenizers" / key
    if not is_complete(folder):
        check_writable(folder.parent)
        learned = Tokenizer.train(iter(texts), **tokenizer.model_dump(), progress=progress)
        publish_folder(folder, learned.save)
    return Tokenizer.load(folder)


def _groups(texts: Sequence[str], near_copy_share: float) -> NDArray[np.int64]:
    """The number of the group of near-copies of each text."""
    fingerprints = Fingerprints()
    for text in texts:
        fingerprints.add(text)
    return fingerprints.groups(near_copy_share)


def _shared_out(
    rows: Sequence[T], text_of: Callable[[T], str], groups: NDArray[np.int64], *, valid_fraction: float, test_fraction: float, seed: int
) -> list[list[T]]:
    """The rows of the three sides."""
    texts = [text_of(row) for row in rows]
    sides = assign_sides(
        groups,
        np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], dtype=np.int64),
        [content_key(text) for text in texts],
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    return [[row for row, side in zip(rows, sides.tolist(), strict=True) if side == place] for place in range(len(SIDES))]
