"""A word-by-word translator, the baseline of every translation: each word's likeliest partner by IBM's first model.

P(target word | source word) by expectation maximisation over pairs of sentences, any order of words being as likely as any other.
Source: Brown et al. 1993, model 1.
"""

import re
from collections.abc import Sequence

import numpy as np

__all__ = ["Dictionary", "words_of"]


def words_of(text: str) -> list[str]:
    """Words and marks."""
    return re.findall(r"\w+|[^\w\s]", text)


class Dictionary:
    """The likeliest target word of every source word; an unknown word is its own."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str], n_rounds: int = 8) -> None:
        rows = [(words_of(source), words_of(target)) for source, target in zip(sources, targets, strict=True)]
        ours, theirs = ({word: n for n, word in enumerate(dict.fromkeys(w for row in rows for w in row[side]))} for side in (0, 1))
        meetings, places, n_places = [], [], 0  # of each target word with each source word of its sentence
        for source, target in rows:
            ids = np.array([ours[word] for word in source])
            for word in target:
                meetings.append(ids * len(theirs) + theirs[word])
                places.append(np.full(len(ids), n_places))
                n_places += 1
        pairs, which = np.unique(np.concatenate(meetings), return_inverse=True)
        place, first = np.concatenate(places), pairs // len(theirs)
        chance = np.ones(len(pairs))
        for _ in range(n_rounds):
            share = chance[which] / np.bincount(place, chance[which])[place]
            counts = np.bincount(which, share)
            chance = counts / np.bincount(first, counts)[first]
        names, best = list(theirs), {}
        order = np.argsort(chance, kind="stable")  # the likeliest comes last, and stays
        for word, other in zip(first[order].tolist(), (pairs % len(theirs))[order].tolist(), strict=True):
            best[word] = names[other]
        self.partner = {word: best[n] for word, n in ours.items()}

    def translate(self, text: str) -> str:
        """Each word by its partner, in the source's order."""
        return " ".join(self.partner.get(word, word) for word in words_of(text))
