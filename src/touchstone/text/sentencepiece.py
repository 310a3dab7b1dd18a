"""SentencePiece models (`.model`, `.spm`): a small reader of the file.

The file is a protocol buffer from anywhere: every length is held against the bytes that are left before anything is made of them,
and what SentencePiece would not load is refused.
Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from touchstone.errors import TokenizerError
from touchstone.files import open_regular

__all__ = ["HIDDEN", "SPACE", "UNKNOWN", "Piece", "PieceKind", "SentencePieceModel", "parse_sentencepiece"]

SPACE = "▁"
"""What stands for a space in pieces."""

HIDDEN, UNKNOWN = "\ufdd0", "\ufdd1"
"""Two noncharacters that no piece has: the mark of a piece that is not to be found, and what stands for unknown characters."""

PieceKind = Literal["normal", "unknown", "control", "user", "byte"]
"""What a piece is for; `user` is one that always stays whole."""

_KINDS: dict[int, PieceKind] = {1: "normal", 2: "unknown", 3: "control", 4: "user", 6: "byte"}  # 5, unused, is refused
_MAX_BYTES = 32 << 20  # the largest in use have 5 MB
_MAX_PIECES = 1 << 20  # as many as the largest multilingual vocabularies
_MAX_PIECE_CHARS = 256  # the longest in use are a few dozen
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMES = {_VARINT: "a number", _FIXED64: "8 bytes", _BYTES: "a run of bytes", _FIXED32: "4 bytes"}
_PIECE = {1: ("text", _BYTES), 2: ("score", _FIXED32), 3: ("kind", _VARINT)}
_TRAINER = {3: ("algorithm", _VARINT), 24: ("space_is_suffix", _VARINT), 35: ("byte_fallback", _VARINT)}
_NORMALIZER = {2: ("charsmap", _BYTES), 3: ("adds_space", _VARINT), 4: ("collapses_spaces", _VARINT), 5: ("escapes_spaces", _VARINT)}


class Piece(NamedTuple):
    """One entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A `.model` file in memory.

    charsmap: the compiled table of characters to replace; empty where there is none.
    adds_space: a space is put before a text; collapses_spaces: runs of spaces become one, those at the ends none.
    """

    pieces: tuple[Piece, ...]
    algorithm: Literal["unigram", "bpe"]
    byte_fallback: bool
    charsmap: bytes
    adds_space: bool
    collapses_spaces: bool


def parse_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a model file; TokenizerError says what SentencePiece, or we, cannot use."""
    with os.fdopen(open_regular(path, error=TokenizerError), "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise TokenizerError(f"{path}: a SentencePiece model is at most {_MAX_BYTES} bytes, this one is larger.")
    try:
        return _model(memoryview(data))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: not a usable SentencePiece model: {error}") from None


def _model(data: memoryview) -> SentencePieceModel:
    pieces: dict[str, Piece] = {}
    trainer: dict[str, Any] = {}
    normalizer: dict[str, Any] = {}
    for number, wire, value in _fields(data):
        if number in (1, 2, 3, 5):
            _expect(wire, _BYTES, f"field {number}")
        if number == 1:
            piece = _piece(_message(value, _PIECE), len(pieces))
            if piece.text in pieces:
                raise TokenizerError(f"the piece `{piece.text}` is there twice.")
            pieces[piece.text] = piece
            if len(pieces) > _MAX_PIECES:
                raise TokenizerError(f"it has more than {_MAX_PIECES} pieces.")
        elif number == 2:
            trainer |= _message(value, _TRAINER)
        elif number == 3:
            normalizer |= _message(value, _NORMALIZER)
        elif number == 5 and _message(value, _NORMALIZER).get("charsmap"):
            raise TokenizerError("it replaces characters in decoded text, which is not supported.")
    return _checked(tuple(pieces.values()), trainer, normalizer)


def _checked(pieces: tuple[Piece, ...], trainer: dict[str, Any], normalizer: dict[str, Any]) -> SentencePieceModel:
    algorithm = {1: "unigram", 2: "bpe"}.get(trainer.get("algorithm", 1))
    byte_fallback = bool(trainer.get("byte_fallback", False))
    n_unknown = sum(piece.kind == "unknown" for piece in pieces)
    byte_names = {piece.text for piece in pieces if piece.kind == "byte"}
    if algorithm is None:
        raise TokenizerError("it is neither a unigram nor a BPE model.")
    if not any(piece.kind == "normal" for piece in pieces) or n_unknown != 1:
        raise TokenizerError(f"it has {len(pieces)} pieces, {n_unknown} of them for the unknown; one must be, and others not.")
    if byte_names != ({f"<0x{byte:02X}>" for byte in range(256)} if byte_fallback else set()):
        raise TokenizerError(f"`byte_fallback` is {byte_fallback}, and {len(byte_names)} pieces are bytes; all 256 or none must be.")
    if trainer.get("space_is_suffix") or not normalizer.get("escapes_spaces", True):
        raise TokenizerError("it puts spaces behind words, or keeps them as they are, which is not supported.")
    return SentencePieceModel(
        pieces,
        "unigram" if algorithm == "unigram" else "bpe",
        byte_fallback,
        bytes(normalizer.get("charsmap", b"")),
        bool(normalizer.get("adds_space", True)),
        bool(normalizer.get("collapses_spaces", True)),
    )


def _piece(fields: dict[str, Any], number: int) -> Piece:
    try:
        text = bytes(fields.get("text", b"")).decode("utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"piece {number} is not UTF-8.") from None
    kind = _KINDS.get(fields.get("kind", 1))
    score = fields.get("score", 0.0)
    if not text or kind is None or not math.isfinite(score):
        raise TokenizerError(f"piece {number} `{text}` has kind {fields.get('kind', 1)} and score {score}; empty or unused, or no number.")
    if HIDDEN in text or UNKNOWN in text:
        raise TokenizerError(f"piece {number} holds U+FDD0 or U+FDD1, which are no characters.")
    if len(text) > _MAX_PIECE_CHARS:
        raise TokenizerError(f"piece {number} has {len(text)} characters; at most {_MAX_PIECE_CHARS} are read.")
    return Piece(text, score, kind)


def _message(data: memoryview, known: dict[int, tuple[str, int]]) -> dict[str, Any]:
    """The fields of a message that have a name here, the last of each, as the format says; others are for training."""
    found: dict[str, Any] = {}
    for number, wire, value in _fields(data):
        if number in known:
            name, expected = known[number]
            _expect(wire, expected, f"`{name}`")
            found[name] = struct.unpack("<f", value)[0] if wire == _FIXED32 else value
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Each field's number, wire type and value: an int, or the bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise TokenizerError(f"field {number} has wire type {wire}, which no such file has.")
        if not number or size > len(data) - place:
            raise TokenizerError(f"field {number} should have {size} bytes, {len(data) - place} are left; the file may be cut short.")
        yield number, wire, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise TokenizerError("it ends inside a number; the file may be cut short.")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise TokenizerError("it has a number of more than ten bytes.")


def _expect(wire: int, expected: int, what: str) -> None:
    if wire != expected:
        raise TokenizerError(f"{what} should be {_NAMES[expected]}, this is {_NAMES[wire]}.")
