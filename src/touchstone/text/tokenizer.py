"""Text to token ids and back, over the `tokenizers` library; files as Hugging Face's AutoTokenizer opens them.

A special token in the text is ordinary text unless a call allows it: what a user types can never become the end of a text.
Decoding as a stream holds back bytes that are not yet a character, so the pieces joined are the decoded whole. An id that has no
token, as the spare rows of a model's embedding have none, has no text.
"""

import codecs
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tokenizers import Tokenizer as Backend

from touchstone.errors import TokenizerError
from touchstone.files import open_regular, read_json, sha256_bytes, write_json, write_text
from touchstone.text.vocabulary import DEFAULT_MAX_BYTES, DEFAULT_SPECIALS, Kind, Progress, TrainingSample, byte_characters, learn

__all__ = ["StreamDecoder", "Tokenizer"]

T = TypeVar("T")

_ROLES = ("bos", "eos", "pad", "unk", "mask")
_USUAL_NAMES = {  # of the tokens in each role, where no file says
    "bos": ("<s>", "[CLS]", "<|endoftext|>"),
    "eos": ("</s>", "[SEP]", "<|endoftext|>"),
    "pad": ("<|pad|>", "<pad>", "[PAD]"),
    "unk": ("<|unk|>", "<unk>", "[UNK]"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
}
_MAX_FILE_BYTES = 64 << 20  # the largest tokenizer.json in use is about 35 MB


class Tokenizer:
    """A trained vocabulary; made by `train` or `load`, never changed afterwards.

    bos_id, eos_id, pad_id, unk_id, mask_id: ids of the tokens in these roles; None where there is none.
    sample: what the vocabulary was learned from; None where it was loaded.
    """

    def __init__(self, json_text: str, config: Mapping[str, Any], sample: TrainingSample | None = None) -> None:
        """json_text: the content of tokenizer.json, kept as it is; config: the content of tokenizer_config.json."""
        self._json, self._config, self.sample = json_text, dict(config), sample
        self._plain = _backend(json_text)
        self._plain.encode_special_tokens = True  # the library's name for: text that spells a special is text
        vocab = self._plain.get_vocab(with_added_tokens=True)
        self._tokens = {token_id: token for token, token_id in vocab.items()}
        if len(self._tokens) != len(vocab):
            raise TokenizerError("tokenizer.json gives one id to two tokens; repair the file.")
        added = self._plain.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._decoder_kinds = _kinds(json.loads(json_text).get("decoder"))
        roles = _roles(self._config, vocab)
        self.bos_id, self.eos_id, self.pad_id, self.unk_id, self.mask_id = (roles[role] for role in _ROLES)

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
        return cls(backend.to_str(pretty=False), config, sample)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Open the tokenizer of a model folder; TokenizerError where tokenizer.json is missing, malformed or contradicts itself."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        read_json(path, max_bytes=_MAX_FILE_BYTES, error=TokenizerError)  # size, encoding, repeated keys
        with os.fdopen(open_regular(path, error=TokenizerError), encoding="utf-8") as file:
            json_text = file.read()
        config, names = (_optional_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
        config |= {role: token for role, token in names.items() if role not in config}
        try:
            return cls(json_text, config)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into a folder that exists."""
        folder = Path(folder)
        write_text(folder / "tokenizer.json", self._json)
        write_json(folder / "tokenizer_config.json", self._config)
        write_json(folder / "special_tokens_map.json", {k: self._config[k] for k in (f"{r}_token" for r in _ROLES) if k in self._config})

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

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and, for each, the characters (start, end) of the text it spells, of which it may hold a part only."""
        encoding = self._encoding(text, False)
        return encoding.ids, encoding.offsets

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of the tokens; bytes that are no character become U+FFFD."""
        ids = [token_id for token_id in token_ids if token_id in self._tokens]
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

    @property
    def is_byte_level(self) -> bool:
        """True if tokens are bytes, so that every text is spelled exactly and `token_bytes` is exact."""
        return "ByteLevel" in self._decoder_kinds

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
        if "ByteFallback" in self._decoder_kinds and len(token) == 6 and token.startswith("<0x"):
            return bytes.fromhex(token[3:5])
        if "WordPiece" in self._decoder_kinds:
            return token.removeprefix("##").encode("utf-8")
        return token.replace("▁", " ").encode("utf-8")

    def n_bytes(self, text: str) -> int:
        """Length of a text in UTF-8, what bits per byte are divided by."""
        return len(text.encode("utf-8"))

    def _encoding(self, text: str, allow_special: bool) -> Any:
        backend = self._special if allow_special else self._plain
        try:
            return _guarded(lambda: backend.encode(text, add_special_tokens=False))
        except (TypeError, ValueError):
            raise TokenizerError(_why_no_text(text)) from None

    @functools.cached_property
    def _special(self) -> Backend:
        return _backend(self._json)


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


def _optional_json(path: Path) -> dict[str, Any]:
    data = read_json(path, error=TokenizerError) if path.exists() else {}
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: must be a mapping, this is a {type(data).__name__}.")
    return data


def _backend(json_text: str) -> Backend:
    try:
        backend = _guarded(lambda: Backend.from_str(json_text))
    except TokenizerError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"not a tokenizer that the `tokenizers` library can read: {error}.") from None
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
    named = {role: config.get(f"{role}_token") for role in _ROLES}
    names = {role: token.get("content") if isinstance(token, Mapping) else token for role, token in named.items()}
    if not any(key.endswith("_token") and isinstance(value, (str, Mapping)) for key, value in config.items()):
        names = _usual(vocab)
    return {role: vocab.get(name) if isinstance(name, str) else None for role, name in names.items()}


def _usual(tokens: Collection[str]) -> dict[str, str | None]:
    return {role: next((name for name in _USUAL_NAMES[role] if name in tokens), None) for role in _ROLES}


def _kinds(decoder: Any) -> list[str]:
    """The names of the decoder's steps, those of a sequence in a row."""
    if not isinstance(decoder, Mapping):
        return []
    return [str(decoder.get("type")), *(kind for step in decoder.get("decoders", []) for kind in _kinds(step))]


@functools.cache
def _byte_table() -> dict[str, int]:
    return {char: byte for byte, char in enumerate(byte_characters())}
