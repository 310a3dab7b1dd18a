"""Windows of a corpus that are corrupted anew each time they are seen: for masked LM, span corruption and denoising.

`batch(example_ids, keys)` takes one key a row, which the trainer draws from (seed, step, row): so every epoch has new noise, and a run that
is resumed, or that cuts its batches differently, has the same.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import ConfigError, DataError
from touchstone.files import hash_of
from touchstone.text.batch import TokenBatch, checked_ids, pad_rows
from touchstone.text.corrupt import HiddenSpans, corrupt_spans, generator_of, mask_tokens, noise_mask, span_lengths
from touchstone.text.denoise import Noises, add_noise
from touchstone.text.frame import Frame
from touchstone.text.shards import TokenShards
from touchstone.text.token_kinds import TokenKinds

__all__ = ["MaskedWindows", "Masking", "RestoredWindows", "pair_batch", "restored_by_denoising", "restored_by_spans"]

Ids = NDArray[np.int64]
Hide = Callable[[Ids, np.random.Generator], HiddenSpans]


@dataclass(frozen=True, slots=True)
class Masking:
    """How masked LM hides tokens; the defaults are BERT's."""

    share: float = 0.15
    whole_words: bool = False


class MaskedWindows:
    """Windows of `context` tokens, the marks of the frame included, with tokens hidden; targets are the tokens that were there."""

    corrupts = True

    def __init__(
        self,
        shards: TokenShards,
        context: int,
        *,
        kinds: TokenKinds,
        frame: Frame,
        mask_id: int,
        pad_id: int,
        masking: Masking | None = None,
        isolate_documents: bool = False,
    ) -> None:
        """isolate_documents: give `segments`, so that attention stays inside each document."""
        self.n_text = context - frame.n_single
        if self.n_text < 1:
            raise ConfigError(f"`context` ({context}) must leave room for text beside the {frame.n_single} marks around it.")
        self.shards, self.context, self.kinds, self.frame = shards, context, kinds, frame
        self.mask_id, self.pad_id, self.masking, self.isolate_documents = mask_id, pad_id, masking or Masking(), isolate_documents
        self.n_examples = _n_windows(shards, self.n_text)

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on but the keys."""
        frame, masking = asdict(self.frame), asdict(self.masking)
        return hash_of(["masked", self.shards.fingerprint, self.context, frame, masking, self.mask_id, self.pad_id, self.isolate_documents])

    def batch(self, example_ids: ArrayLike, keys: ArrayLike) -> TokenBatch:
        """The windows with these numbers, each with the noise of its key."""
        ids = checked_ids(example_ids, self.n_examples)
        shown, targets, chosen = [], [], []
        for number, key in zip(ids.tolist(), _keys(keys, ids), strict=True):
            row = self.frame.around(_window(self.shards, number, self.n_text))
            masked = mask_tokens(row, generator_of(key), mask_id=self.mask_id, kinds=self.kinds, **asdict(self.masking))
            shown.append(masked.token_ids)
            targets.append(row)
            chosen.append(masked.is_chosen.astype(np.int64))
        token_ids, mask = pad_rows(shown, self.pad_id)
        return TokenBatch(
            token_ids,
            pad_rows(targets, self.pad_id)[0],
            pad_rows(chosen, 0)[0].astype(bool),
            None if mask.all() else mask,
            self._segments(ids, token_ids.shape[1]) if self.isolate_documents else None,
            ids,
        )

    def _segments(self, ids: Ids, width: int) -> Ids:
        """The document of each token; marks belong to the one they stand beside."""
        places = ids[:, None] * self.n_text + np.arange(width) - len(self.frame.before)
        first, last = ids[:, None] * self.n_text, np.minimum((ids[:, None] + 1) * self.n_text, self.shards.n_tokens) - 1
        return self.shards.documents_at(np.clip(places, first, last))


class RestoredWindows:
    """Windows whose noised form an encoder reads and whose text, or hidden parts, a decoder writes; made by the functions below."""

    corrupts = True

    def __init__(
        self,
        shards: TokenShards,
        n_text: int,
        hide: Hide,
        *,
        kinds: TokenKinds,
        frame: Frame,
        start_id: int,
        pad_id: int,
        settings: dict[str, Any],
    ) -> None:
        """n_text: tokens of the corpus a window; its special tokens, such as ends of documents, are left out, for a target ends once.

        hide: makes source and target of a text, without the frame's marks. settings: plain data that changes when `hide` does.
        """
        if n_text < 2:
            raise ConfigError(f"windows of {n_text} tokens are too short to hide some and show others; raise `context`.")
        self.shards, self.n_text, self.hide, self.kinds, self.frame = shards, n_text, hide, kinds, frame
        self.start_id, self.pad_id, self.settings = start_id, pad_id, settings
        self.n_examples = _n_windows(shards, n_text)

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on but the keys."""
        marks = [asdict(self.frame), self.start_id, self.pad_id]
        return hash_of(["restored", self.shards.fingerprint, self.n_text, marks, self.settings])

    def batch(self, example_ids: ArrayLike, keys: ArrayLike) -> TokenBatch:
        """The windows with these numbers, each with the noise of its key."""
        ids = checked_ids(example_ids, self.n_examples)
        sources, targets = [], []
        for number, key in zip(ids.tolist(), _keys(keys, ids), strict=True):
            text = _window(self.shards, number, self.n_text)
            hidden = self.hide(text[~self.kinds.is_special[text]], generator_of(key))
            sources.append(self.frame.around(hidden.source))
            targets.append(self.frame.around(hidden.target))
        return pair_batch(sources, targets, ids, start_id=self.start_id, pad_id=self.pad_id)


def restored_by_spans(
    shards: TokenShards,
    context: int,
    *,
    kinds: TokenKinds,
    frame: Frame,
    sentinel_ids: Ids,
    start_id: int,
    pad_id: int,
    density: float = 0.15,
    mean_span: float = 3.0,
) -> RestoredWindows:
    """T5's span corruption: sources of at most `context` tokens, targets of the hidden spans behind their sentinels."""
    lengths = span_lengths(context - frame.n_single + 1, density=density, mean_span=mean_span)
    most = round(round(lengths.n_tokens * density) / mean_span)
    if most > len(sentinel_ids):
        raise ConfigError(
            f"texts of {lengths.n_tokens} tokens have {most} hidden spans, the vocabulary has {len(sentinel_ids)} sentinels"
            " (`<extra_id_0>` …); give it more, or lower `context` or `density`."
        )

    def hide(text: Ids, rng: np.random.Generator) -> HiddenSpans:
        return corrupt_spans(text, noise_mask(len(text), rng, density=density, mean_span=mean_span), sentinel_ids)

    settings = {"kind": "spans", "density": density, "mean_span": mean_span, "sentinels": sentinel_ids.tolist()}
    return RestoredWindows(shards, lengths.n_tokens, hide, kinds=kinds, frame=frame, start_id=start_id, pad_id=pad_id, settings=settings)


def restored_by_denoising(
    shards: TokenShards,
    context: int,
    *,
    kinds: TokenKinds,
    frame: Frame,
    mask_id: int,
    start_id: int,
    pad_id: int,
    noises: Noises | None = None,
) -> RestoredWindows:
    """BART's denoising: the decoder writes the whole text, at most `context` tokens with the frame's marks."""
    chosen = noises or Noises()

    def hide(text: Ids, rng: np.random.Generator) -> HiddenSpans:
        return HiddenSpans(add_noise(text, rng, chosen, mask_id=mask_id, ends_sentence=kinds.ends_sentence), text)

    settings = {"kind": "denoising", "mask": mask_id, **asdict(chosen)}
    return RestoredWindows(
        shards, context - frame.n_single, hide, kinds=kinds, frame=frame, start_id=start_id, pad_id=pad_id, settings=settings
    )


def pair_batch(sources: list[Ids], targets: list[Ids], example_ids: Ids, *, start_id: int, pad_id: int) -> TokenBatch:
    """Sources for an encoder, and targets that a decoder reads one place later, behind the start token."""
    source_ids, source_mask = pad_rows(sources, pad_id)
    target_ids, counts = pad_rows(targets, pad_id)
    read, mask = pad_rows([np.concatenate([[start_id], target[:-1]]) for target in targets], pad_id)
    return TokenBatch(
        read, target_ids, counts, None if mask.all() else mask, None, example_ids, source_ids=source_ids, source_mask=source_mask
    )


def _n_windows(shards: TokenShards, n_text: int) -> int:
    if not shards.n_tokens:
        raise DataError(f"{shards.folder.name}: no tokens to make windows of; give some text.")
    return -(-shards.n_tokens // n_text)


def _window(shards: TokenShards, number: int, n_text: int) -> Ids:
    return shards.read(number * n_text, (number + 1) * n_text).astype(np.int64)


def _keys(keys: ArrayLike, ids: Ids) -> list[int]:
    given = np.asarray(keys, dtype=np.int64)
    if given.shape != ids.shape:
        raise ConfigError(f"{given.size} keys for {ids.size} examples; give one for each.")
    return given.tolist()
