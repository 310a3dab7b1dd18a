"""Trivial answers: what guessing, the commonest label, the first sentence or counting bytes would give.

They are scored by the task's own scorer on the same examples, so that a model's figure and a baseline's differ in nothing but the answer.
Sources: Nenkova 2005 (the lead of a text as its summary); Richardson et al. 2013 (the sentence that shares most words with a question);
Krichevsky & Trofimov 1981 (counting without training text); Kneser & Ney 1995 (n-grams).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from touchstone.errors import DataError
from touchstone.evaluate.overlap import words_of
from touchstone.models.ngram import NgramModel, NgramSpec

__all__ = ["ByteNgram", "adaptive_byte_nats", "byte_ngram", "commonest_of", "lead", "sentence_like", "sentences_of", "word_overlap"]

_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？；]|\n|$)", re.DOTALL)
_N_BYTES = 256
_START = 256  # the token before a text


class ByteNgram:
    """An n-gram model of the bytes of texts."""

    def __init__(self, model: NgramModel) -> None:
        self._model = model

    def nats(self, text: str) -> float:
        """-log P of the text's bytes, from its start."""
        return -float(self._model.token_log_probs(_bytes(text))[1:].sum())


def byte_ngram(texts: Iterable[str], order: int = 5) -> ByteNgram:
    """Fit one, each text a document of its own; DataError if there is no text."""
    parts = [_bytes(text) for text in texts if text]
    if not parts:
        raise DataError("an n-gram baseline needs a training text, and this one is empty.")
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    return ByteNgram(NgramModel.fit(NgramSpec(vocab_size=_N_BYTES + 1, order=order), np.concatenate(parts), starts))


def adaptive_byte_nats(text: str, before: str = "") -> float:
    """-log P of a text's bytes by what was counted of the bytes so far: (count + 1/2) / (all + 128). It needs no training text.

    before: what comes first and is counted, but not scored. The product of all steps depends on the counts alone, not on their order.
    """
    old = np.bincount(np.frombuffer(before.encode(), dtype=np.uint8), minlength=_N_BYTES)
    new = old + np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=_N_BYTES)
    seen = np.flatnonzero(new > old)
    of_bytes = sum(math.lgamma(new[byte] + 0.5) - math.lgamma(old[byte] + 0.5) for byte in seen.tolist())
    return math.lgamma(new.sum() + _N_BYTES / 2) - math.lgamma(old.sum() + _N_BYTES / 2) - of_bytes


def sentences_of(text: str) -> list[str]:
    """The sentences of an English or Chinese text, by their marks and line ends; the text itself where there are none."""
    return [part for found in _SENTENCE.findall(text) if (part := found.strip())] or [text.strip()]


def lead(text: str, n_sentences: int = 1) -> str:
    """The first sentences."""
    return " ".join(sentences_of(text)[:n_sentences])


def sentence_like(question: str, text: str) -> str:
    """The sentence of the text that shares most different words with the question, the first of equals."""
    asked = set(words_of(question))
    return max(sentences_of(text), key=lambda sentence: len(asked & set(words_of(sentence))))


def word_overlap(a: str, b: str) -> float:
    """Words in common over all different words of both: 0 to 1."""
    first, second = set(words_of(a)), set(words_of(b))
    return len(first & second) / len(first | second) if first | second else 0.0


def commonest_of(labels: Sequence[str]) -> str:
    """The label that occurs most often, the first of equals by name; DataError if there is none."""
    if not labels:
        raise DataError("no label to count: the commonest of none is not defined.")
    counts = Counter(labels)
    return max(sorted(counts), key=lambda label: counts[label])


def _bytes(text: str) -> Int64[np.ndarray, " N"]:
    return np.concatenate([[_START], np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)])
