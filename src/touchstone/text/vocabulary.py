"""Learn the vocabulary of a tokenizer from a stream of text, in bounded memory, the same one every time.

Byte-level kinds (BPE, Unigram, bytes) spell every text in 256 byte tokens and what is learned on top, so nothing is unknown and
decoding gives back the text. WordPiece normalises white space and has an unknown token, as BERT's.

The pattern says where a token may not reach over. `gpt2` is GPT-2's own. `code` differs where source code does: each newline is a
token of its own and so is the indentation behind it, so that a prompt that ends in a newline, or in an indentation, ends where the
training text has a border; and quotes do not stick to letters as English contractions.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from touchstone.config import unknown_name
from touchstone.errors import TokenizerError
from touchstone.text.cuts import cut_place

__all__ = ["DEFAULT_MAX_BYTES", "DEFAULT_SPECIALS", "DEFAULT_VOCAB_SIZE", "PATTERNS", "Kind", "Progress", "TrainingSample", "learn"]

Kind = Literal["bpe", "wordpiece", "unigram", "bytes"]

Progress = Callable[[str, int, int | None], None]
"""Told (stage, units done, units in all or None) while long work goes on."""

PATTERNS: dict[str, str | None] = {
    "gpt2": None,  # built into the library's byte-level step
    "code": r"\n|(?<=\n)[^\S\n]+| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+(?!\S)|\s",
}
"""Names of the ways to cut text before tokens are learned."""

DEFAULT_SPECIALS = ("<|endoftext|>", "<|pad|>")
"""The end of a text, and padding, which is never the end of a text."""

DEFAULT_VOCAB_SIZE = 4096
"""Enough for a model of a few million parameters; a larger one would spend them on its embedding."""

DEFAULT_MAX_BYTES = 64 << 20
"""Text beyond this is sampled; what a vocabulary needs is counted long before, and memory stays bounded."""

_PIECE_CHARS = 64 << 10  # a sample is drawn from pieces of at most this size
_LONGEST_TEXT = 1 << 20  # one unbroken run of letters may be no longer, for the trainer holds each run as one word
_MIN_FREQUENCY = 2  # a pair seen once says nothing about the next text
_UNSEEN_SPREAD = 256 * 0.0001 + 1e-6  # the library spaces the scores of characters that do not occur by 0.0001
_AROUND = (  # special tokens, and what they do around one text and around two; the first whose tokens are all there holds
    (("[CLS]", "[SEP]"), "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    (("<s>", "</s>"), "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    (("</s>",), "$A </s>", "$A </s> $B </s>"),
)
_UNKNOWN = ("<|unk|>", "<unk>", "[UNK]")  # WordPiece needs one; the first is added where none is given


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """How much text there was and how much of it the vocabulary was learned from."""

    n_bytes_seen: int
    n_bytes_used: int


def learn(
    texts: Iterable[str],
    *,
    kind: Kind,
    vocab_size: int | None,
    specials: Sequence[str],
    pattern: str | None,
    max_bytes: int,
    progress: Progress | None,
) -> tuple[Backend, TrainingSample]:
    """A tokenizer of the library and the sample it was trained on; the arguments are those of `Tokenizer.train`."""
    _check(kind, vocab_size, specials, pattern, max_bytes)
    if kind == "bytes":
        backend = _with_bytes(specials)
        _surround(backend, specials)
        return backend, TrainingSample(0, 0)
    size = vocab_size or DEFAULT_VOCAB_SIZE
    pieces, sample = _sample(texts, max_bytes, progress)
    if not pieces:
        raise TokenizerError("no text to learn a vocabulary from; give at least one document that is not empty.")
    if progress:
        progress("learning the vocabulary", 0, None)
    try:
        backend = _LEARNERS[kind](pieces, size, list(specials), pattern or "gpt2")
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"the {kind} vocabulary cannot be learned from {sample.n_bytes_used} bytes: {error}.") from None
    _surround(backend, specials)
    n_tokens = len(backend.get_vocab(with_added_tokens=True))
    if n_tokens < size:
        raise TokenizerError(
            f"`vocab_size` ({size}) is larger than this text supports; the largest possible is {n_tokens},"
            f" set by `vocab_size={n_tokens}`, or give more text (it was learned from {sample.n_bytes_used} bytes)."
        )
    return backend, sample


def _surround(backend: Backend, specials: Sequence[str]) -> None:
    """Let the tokenizer put its marks around texts: BERT's where it has `[CLS]` and `[SEP]`, RoBERTa's `<s>` and `</s>`, T5's `</s>`."""
    for marks, single, pair in _AROUND:
        if all(mark in specials for mark in marks):
            ids = [(mark, backend.token_to_id(mark)) for mark in marks]
            backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
            return


def _check(kind: str, vocab_size: int | None, specials: Sequence[str], pattern: str | None, max_bytes: int) -> None:
    if kind not in get_args(Kind):
        raise unknown_name("tokenizer kind", kind, get_args(Kind))
    if pattern is not None and pattern not in PATTERNS:
        raise unknown_name("pattern", pattern, PATTERNS)
    if pattern is not None and kind in ("wordpiece", "bytes"):
        raise TokenizerError(f"`pattern` (`{pattern}`) has no meaning for kind `{kind}`; leave it out.")
    if len(set(specials)) != len(specials) or not all(specials):
        raise TokenizerError(f"`specials` {list(specials)} must be different and not empty.")
    if max_bytes < 1:
        raise TokenizerError(f"`max_bytes` ({max_bytes}) must be at least 1.")
    smallest = len(specials) + (0 if kind == "wordpiece" else 256)
    if kind == "bytes" and vocab_size not in (None, smallest):
        raise TokenizerError(f"a `bytes` tokenizer has 256 bytes and {len(specials)} specials; leave out `vocab_size` ({vocab_size}).")
    if vocab_size is not None and vocab_size < smallest:
        raise TokenizerError(f"`vocab_size` ({vocab_size}) must be at least {smallest}: the specials, and a token for each byte.")


def _sample(texts: Iterable[str], max_bytes: int, progress: Progress | None) -> tuple[list[str], TrainingSample]:
    """All texts while they fit in `max_bytes`; beyond it the pieces with the smallest content hashes, whatever their order."""
    kept: list[tuple[int, str, int]] = []  # (hash, piece, bytes)
    n_seen = n_kept = 0
    limit, is_sampled = 1 << 64, False
    piece_chars = max(1, min(_PIECE_CHARS, max_bytes // 64))  # so that a sample has many
    for text in texts:
        for piece in _pieces(text, piece_chars if is_sampled else _LONGEST_TEXT):
            entry = _entry(piece)
            n_seen += entry[2]
            if entry[0] < limit:
                kept.append(entry)
                n_kept += entry[2]
        if n_kept > max_bytes and not is_sampled:
            is_sampled = True
            kept = [_entry(piece) for _, longer, _ in kept for piece in _pieces(longer, piece_chars)]
        while n_kept > max_bytes and len(kept) > 1:
            limit //= 2
            kept = [entry for entry in kept if entry[0] < limit]
            n_kept = sum(entry[2] for entry in kept)
        if progress:
            progress("reading", n_seen, None)
    return [piece for _, piece, _ in kept if piece], TrainingSample(n_seen, n_kept)


def _entry(piece: str) -> tuple[int, str, int]:
    try:
        data = piece.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"text to learn from holds half of a surrogate pair at character {error.start}; it is no character.") from None
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"), piece, len(data)


def _pieces(text: str, longest: int) -> Iterator[str]:
    start = 0
    while len(text) - start > longest:
        end = cut_place(text, start + longest // 2, start + longest)
        yield text[start:end]
        start = end
    yield text[start:]


def _with_bytes(specials: Sequence[str]) -> Backend:
    """Token i is byte i; the specials follow."""
    backend = _byte_level(models.BPE(vocab=dict(zip(byte_characters(), range(256), strict=True)), merges=[]), "bytes")
    backend.add_special_tokens(_added(specials))
    return backend


def _learn_bpe(pieces: list[str], vocab_size: int, specials: list[str], pattern: str) -> Backend:
    backend = _byte_level(models.BPE(), pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=_added(specials),
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    backend.train_from_iterator(iter(pieces), trainer)
    return backend


def _learn_unigram(pieces: list[str], vocab_size: int, specials: list[str], pattern: str) -> Backend:
    """Learn, then put in order what the library leaves to the order of a hash map: the last digits of the scores, the small
    differences it gives to characters that do not occur, and the places of equal scores. Which of two equally useful pieces it
    drops at the very end is still its choice."""
    trained = _byte_level(models.Unigram(), pattern)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=_added(specials), initial_alphabet=byte_characters(), show_progress=False
    )
    trained.train_from_iterator(iter(pieces), trainer)
    scored = {token: score for token, score in json.loads(trained.to_str())["model"]["vocab"] if token not in specials}
    lowest = min(scored.values())
    level = {token: lowest if len(token) == 1 and score < lowest + _UNSEEN_SPREAD else score for token, score in scored.items()}
    ordered = sorted(((token, round(score, 6)) for token, score in level.items()), key=lambda pair: (-pair[1], pair[0]))
    backend = _byte_level(models.Unigram(vocab=[(name, 0.0) for name in specials] + ordered), pattern)
    backend.add_special_tokens(_added(specials))
    return backend


def _learn_wordpiece(pieces: list[str], vocab_size: int, specials: list[str], pattern: str) -> Backend:
    """Learn in two rounds: the library numbers the inner characters (`##a`) in the order of a hash map, and their numbers decide
    between equally frequent pairs; so the first round only finds these characters, and the second is given them in order."""
    unknown = next((name for name in specials if name in _UNKNOWN), _UNKNOWN[0])
    specials = specials if unknown in specials else [*specials, unknown]
    characters = _trained_wordpiece(pieces, 0, specials, unknown)
    inner = sorted(token for token in characters if token.startswith("##") and token not in specials)
    vocab = _trained_wordpiece(pieces, vocab_size, [*specials, *inner], unknown)
    backend = _wordpiece(models.WordPiece(vocab=vocab, unk_token=unknown))
    backend.add_special_tokens(_added(specials))
    return backend


def _trained_wordpiece(pieces: list[str], vocab_size: int, first: list[str], unknown: str) -> dict[str, int]:
    backend = _wordpiece(models.WordPiece(unk_token=unknown))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=_added(first), show_progress=False)
    backend.train_from_iterator(iter(pieces), trainer)
    return backend.get_vocab(with_added_tokens=False)


def _wordpiece(model: Any) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return backend


_LEARNERS: dict[str, Callable[[list[str], int, list[str], str], Backend]] = {
    "bpe": _learn_bpe,
    "unigram": _learn_unigram,
    "wordpiece": _learn_wordpiece,
}


def byte_characters() -> list[str]:
    """The 256 characters that stand for the bytes 0 … 255 in the tokens of a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _byte_level(model: Any, pattern: str) -> Backend:
    backend = Backend(model)
    regex = PATTERNS.get(pattern)
    if regex is None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    backend.decoder = decoders.ByteLevel()
    return backend


def _added(specials: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in specials]
