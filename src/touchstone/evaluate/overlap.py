"""How much of a reference text is in a generated one: ROUGE-1, ROUGE-2, ROUGE-L, BLEU and chrF.

ROUGE is F1 from 0 to 1 of one text, of several references the best one, as the rouge-score package defines it: lower case, words are
runs of letters and digits, no stemming, ROUGE-L by the longest common subsequence of the whole text. Two differences, both outside
ASCII, which that package drops: letters of every alphabet count, and in scripts without spaces each character is a word.
BLEU and chrF are sacrebleu's, from 0 to 100, of a whole corpus: its counts are kept by example, so resampling examples counts no
text again; the signature that makes a figure comparable stands in the interval's `method`.
Sources: Lin 2004 (ROUGE); Papineni et al. 2002 (BLEU); Popović 2015 (chrF); Post 2018 (sacrebleu, signatures).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from touchstone.errors import DataError, MissingPackage
from touchstone.stats import Interval, bootstrap_sums
from touchstone.text.token_kinds import is_unspaced

__all__ = [
    "BLEU_COUNTS",
    "CHRF_COUNTS",
    "bleu",
    "bleu_counts",
    "bleu_of",
    "chrf",
    "chrf_counts",
    "chrf_of",
    "rouge_l",
    "rouge_n",
    "words_of",
]

BLEU_COUNTS = ("n_words", "n_reference_words", *(f"n_right_{n}" for n in range(1, 5)), *(f"n_found_{n}" for n in range(1, 5)))
"""What one example adds to BLEU: lengths, then n-grams that are right and that there are, in sacrebleu's order."""

CHRF_COUNTS = tuple(f"{name}_{n}" for n in range(1, 7) for name in ("n_found", "n_there", "n_right"))
"""What one example adds to chrF: character n-grams of the text, of its reference, and of both."""

_WORD, _NOT_ASCII = re.compile(r"[^\W_]+"), re.compile(r"[^\x00-\x7f]+")
_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}
"""sacrebleu's tokenizer by language, `13a` for all others; its ones for Japanese and Korean need packages of their own."""


def words_of(text: str) -> list[str]:
    """Runs of letters and digits in lower case; in scripts without spaces, such as Chinese, each character is a word."""
    return _WORD.findall(_NOT_ASCII.sub(_parted, text.lower()))


def rouge_n(predicted: str, references: Sequence[str], n: int) -> float:
    """F1 of the n-grams of words, each counted as often as both texts have it; 0 where either has none."""
    ours = _ngrams(words_of(predicted), n)
    return max(
        _f1(_n_common(ours, there), ours.total(), there.total()) for there in (_ngrams(words, n) for words in _references(references))
    )


def rouge_l(predicted: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words; 0 where either text has none."""
    ours = words_of(predicted)
    return max(_f1(_n_in_order(ours, words), len(ours), len(words)) for words in _references(references))


def bleu(
    predicted: Sequence[str],
    references: Sequence[Sequence[str]],
    clusters: Sequence[Any] | None = None,
    *,
    language: str = "en",
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """BLEU of a corpus, sacrebleu's with its defaults.

    references: one or more for each text. language: of the texts, such as `zh`; it chooses how words are found.
    """
    counts = bleu_counts(predicted, references, language=language)
    return bleu_of(counts, clusters, language=language, level=level, n_resamples=n_resamples, seed=seed)


def chrf(
    predicted: Sequence[str],
    references: Sequence[Sequence[str]],
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """chrF of a corpus, sacrebleu's with its defaults: F2 of the character 1- to 6-grams, white space left out."""
    return chrf_of(chrf_counts(predicted, references), clusters, level=level, n_resamples=n_resamples, seed=seed)


def bleu_counts(predicted: Sequence[str], references: Sequence[Sequence[str]], *, language: str = "en") -> Float64[np.ndarray, "N 10"]:
    """What each example adds to BLEU, in the order of BLEU_COUNTS."""
    return _counts(_bleu(language), predicted, references)


def chrf_counts(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> Float64[np.ndarray, "N 18"]:
    """What each example adds to chrF, in the order of CHRF_COUNTS; of several references the one it is likest to."""
    return _counts(_chrf(), predicted, references)


def bleu_of(
    counts: Float64[np.ndarray, "N 10"],
    clusters: Sequence[Any] | None = None,
    *,
    language: str = "en",
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """BLEU from what the examples add to it; language: what they were counted with."""
    return _resampled(_bleu(language), counts, clusters, level, n_resamples, seed)


def chrf_of(
    counts: Float64[np.ndarray, "N 18"],
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """chrF from what the examples add to it."""
    return _resampled(_chrf(), counts, clusters, level, n_resamples, seed)


def _parted(found: re.Match[str]) -> str:
    return "".join(f" {char} " if is_unspaced(char) else char for char in found[0])


def _references(references: Sequence[str]) -> list[list[str]]:
    if isinstance(references, str) or not references:
        raise DataError("`references` must be a list of one right text or more.")
    return [words_of(reference) for reference in references]


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _n_common(ours: Counter[tuple[str, ...]], there: Counter[tuple[str, ...]]) -> int:
    return (ours & there).total()


def _n_in_order(ours: Sequence[str], there: Sequence[str]) -> int:
    """Length of the longest common subsequence; a row of the usual table is one whole number (Hyyrö 2004), its zeros the steps."""
    places: dict[str, int] = {}
    for place, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(ours)) - 1
    row = full
    for word in there:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(ours) - row.bit_count()


def _f1(n_common: int, n_ours: int, n_there: int) -> float:
    return 2 * n_common / (n_ours + n_there) if n_common else 0.0


def _bleu(language: str) -> Any:
    return _sacrebleu().BLEU(tokenize=_TOKENIZERS.get(language, "13a"), force=True)  # force: no warnings of its own


def _chrf() -> Any:
    return _sacrebleu().CHRF()


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError:
        raise MissingPackage('BLEU and chrF need one more package: pip install "touchstone-lm[eval]".') from None
    return metrics


def _counts(metric: Any, predicted: Sequence[str], references: Sequence[Sequence[str]]) -> Float64[np.ndarray, "N C"]:
    if len(predicted) != len(references) or not len(predicted):
        raise DataError(f"Texts ({len(predicted)}) and their references ({len(references)}) must be of the same examples, one or more.")
    if isinstance(references[0], str) or not all(references):
        raise DataError("`references` must hold a list of one right text or more for each example.")
    most = max(map(len, references))
    streams = [[texts[place] if place < len(texts) else None for texts in references] for place in range(most)]
    # The hooks that sacrebleu's metrics are built from: its own resampling uses them, and no public call gives counts of chrF.
    return np.array(metric._extract_corpus_statistics(list(predicted), streams), dtype=np.float64)


def _resampled(
    metric: Any, counts: Float64[np.ndarray, "N C"], clusters: Sequence[Any] | None, level: float, n_resamples: int, seed: int
) -> Interval:
    def score(sums: Float64[np.ndarray, "*B C"]) -> Float64[np.ndarray, "*B"]:
        rows = sums.reshape(-1, sums.shape[-1])
        return np.array([metric._compute_score_from_stats(row.tolist()).score for row in rows]).reshape(sums.shape[:-1])

    found = bootstrap_sums(score, counts, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)
    return replace(found, method=f"{found.method}; sacrebleu {_signature(metric)}")


def _signature(metric: Any) -> str:
    """sacrebleu's own, without the number of references, which the counts do not say."""
    metric.num_refs = -1
    return "|".join(part for part in metric.get_signature().format().split("|") if not part.startswith("nrefs:"))
