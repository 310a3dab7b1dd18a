"""Answers to questions on Chinese texts as CMRC 2018 scores them: exact match, and F1 of the longest stretch in common.

Differs from SQuAD's rules (`labels.exact_match`, `labels.answer_f1`) in two ways: articles and ASCII's full stop and comma stay, and
what two answers have in common is their longest run of characters, not all their characters. Words in other scripts are one piece;
the script parts them with nltk, here white space and punctuation part them, which agrees on all but abbreviations and contractions.
Source: Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension"; its evaluation script, version 5.
"""

import re
from collections.abc import Sequence

from touchstone.errors import DataError

__all__ = ["cmrc_exact_match", "cmrc_f1"]

_MARKS = frozenset(
    "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"
)  # what the script leaves out; its `……` is no single character and so never met
_PIECE = re.compile(r"[\u4e00-\u9fa5]|\d+(?:[.,]\d+)*|\w+|[^\w\s]")
_HAN = re.compile(r"([\u4e00-\u9fa5])")


def cmrc_exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 if the answer is a right one but for case and the marks that are left out."""
    return float(_without_marks(predicted) in {_without_marks(answer) for answer in _right(answers)})


def cmrc_f1(predicted: str, answers: Sequence[str]) -> float:
    """The best F1 of the longest run of pieces (Han characters, other words) that the answer shares with a right one."""
    ours = _pieces(predicted)
    return max(_f1(ours, _pieces(answer)) for answer in _right(answers))


def _right(answers: Sequence[str]) -> Sequence[str]:
    if isinstance(answers, str) or not answers:
        raise DataError("`answers` must be a list of one right answer or more: every question of CMRC 2018 has one.")
    return answers


def _without_marks(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _MARKS)


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(_HAN.sub(r" \1 ", _without_marks(text)))


def _f1(ours: list[str], there: list[str]) -> float:
    n_common = _longest_run(ours, there)
    return 2 * n_common / (len(ours) + len(there)) if n_common else 0.0


def _longest_run(ours: list[str], there: list[str]) -> int:
    """Length of the longest run of pieces that stands in both."""
    longest, before = 0, [0] * (len(there) + 1)
    for piece in ours:
        row = [0] * (len(there) + 1)
        for place, other in enumerate(there):
            if piece == other:
                row[place + 1] = before[place] + 1
        longest, before = max(longest, *row), row
    return longest
