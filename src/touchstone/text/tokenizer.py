"""Text to token ids and back, over the `tokenizers` library; files as Hugging Face's AutoTokenizer opens them.

A folder without tokenizer.json is read from the vocabulary files of older formats; what is saved is tokenizer.json.

A special token in the text is ordinary text unless a call allows it: what a user types can never become the end of a text.
Decoding as a stream holds back bytes that are not yet a character, so the pieces joined are the decoded whole. An id that has no
token, as the spare rows of a model's embedding have none, has no text.
"""

import codecs
import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tokenizers import Tokenizer as Backend
from tokenizers import models

from touchstone.errors import ModelFolderError, TokenizerError, printable
from touchstone.files import open_regular, read_json, sha256_bytes, write_json, write_text
from touchstone.text.encoded import Cut, Encoded, encoded, windows
from touchstone.text.segmentation import shown
from touchstone.text.tokenizer_classes import ROLES
from touchstone.text.tokenizer_config import read_config
from touchstone.text.vocabulary import DEFAULT_MAX_BYTES, DEFAULT_SPECIALS, Kind, Progress, TrainingSample, byte_characters, learn
from touchstone.text.vocabulary_files import VOCABULARY_FILES, from_files

__all__ = ["Encoded", "StreamDecoder", "Tokenizer"]

T = TypeVar("T")

_USUAL_NAMES = {  # of the tokens in each role, where no file says
    "bos": ("<s>", "[CLS]", "<|endoftext|>"),
    "eos": ("</s>", "[SEP]", "<|endoftext|>"),
    "pad": ("<|pad|>", "<pad>", "[PAD]"),
    "unk": ("<|unk|>", "<unk>", "[UNK]"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
}
_TARGET = "target_tokenizer.json"
_BYTE_PIECE = re.compile("<0x[0-9A-Fa-f]{2}>")
_PIECE_DECODERS = {"Sequence", "Replace", "ByteFallback", "Fuse", "Strip"}  # those of SentencePiece models, which join pieces as they are
_MAX_FILE_BYTES = 64 << 20  # the largest tokenizer.json in use is about 35 MB
_MOST_FIXED_BYTES, _MOST_ROW_BYTES = 4 << 20, 1 << 10  # of a file beside a model; those in use take up to 140 bytes a row


class Tokenizer:
    """A trained vocabulary; made by `train` or `load`, never changed afterwards.

    bos_id, eos_id, pad_id, unk_id, mask_id, cls_id, sep_id: ids of the tokens in these roles; None where there is none.
    sample: what the vocabulary was learned from; None where it was loaded.
    target: the tokenizer of what a translator writes, where it cuts text otherwise than what it reads; None where it does not.
    """

    def __init__(
        self, json_text: str, config: Mapping[str, Any], sample: TrainingSample | None = None, *, target: "Tokenizer | None" = None
    ) -> None:
        """json_text: the content of tokenizer.json, kept as it is; config: the content of tokenizer_config.json."""
        self._json, self._config, self.sample, self.target = json_text, dict(config), sample, target
        self._plain = _backend(json_text)
        self._plain.encode_special_tokens = True  # the library's name for: text that spells a special is text
        self._finish = Backend(models.WordLevel())  # holds what puts texts together, which the others then do not
        self._finish.post_processor, self._plain.post_processor = self._plain.post_processor, None
        vocab = self._plain.get_vocab(with_added_tokens=True)
        if not vocab:
            raise TokenizerError("tokenizer.json has no token at all; train a vocabulary, or remove the file.")
        self._tokens = {token_id: shown(token) for token, token_id in vocab.items()}
        if len(self._tokens) != len(vocab):
            raise TokenizerError("tokenizer.json gives one id to two tokens; repair the file.")
        added = self._plain.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        told = json.loads(json_text)
        self._decoder_kinds = _kinds(told.get("decoder"))
        self._joins_pieces = "ByteFallback" in self._decoder_kinds and set(self._decoder_kinds) <= _PIECE_DECODERS
        _check_added(told.get("added_tokens") or [], vocab)
        roles = _roles(self._config, vocab)
        self.bos_id, self.eos_id, self.unk_id, self.sep_id, self.pad_id, self.cls_id, self.mask_id = (roles[role] for role in ROLES)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        kind: Kind = "bpe",
        vocab_size: int | None = None,
        specials: Sequence[str] = DEFAULT_SPECIALS,
        pattern: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        progress: Progress | None = None,
    ) -> Self:
        """Learn a vocabulary; the same texts give the same file, byte for byte.

        vocab_size: specials and bytes included; None is 4096, or all there are for kind `bytes`.
        specials: those with a usual name (`<|endoftext|>`, `<|pad|>`, `[UNK]` …) take its role.
        pattern: "gpt2" (also None) or "code": where tokens may not reach over; for `bpe` and `unigram`.
        max_bytes: text beyond this is sampled by content hash; `sample` of the result says how much was used.
        Raises TokenizerError when the vocabulary is larger than the text supports; the message has the largest possible.
        """
        backend, sample = learn(
            texts, kind=kind, vocab_size=vocab_size, specials=specials, pattern=pattern, max_bytes=max_bytes, progress=progress
        )
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {f"{role}_token": name for role, name in _usual(added).items() if name is not None}
        if backend.post_processor is not None and any(backend.encode("a", "a").type_ids):  # Hugging Face makes them only if told so
            config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        return cls(backend.to_str(pretty=False), config, sample)

    @classmethod
    def load(cls, folder: Path | str, *, n_rows: int | None = None) -> Self:
        """Open the tokenizer of a model folder: tokenizer.json, else the vocabulary files of an older format.

        n_rows: of the model's embedding; a tokenizer.json with more ids is refused before it is built, which can take long.
        TokenizerError where a file is missing, malformed or contradicts another, or where nothing says how to read the files.
        """
        folder = Path(folder)
        path, target = folder / "tokenizer.json", folder / _TARGET
        if not _is_there(path) and any(_is_there(folder / name) for name in VOCABULARY_FILES):
            found = from_files(folder)
            other = cls(found.target_json, found.config) if found.target_json is not None else None
            return cls(found.json_text, found.config, target=other)
        config = read_config(folder) if _is_there(path) else {}
        other = _as_of(target, lambda: cls(_checked_text(target, n_rows), config)) if _is_there(target) else None
        return _as_of(path, lambda: cls(_checked_text(path, n_rows), config, target=other))

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into a folder that exists.

        A `target` goes beside them, into target_tokenizer.json, which Hugging Face does not read.
        """
        folder = Path(folder)
        write_text(folder / "tokenizer.json", self._json)
        if self.target is not None:
            write_text(folder / _TARGET, self.target._json)
        write_json(folder / "tokenizer_config.json", self._config)
        write_json(folder / "special_tokens_map.json", {k: self._config[k] for k in (f"{r}_token" for r in ROLES) if k in self._config})

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text, nothing added; allow_special: what spells a special token becomes it."""
        return self._encoding(text, allow_special).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all threads the library has."""
        texts = list(texts)
        try:
            encodings = _guarded(lambda: self._plain.encode_batch_fast(texts, add_special_tokens=False))
        except (TypeError, ValueError):
            return [self.encode(text) for text in texts]  # says which one is wrong
        return [encoding.ids for encoding in encodings]

    def encode_offsets(self, text: str, *, is_inner: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and, for each, the characters (start, end) of the text it spells, of which it may hold a part only.

        A space that the tokenizer puts before a text counts as its first character.
        is_inner: the text stands behind another, so that no space goes before it where only a first text gets one.
        """
        encoding = self._finish.post_process(self._encoding(text, False, is_inner), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def special_offsets(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of every special token that `encode(text, allow_special=True)` finds, in characters."""
        encoding = self._encoding(text, True)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        return [(token_id, *place) for token_id, place in found if token_id in self._special_ids and place[0] < place[1]]

    def encode_special(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, cut: Cut = "longest", allow_special: bool = False
    ) -> Encoded:
        """A text, or two, with what the tokenizer puts around them (`[CLS] text [SEP] pair [SEP]`), as the model was trained on.

        max_length: tokens in all; what is more is cut off the end of the longer text, or of the one that `cut` names.
        Raises ConfigError where that is too short for it.
        """
        return encoded(self._finish, self._encodings(text, pair, allow_special), max_length, cut)

    def encode_windows(
        self, text: str, pair: str | None = None, *, max_length: int, stride: int, allow_special: bool = False
    ) -> list[Encoded]:
        """`encode_special` of a text too long for the model, in windows; of a pair, the second text is cut and the first is in each.

        stride: how many tokens a window has in common with the one before. Offsets are those in the whole text.
        """
        return windows(self._finish, self._encodings(text, pair, allow_special), max_length, stride)

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of the tokens; bytes that are no character become U+FFFD."""
        ids = [token_id for token_id in token_ids if token_id in self._tokens]
        if self._joins_pieces:  # in the library one byte that is no character makes U+FFFD of the good ones beside it
            text = _characters(b"".join(self.token_bytes(i) for i in ids if not (skip_special and i in self._special_ids)))
            return text.removeprefix(" ") if "Strip" in self._decoder_kinds else text
        return _guarded(lambda: self._plain.decode(ids, skip_special_tokens=skip_special))

    def stream_decoder(self, *, skip_special: bool = True) -> "StreamDecoder":
        """A decoder that takes one token at a time."""
        return StreamDecoder(self, skip_special)

    @property
    def vocab_size(self) -> int:
        """Rows an embedding needs for every id: the largest id plus one."""
        return max(self._tokens) + 1

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        return self._special_ids

    @functools.cached_property
    def prefix_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before a single text, such as `<s>`; empty for most that continue texts."""
        return self._around[0]

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts behind a single text, such as `</s>`."""
        return self._around[1]

    @functools.cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        probes = (probe for probe in ("a", *self._tokens.values()) if self.encode(probe))
        whole = self.encode_special(next(probes, ""))
        places = [place for place, side in enumerate(whole.sides) if side == 0] or [len(whole.sides)]
        return whole.token_ids[: places[0]], whole.token_ids[places[-1] + 1 :]

    @property
    def is_byte_level(self) -> bool:
        """True if tokens are bytes, so that every text is spelled exactly and `token_bytes` is exact."""
        return "ByteLevel" in self._decoder_kinds

    @property
    def joins_bytes(self) -> bool:
        """Whether decoded text is the tokens' bytes, joined; WordPiece sets spaces between them."""
        return "WordPiece" not in self._decoder_kinds

    @property
    def role_tokens(self) -> dict[str, str]:
        """The text of the token in each role that has one, as chat templates name them: `bos_token`, `eos_token` …"""
        ids = (self.bos_id, self.eos_id, self.unk_id, self.sep_id, self.pad_id, self.cls_id, self.mask_id)
        return {f"{role}_token": self._tokens[token_id] for role, token_id in zip(ROLES, ids, strict=True) if token_id is not None}

    @property
    def special_texts(self) -> tuple[str, ...]:
        """What spells the special tokens."""
        return tuple(self._added[token_id] for token_id in sorted(self._special_ids))

    @property
    def chat_template(self) -> Any:
        """What tokenizer_config.json holds as `chat_template`, unchecked; None where it holds none."""
        return self._config.get("chat_template")

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of tokenizer.json."""
        return sha256_bytes(self._json.encode("utf-8"))

    def token_text(self, token_id: int) -> str:
        """The token as the vocabulary writes it (a space may be `Ġ`); empty for an id without a token."""
        return self._tokens.get(token_id, "")

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes a token stands for, exact in a byte-level vocabulary; empty for an id without a token."""
        token = self._tokens.get(token_id, "")
        if token_id in self._added:
            return self._added[token_id].encode("utf-8")
        if self.is_byte_level:
            table = _byte_table()
            return bytes(table[char] for char in token) if all(char in table for char in token) else token.encode("utf-8")
        if "ByteFallback" in self._decoder_kinds and _BYTE_PIECE.fullmatch(token):
            return bytes.fromhex(token[3:5])
        if "WordPiece" in self._decoder_kinds:
            return token.removeprefix("##").encode("utf-8")
        return token.replace("▁", " ").encode("utf-8")

    def n_bytes(self, text: str) -> int:
        """Length of a text in UTF-8, what bits per byte are divided by."""
        return len(text.encode("utf-8"))

    def _encoding(self, text: str, allow_special: bool, is_inner: bool = False) -> Any:
        backend = self._special if allow_special else self._inner if is_inner else self._plain
        try:
            return _guarded(lambda: backend.encode(text, add_special_tokens=False))
        except (TypeError, ValueError):
            raise TokenizerError(_why_no_text(text)) from None

    def _encodings(self, text: str, pair: str | None, allow_special: bool) -> list[Any]:
        return [self._encoding(part, allow_special) for part in (text, pair) if part is not None]

    @functools.cached_property
    def _inner(self) -> Backend:
        told = json.loads(self._json)
        steps = told.get("pre_tokenizer") or {}
        changed = [step for step in (steps, *steps.get("pretokenizers", [])) if step.get("prepend_scheme") == "first"]
        if not changed:
            return self._plain
        for step in changed:
            step["prepend_scheme"] = "never"
        backend = _backend(json.dumps(told))
        backend.encode_special_tokens, backend.post_processor = True, None
        return backend

    @functools.cached_property
    def _special(self) -> Backend:
        backend = _backend(self._json)
        backend.post_processor = None
        return backend


class StreamDecoder:
    """Turns token ids into text one at a time; all pieces and the finish joined are the decoded whole."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []  # where tokens are not bytes: those whose text is not yet certain, and the ones before
        self._n_settled = 0

    def push(self, token_id: int) -> str:
        """The text that this token makes certain; empty while a character is incomplete."""
        if token_id in self._skipped:
            return ""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(self._tokenizer.token_bytes(token_id))
        self._ids.append(token_id)
        text = self._unsettled()
        if not text or text.endswith("\ufffd"):
            return ""
        self._ids = self._ids[self._n_settled :]
        self._n_settled = len(self._ids)
        return text

    def finish(self) -> str:
        """What was held back: U+FFFD for bytes that never became a character."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(b"", final=True)
        text = self._unsettled()
        self._ids = self._ids[self._n_settled :]
        self._n_settled = len(self._ids)
        return text

    def _unsettled(self) -> str:
        """The text of the last tokens, as it reads behind the tokens before them."""
        before = self._tokenizer.decode(self._ids[: self._n_settled], skip_special=False)
        return self._tokenizer.decode(self._ids, skip_special=False)[len(before) :]


def _largest_id(data: Mapping[str, Any]) -> int:
    """The largest id that a tokenizer.json gives, -1 if it gives none; what is not an id is left to the library to refuse."""
    model, added = data.get("model"), data.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else [len(vocab) - 1] if isinstance(vocab, list) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return max((token_id for token_id in ids if type(token_id) is int), default=-1)


def _check_added(told: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]) -> None:
    """Added tokens must have the ids that the file gives them: the library takes others where those are in use."""
    wrong = [token for token in told if vocab.get(token["content"]) != token["id"]]
    if wrong:
        named = ", ".join(f"`{printable(token['content'])}` (id {token['id']})" for token in wrong[:12])
        raise TokenizerError(f"tokenizer.json adds {len(wrong)} tokens with ids that others have or that leave a gap: {named}.")


def _characters(data: bytes) -> str:
    """UTF-8 as text, one U+FFFD for each byte of what is none, as SentencePiece writes it."""
    parts: list[str] = []
    while True:
        try:
            return "".join([*parts, data.decode("utf-8")])
        except UnicodeDecodeError as error:
            parts += [data[: error.start].decode("utf-8"), "\ufffd" * (error.end - error.start)]
            data = data[error.end :]


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _checked_text(path: Path, n_rows: int | None) -> str:
    most = _MAX_FILE_BYTES if n_rows is None else min(_MAX_FILE_BYTES, _MOST_FIXED_BYTES + _MOST_ROW_BYTES * n_rows)
    data = read_json(path, max_bytes=most, error=TokenizerError)  # size, encoding, repeated keys
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: must be a mapping, this is a {type(data).__name__}.")
    largest = _largest_id(data)
    if n_rows is not None and largest >= n_rows:
        raise ModelFolderError(
            f"{path}: the tokenizer has ids up to {largest}, and the model has {n_rows} rows; use the tokenizer it was trained with."
        )
    with os.fdopen(open_regular(path, error=TokenizerError), encoding="utf-8") as file:
        return file.read()


def _as_of(path: Path, build: Callable[[], T]) -> T:
    """What is built; its errors name the file."""
    try:
        return build()
    except TokenizerError as error:
        raise error if str(error).startswith(str(path)) else TokenizerError(f"{path}: {error}") from None


def _backend(json_text: str) -> Backend:
    try:
        backend = Backend.from_str(json_text)
    except BaseException as error:  # the library raises plain Exception, and a panic that is none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"not a tokenizer that the `tokenizers` library can read: {printable(str(error), 300)}.") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _guarded(call: Callable[[], T]) -> T:
    """The call's result; a panic of the library, which no `except Exception` catches, becomes TokenizerError."""
    try:
        return call()
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise TokenizerError(f"the tokenizer gives up on this text: {error}; its pattern may run for ever on it.") from None
        raise


def _why_no_text(text: Any) -> str:
    if not isinstance(text, str):
        return f"a text must be a str, this is a {type(text).__name__}."
    place = next((place for place, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
    return "the text cannot be encoded." if place is None else f"character {place} is half of a surrogate pair, which is no character."


def _roles(config: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[str, int | None]:
    """The id in each role: as the files say, else, where they name no token at all, by the usual names."""
    named = {role: config.get(f"{role}_token") for role in ROLES}
    names = {role: token.get("content") if isinstance(token, Mapping) else token for role, token in named.items()}
    if not any(key.endswith("_token") and isinstance(value, (str, Mapping)) for key, value in config.items()):
        names = _usual(vocab)
    return {role: vocab.get(name) if isinstance(name, str) else None for role, name in names.items()}


def _usual(tokens: Collection[str]) -> dict[str, str | None]:
    return {role: next((name for name in _USUAL_NAMES[role] if name in tokens), None) for role in ROLES}


def _kinds(decoder: Any) -> list[str]:
    """The names of the decoder's steps, those of a sequence in a row."""
    if not isinstance(decoder, Mapping):
        return []
    return [str(decoder.get("type")), *(kind for step in decoder.get("decoders", []) for kind in _kinds(step))]


@functools.cache
def _byte_table() -> dict[str, int]:
    return {char: byte for byte, char in enumerate(byte_characters())}
