"""A SentencePiece model in the steps of the `tokenizers` library, so that what is saved is tokenizer.json.

Segmentation and decoded text equal SentencePiece's own. Three things are the library's: the space put before a text counts as its
first character in the offsets, characters are replaced one grapheme at a time, and sums of scores are not rounded to 32 bits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from touchstone.errors import TokenizerError
from touchstone.text.sentencepiece import HIDDEN, SPACE, UNKNOWN, Piece, SentencePieceModel

__all__ = ["Foreign", "rebuild", "shown", "unreachable"]


def rebuild(
    model: SentencePieceModel, pieces: Sequence[Piece], prefix: Literal["always", "first", "never"], *, foreign: "Foreign | None" = None
) -> Backend:
    """The model in the library's steps.

    pieces: the model's own or others, in the order of their ids; one is `unknown`.
    prefix: before which text a space is put: each one, also behind a special token; the first only; none. `first` is for models
    that keep spaces as they are; others put one before each.
    foreign: where `pieces` has some of another model.
    Control, byte and unknown pieces are never found in a text, whatever it spells.
    """
    prefix = "always" if prefix == "first" and model.collapses_spaces else prefix
    backend = Backend(_bpe(model, pieces) if model.algorithm == "bpe" else _unigram(model, pieces))
    has_hidden = any(piece.text.startswith(HIDDEN) for piece in pieces)
    steps: list[Any] = [normalizers.Replace(HIDDEN, UNKNOWN)] if has_hidden else []
    if model.charsmap:
        steps += _replaced_characters(model.charsmap)
    if model.collapses_spaces:
        steps.append(normalizers.Replace(Regex(f"[ {SPACE}]+\\z"), ""))
    if foreign is not None:
        steps.append(foreign.step(pieces))
    in_words = not any(SPACE in piece.text[1:] for piece in pieces if piece.kind == "normal")
    if in_words and model.collapses_spaces and prefix == "always":
        cuts: list[Any] = [pre_tokenizers.Split(" ", "removed"), *_spaced("always")]
    else:
        if model.collapses_spaces:
            steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        steps += [normalizers.Prepend(SPACE)] if prefix == "always" else []
        steps.append(normalizers.Replace(" ", SPACE))
        cuts = _spaced("first") if prefix == "first" else []
        cuts += [pre_tokenizers.Split(SPACE, "merged_with_next")] if in_words and model.algorithm == "unigram" else []
    if model.algorithm == "unigram":
        cuts.append(_special_cut(pieces))
    backend.normalizer = normalizers.Sequence(steps)
    if cuts:
        backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.decoder = _decoder(byte_fallback=model.byte_fallback, prefix=prefix != "never", has_hidden=has_hidden)
    return backend


@dataclass(frozen=True, slots=True)
class Foreign:
    """Pieces of one vocabulary that are not in the model which cuts the text, as in Marian's two models with common ids.

    Hugging Face cuts, then looks up; so a run of characters that the model does not know has an id if the whole run is a piece of the
    other model, and is one unknown token if not. own: the characters of the model's pieces.
    """

    own: frozenset[str]
    is_bpe: bool
    lowest: float

    @classmethod
    def of(cls, model: SentencePieceModel) -> "Foreign":
        """What is foreign to a model."""
        normal = [piece for piece in model.pieces if piece.kind == "normal"]
        own = frozenset(char for piece in normal for char in piece.text)
        return cls(own | {SPACE, " "}, model.algorithm == "bpe", min(piece.score for piece in normal))

    def piece(self, text: str) -> Piece:
        """The piece for a text of the other model; one with a character of this model keeps its id and is never found."""
        if self.own & set(text) or (self.is_bpe and len(text) > 1):
            return unreachable(text)
        return Piece(text, self.lowest if len(text) == 1 else float(len(text) ** 2), "normal")  # the whole is above any two parts

    def step(self, pieces: Sequence[Piece]) -> Any:
        """Write one unknown character for each run that is not, as a whole, among the pieces."""
        tails: dict[str, list[str]] = {}  # by the first character, which is tried before them all
        for piece in pieces:
            if piece.kind == "normal" and len(piece.text) > 1 and not self.own & set(piece.text):
                tails.setdefault(piece.text[0], []).append(re.escape(piece.text[1:]))
        char = f"[^{''.join(map(re.escape, sorted(self.own)))}]"
        known = "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in tails.items())
        whole = f"(?!(?:{known})(?!{char}))" if known else ""
        return normalizers.Replace(Regex(f"(?<!{char})(?={char}{{2}}){whole}{char}+"), UNKNOWN)


def unreachable(text: str) -> Piece:
    """A piece that has an id and a text, and that no text is cut into."""
    return Piece(HIDDEN + text, 0.0, "normal")


def shown(token: str) -> str:
    """A token without the mark of `unreachable`."""
    return token.removeprefix(HIDDEN)


def _bpe(model: SentencePieceModel, pieces: Sequence[Piece]) -> Any:
    """Merges from scores: a pair joins as early as the piece it makes scores high; a piece takes part whose characters are pieces, as
    the trainer makes them all."""
    scores = {piece.text: piece.score for piece in pieces if piece.kind == "normal"}
    merges = [
        (-score, -place, text[:place], text[place:])  # of two ways to the same piece, the longer left part first
        for text, score in scores.items()
        for place in range(1, len(text))
        if text[:place] in scores and text[place:] in scores
    ]
    merges.sort(key=lambda merge: merge[:2])
    return models.BPE(
        vocab={piece.text: number for number, piece in enumerate(pieces)},
        merges=[(left, right) for _, _, left, right in merges],
        unk_token=next(piece.text for piece in pieces if piece.kind == "unknown"),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _unigram(model: SentencePieceModel, pieces: Sequence[Piece]) -> Any:
    vocab = [(piece.text, piece.score if piece.kind == "normal" else 0.0) for piece in pieces]
    unknown = next(number for number, piece in enumerate(pieces) if piece.kind == "unknown")
    return models.Unigram(vocab, unk_id=unknown, byte_fallback=model.byte_fallback)


def _replaced_characters(charsmap: bytes) -> list[Any]:
    """The table of characters; behind NFC if it composes accents, for the library looks up the first part of a letter with two
    accents and drops the rest. Offsets then end before an accent that stands as a character of its own."""
    try:
        table = normalizers.Precompiled(charsmap)
        composes = table.normalize_str("e\u0301") == "\u00e9"
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # which is none
            raise TokenizerError(f"its table of characters cannot be read: {error}.") from None
        raise
    return [normalizers.NFC(), table] if composes else [table]


def _spaced(prefix: Literal["always", "first"]) -> list[Any]:
    """A space before each part or the first, also where that starts with `▁`: the library's own step then puts none, so it is told
    that a space is written as a space, and the next step writes it as a piece does."""
    return [
        pre_tokenizers.Metaspace(replacement=" ", prepend_scheme=prefix, split=False),
        pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False),
    ]


def _special_cut(pieces: Sequence[Piece]) -> Any:
    """A cut inside whatever spells a special token, because the library would find that like any piece."""
    normal = [piece.text for piece in pieces if piece.kind == "normal"]
    chars, pairs = {char for text in normal for char in text}, {text[i : i + 2] for text in normal for i in range(len(text) - 1)}
    names = [piece.text for piece in pieces if piece.kind not in ("normal", "user")]
    if short := [name for name in names if len(name) < 2]:
        raise TokenizerError(f"the special piece `{short[0]}` is one character, which any text may have; give it a longer name.")
    heads: dict[str, list[str]] = {}
    for name in names:
        place = _cut_place(name, chars, pairs)
        heads.setdefault(name[:place], []).append(name[place:])
    patterns = [f"{re.escape(head)}(?={'|'.join(map(re.escape, tails))})" for head, tails in heads.items()]
    return pre_tokenizers.Split(Regex("|".join(patterns)), "merged_with_previous")


def _cut_place(name: str, chars: set[str], pairs: set[str]) -> int:
    """Where to cut a name so that the text that spells it is cut into the same pieces as without: none reaches over, and no run of
    unknown characters, which is one token; the first place where there is no such one. chars, pairs: what the pieces have."""
    for place in range(1, len(name)):
        if name[place - 1 : place + 1] not in pairs and (name[place - 1] in chars or name[place] in chars):
            return place
    return 1


def _decoder(*, byte_fallback: bool, prefix: bool, has_hidden: bool) -> Any:
    steps: list[Any] = [decoders.Replace(HIDDEN, "")] if has_hidden else []
    steps += [decoders.Replace(SPACE, " ")]
    steps += [decoders.ByteFallback()] if byte_fallback else []
    steps += [decoders.Fuse()]
    steps += [decoders.Strip(" ", 1, 0)] if prefix else []
    return decoders.Sequence(steps)
