"""What the tokens of a vocabulary are, one table entry an id: special, the beginning of a word, the end of a sentence.

Made once from the tokenizer, so that noise can go by whole words and sentences without decoding. A word begins where WordPiece writes
no `##`; in the other vocabularies at a token that begins with white space (`Ġ`, `▁`), with a sign that belongs to no word, or with a
character of a script written without spaces.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone.text.tokenizer import Tokenizer

__all__ = ["TokenKinds", "is_unspaced"]

_SENTENCE_ENDS = tuple(".!?。！？…\n")
_CLOSING = "\"'”’»)]}」』）】"  # may stand behind the end of a sentence
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # first words of the names of their characters
_FIRST_WIDE_BYTE, _FIRST_CONTINUATION, _FIRST_LEAD = 0xE3, 0x80, 0xC0  # of UTF-8: kana, Han and emoji begin with 0xE3 or more


@dataclass(frozen=True, slots=True, eq=False)
class TokenKinds:
    """One entry a token id (V,). `is_special` holds for special tokens and for ids without a token, which no text has."""

    is_special: NDArray[np.bool_]
    starts_word: NDArray[np.bool_]
    ends_sentence: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenKinds":
        """The tables of a tokenizer's vocabulary."""
        ids = range(tokenizer.vocab_size)
        is_special = np.array([i in tokenizer.special_ids or not tokenizer.token_text(i) for i in ids])
        is_inside = [_is_marked_inside(tokenizer, i) for i in ids]
        is_word_piece = any(is_inside)
        starts = [not inside if is_word_piece else _begins_word(tokenizer.token_bytes(i)) for i, inside in enumerate(is_inside)]
        ends = [_ends_sentence(tokenizer.token_bytes(i)) for i in ids]
        return cls(is_special, np.array(starts) | is_special, np.array(ends) & ~is_special)

    @property
    def ordinary(self) -> NDArray[np.int64]:
        """The ids of all tokens that text is made of."""
        return np.flatnonzero(~self.is_special)


def is_unspaced(char: str) -> bool:
    """Whether the character is of a script that puts no spaces between words, such as Chinese; full-width punctuation is none of it."""
    return unicodedata.category(char)[0] in "LMN" and unicodedata.name(char, "").startswith(_UNSPACED)


def _is_marked_inside(tokenizer: Tokenizer, token_id: int) -> bool:
    """Whether the token is written `##…` and stands for what is behind the mark, as WordPiece's do and a `##` of Markdown does not."""
    token = tokenizer.token_text(token_id)
    return token.startswith("##") and len(token) > 2 and tokenizer.token_bytes(token_id) == token[2:].encode("utf-8")


def _begins_word(data: bytes) -> bool:
    """Whether a token of these bytes begins a word; a token that begins amid a character does not."""
    if not data or _FIRST_CONTINUATION <= data[0] < _FIRST_LEAD:
        return False
    char = data[: _n_bytes(data[0])].decode("utf-8", "ignore")
    return not _is_of_a_word(char) if char else data[0] >= _FIRST_WIDE_BYTE


def _n_bytes(lead: int) -> int:
    """Bytes of the character that begins with this one."""
    return 1 + sum(lead >= first for first in (0xC0, 0xE0, 0xF0))


def _is_of_a_word(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" and not is_unspaced(char)


def _ends_sentence(data: bytes) -> bool:
    text = data.decode("utf-8", "ignore").rstrip(" ")
    return text.endswith(_SENTENCE_ENDS) or text.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
