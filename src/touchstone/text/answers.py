"""Examples with answers as token rows: rows with labels, and pairs of a source and a target.

Classes of texts and pairs of texts are made here, tags of words in tagged_rows.py, spans of a context in span_windows.py. What does
not fit is never cut silently: texts that were cut, words behind the cut, questions left out are counted in a `Fit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import ConfigError, DataError
from touchstone.files import hash_of
from touchstone.text.batch import TokenBatch, checked_ids, pad_rows
from touchstone.text.corrupted import pair_batch
from touchstone.text.frame import Frame
from touchstone.text.labelled import LabelledText, TextPair
from touchstone.text.tokenizer import Tokenizer

__all__ = ["AnsweredRows", "Fit", "PairRows", "class_rows", "listed", "pair_rows"]

Ids = NDArray[np.int64]


@dataclass
class Fit:
    """What a context of limited length left of the examples: what was cut or left out, and how often."""

    n: dict[str, int] = field(default_factory=dict)

    def note(self, what: str, n: int = 1) -> None:
        """Count what was cut or left out."""
        if n:
            self.n[what] = self.n.get(what, 0) + n


class AnsweredRows:
    """Rows of tokens with targets of their own: one number a row (N,), two (N, 2), or one a token (a list of rows)."""

    def __init__(
        self,
        rows: Sequence[Ids],
        targets: NDArray[np.int64] | Sequence[Ids],
        *,
        pad_id: int,
        counts: Sequence[NDArray[np.bool_]] | None = None,
        token_types: Sequence[Ids] | None = None,
    ) -> None:
        """counts: which tokens' targets are scored, for targets a token; None = all.

        Raises DataError if no target of all rows counts: a mean over nothing is no loss.
        """
        if not rows:
            raise DataError("no rows: at least one is needed.")
        if counts is not None and not any(row.any() for row in counts):
            raise DataError("all labels are masked: no target of any row counts, so there is nothing to learn.")
        self.rows, self.targets, self.counts, self.token_types, self.pad_id = list(rows), targets, counts, token_types, pad_id
        self.n_examples = len(self.rows)

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on."""
        parts = [[row.tolist() for row in rows] for rows in (self.rows, self.targets, self.counts or [], self.token_types or [])]
        return hash_of(["answered rows", self.pad_id, *parts])

    @property
    def lengths(self) -> Ids:
        """Tokens of each row."""
        return np.array([len(row) for row in self.rows], dtype=np.int64)

    def batch(self, example_ids: ArrayLike) -> TokenBatch:
        """The rows with these numbers, in this order."""
        ids = checked_ids(example_ids, self.n_examples)
        places = ids.tolist()
        token_ids, mask = pad_rows([self.rows[i] for i in places], self.pad_id)
        types = None if self.token_types is None else pad_rows([self.token_types[i] for i in places], 0)[0]
        if isinstance(self.targets, np.ndarray):
            targets = self.targets[ids]
            counts = np.ones(targets.shape, dtype=bool)
        else:
            targets = pad_rows([self.targets[i] for i in places], 0)[0]
            counts = mask if self.counts is None else pad_rows([self.counts[i].astype(np.int64) for i in places], 0)[0].astype(bool)
        return TokenBatch(token_ids, targets, counts, None if mask.all() else mask, None, ids, token_types=types)


class PairRows:
    """Sources for an encoder and targets for a decoder, both with the frame's marks."""

    def __init__(self, sources: Sequence[Ids], targets: Sequence[Ids], *, start_id: int, pad_id: int) -> None:
        if not sources or len(sources) != len(targets):
            raise DataError(f"{len(sources)} sources and {len(targets)} targets; at least one is needed, and as many of both.")
        self.sources, self.targets, self.start_id, self.pad_id = list(sources), list(targets), start_id, pad_id
        self.n_examples = len(self.sources)

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on."""
        sides = [[row.tolist() for row in rows] for rows in (self.sources, self.targets)]
        return hash_of(["pairs", self.start_id, self.pad_id, *sides])

    @property
    def lengths(self) -> Ids:
        """Tokens of the longer side of each pair."""
        return np.array([max(len(source), len(target)) for source, target in zip(self.sources, self.targets, strict=True)], dtype=np.int64)

    def batch(self, example_ids: ArrayLike) -> TokenBatch:
        """The pairs with these numbers, in this order."""
        ids = checked_ids(example_ids, self.n_examples)
        sources, targets = ([rows[i] for i in ids.tolist()] for rows in (self.sources, self.targets))
        return pair_batch(sources, targets, ids, start_id=self.start_id, pad_id=self.pad_id)


def class_rows(
    texts: Sequence[LabelledText], labels: Sequence[str], tokenizer: Tokenizer, *, frame: Frame, context: int, pad_id: int, fit: Fit
) -> AnsweredRows:
    """Texts, or pairs, cut to the context from the longer side, with the place of each label in `labels`.

    Raises DataError for a label that is not among them, with its file and line.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = [text for text in texts if text.label not in numbers]
    if unknown:
        raise DataError(
            f"{unknown[0].place}: label `{unknown[0].label}` is none of {listed(labels)}; {len(unknown)} rows have such labels."
        )
    firsts = tokenizer.encode_batch([text.text for text in texts])
    seconds = tokenizer.encode_batch([text.second or "" for text in texts])
    rows, types = [], []
    for text, first, second in zip(texts, firsts, seconds, strict=True):
        has_pair = text.second is not None
        room = context - (frame.n_pair if has_pair else frame.n_single)
        n_first, n_second = _shared(len(first), len(second) if has_pair else 0, room)
        fit.note("texts cut to the context", n_first < len(first) or (has_pair and n_second < len(second)))
        kept = np.array(second[:n_second], dtype=np.int64) if has_pair else None
        rows.append(frame.around(np.array(first[:n_first], dtype=np.int64), kept))
        types.append(frame.types(n_first, n_second if has_pair else None))
    targets = np.array([numbers[text.label] for text in texts], dtype=np.int64)
    return AnsweredRows(rows, targets, pad_id=pad_id, token_types=types if frame.second_type else None)


def pair_rows(
    pairs: Sequence[TextPair], tokenizer: Tokenizer, *, frame: Frame, context: int, start_id: int, pad_id: int, fit: Fit
) -> PairRows:
    """Pairs whose sides are cut to the context each; a target that is cut has no end mark, for it does not end there."""
    sides: Mapping[str, list[Ids]] = {"source": [], "target": []}
    for side, rows in sides.items():
        room = context - frame.n_single
        for ids in tokenizer.encode_batch([getattr(pair, side) for pair in pairs]):
            is_cut = len(ids) > room
            fit.note(f"{side}s cut to the context", is_cut)
            row = frame.around(np.array(ids[:room], dtype=np.int64))
            rows.append(row[: len(row) - len(frame.after)] if is_cut and side == "target" else row)
    return PairRows(sides["source"], sides["target"], start_id=start_id, pad_id=pad_id)


def listed(names: Sequence[str]) -> str:
    """The first names, as messages list them."""
    return ", ".join(f"`{name}`" for name in names[:12]) + (", …" if len(names) > 12 else "")


def _shared(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """Lengths that fit the room, each token taken from the longer side."""
    if room < 1 + (n_second > 0):
        raise ConfigError(f"`context` leaves room for {room} tokens beside the marks; raise it.")
    if n_first + n_second <= room:
        return n_first, n_second
    shorter = min(n_first, n_second, room // 2)
    return (shorter, room - shorter) if n_first <= n_second else (room - shorter, shorter)
