"""Vocabularies in the formats before tokenizer.json: `vocab.json` with `merges.txt`, `vocab.txt`, SentencePiece, Marian's pair of them.

Each becomes the steps of the `tokenizers` library, so there is one way to encode, and what is saved is tokenizer.json. Marian cuts
source and target text by two models with common ids, which makes two tokenizers; punctuation is not rewritten before, as Hugging
Face does where `sacremoses` is installed.
"""

import io
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from touchstone.errors import TokenizerError
from touchstone.files import open_regular, read_json
from touchstone.text.segmentation import Foreign, rebuild
from touchstone.text.sentencepiece import Piece, SentencePieceModel, parse_sentencepiece
from touchstone.text.tokenizer_classes import TokenizerClass, tokenizer_class
from touchstone.text.tokenizer_config import (
    MAX_ADDED,
    add_tokens,
    added_tokens,
    checked_id,
    flag,
    frame,
    optional_json,
    plain_token,
    read_config,
    role_tokens,
    saved_config,
)

__all__ = ["VOCABULARY_FILES", "FromFiles", "from_files", "why_unreadable"]

T = TypeVar("T")

VOCABULARY_FILES = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
)
"""The names by which a folder shows that it has a tokenizer of an older format."""

_MAX_BYTES = 32 << 20  # the largest in use have 8 MB
_QWEN_PATTERN = (  # of transformers' Qwen2Tokenizer
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class FromFiles:
    """What the files say, as a tokenizer takes it; target_json: of the target side, None where both sides are one."""

    json_text: str
    config: dict[str, Any]
    target_json: str | None


def why_unreadable(folder: Path) -> str | None:
    """Why a folder's vocabulary files cannot be read: no class we know, or not all of its files; None if they can be tried."""
    try:
        kind = _class_of(folder, read_config(folder))
    except TokenizerError as error:
        return str(error)
    missing = [names[0] for names in kind.files if _first(folder, names) is None]
    return f"its tokenizer class needs {' and '.join(missing)}, which the folder has not" if missing else None


def from_files(folder: Path) -> FromFiles:
    """Build the tokenizer of a folder that has no tokenizer.json; TokenizerError names the file and what is wrong in it."""
    config = read_config(folder)
    if reason := why_unreadable(folder):
        raise TokenizerError(f"{folder}: {reason}")
    kind = _class_of(folder, config)
    paths = [path for names in kind.files if (path := _first(folder, names)) is not None]
    backend = _called(lambda: _finished(paths, kind, config), folder)
    roles = role_tokens(kind, config)
    named = {f"{role}_token": token.content for role, token in roles.items() if backend.token_to_id(token.content) is not None}
    target = None
    if kind.kind == "marian":
        vocab = folder / "target_vocab.json" if flag(config, "separate_vocabs", False) else paths[2]
        target = _called(lambda: _finished([paths[1], paths[0], vocab], kind, config), folder).to_str(pretty=False)
    return FromFiles(backend.to_str(pretty=False), saved_config(kind, config) | named, target)


def _class_of(folder: Path, config: Mapping[str, Any]) -> TokenizerClass:
    return tokenizer_class(config, optional_json(folder / "config.json").get("model_type"))


def _finished(paths: list[Path], kind: TokenizerClass, config: Mapping[str, Any]) -> Backend:
    """A vocabulary with its added tokens and with what goes around a text."""
    roles = role_tokens(kind, config)
    backend = _READERS[kind.kind](paths, kind, config, roles)
    add_tokens(backend, added_tokens(paths[0].parent, config), roles, config)
    frame(backend, kind, config, {role: token.content for role, token in roles.items() if backend.token_to_id(token.content) is not None})
    return backend


def _byte_bpe(paths: list[Path], kind: TokenizerClass, config: Mapping[str, Any], roles: Mapping[str, AddedToken]) -> Backend:
    vocab = _ids(paths[0])
    merges = _merges(paths[1], vocab)
    backend = Backend(models.BPE(vocab=vocab, merges=merges, fuse_unk=False))
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=flag(config, "add_prefix_space", False), use_regex=not kind.is_qwen)
    backend.pre_tokenizer = to_bytes
    if kind.is_qwen:
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_QWEN_PATTERN), "isolated"), to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _wordpiece(paths: list[Path], kind: TokenizerClass, config: Mapping[str, Any], roles: Mapping[str, AddedToken]) -> Backend:
    vocab: dict[str, int] = {}
    for number, line in enumerate(_lines(paths[0])):
        if line in vocab:
            raise TokenizerError(f"{paths[0]}:{number + 1}: `{line}` is there twice, first in line {vocab[line] + 1}.")
        if line:  # an empty line has an id and no token
            vocab[line] = number
    unknown = roles["unk"].content if "unk" in roles else "[UNK]"
    if unknown not in vocab:
        raise TokenizerError(f"{paths[0]}: has no `{unknown}`, which stands for unknown words; name the right one as `unk_token`.")
    if not flag(config, "do_basic_tokenize", True) or config.get("never_split"):
        raise TokenizerError(f"{paths[0].parent}: `do_basic_tokenize` false and `never_split` are not supported; take them out.")
    backend = Backend(models.WordPiece(vocab=vocab, unk_token=unknown))
    accents = config.get("strip_accents")
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=flag(config, "tokenize_chinese_chars", True),
        strip_accents=None if accents is None else flag(config, "strip_accents", False),
        lowercase=flag(config, "do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _sentencepiece(paths: list[Path], kind: TokenizerClass, config: Mapping[str, Any], roles: Mapping[str, AddedToken]) -> Backend:
    model = _model(paths[0], config)
    pieces = list(model.pieces)
    if kind.is_fairseq:
        if [piece.kind for piece in pieces[:3]] != ["unknown", "control", "control"]:
            raise TokenizerError(f"{paths[0]}: its first pieces should be the unknown, the start and the end, as in XLM-RoBERTa's.")
        named = [(role, roles[role].content) for role in ("bos", "pad", "eos", "unk") if role in roles]
        if len({content for _, content in named}) != 4:
            raise TokenizerError(f"{paths[0].parent}: bos, pad, eos and unk must be four tokens, as they have the first four ids.")
        pieces = [Piece(content, 0.0, "unknown" if role == "unk" else "control") for role, content in named] + pieces[3:]
    space = flag(config, "add_prefix_space", model.adds_space)
    prefix: Literal["always", "first"] = "always" if flag(config, "legacy", True) else "first"
    backend = rebuild(model, pieces, prefix if space else "never")
    backend.add_tokens([plain_token(piece.text, special=piece.kind == "control") for piece in pieces if piece.kind in ("control", "user")])
    n_extra = config.get("extra_ids", kind.n_extra)
    if isinstance(n_extra, bool) or not isinstance(n_extra, int) or not 0 <= n_extra <= MAX_ADDED:
        raise TokenizerError(f"{paths[0].parent}: `extra_ids` ({n_extra}) must be a number from 0 to {MAX_ADDED}.")
    last = [plain_token(f"<extra_id_{number}>", special=True) for number in reversed(range(n_extra))]
    backend.add_tokens([*last, roles["mask"]] if kind.is_fairseq and "mask" in roles else last)
    return backend


def _marian(paths: list[Path], kind: TokenizerClass, config: Mapping[str, Any], roles: Mapping[str, AddedToken]) -> Backend:
    """Pieces by the ids of vocab.json. A piece that only the other side's model has is what a run of unknown characters is looked up
    as, and else never found; one without an id does not take part."""
    model = _model(paths[0], config)
    vocab = _ids(paths[2])
    unknown = roles["unk"].content if "unk" in roles else "<unk>"
    if unknown not in vocab:
        raise TokenizerError(f"{paths[2]}: has no `{unknown}`, which stands for unknown characters; name the right one as `unk_token`.")
    known = {piece.text: piece for piece in model.pieces}
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise TokenizerError(f"{paths[2]}: the ids must be 0 to {len(vocab) - 1}, each once; some are left out.")
    special = {token.content for token in roles.values()}
    codes = [token for token in vocab if token.startswith(">>") and token.endswith("<<")]
    foreign = Foreign.of(model)
    pieces = []
    for token in sorted(vocab, key=vocab.__getitem__):
        if token == unknown:
            pieces.append(Piece(token, 0.0, "unknown"))
        elif token in special or token in codes:
            pieces.append(Piece(token, 0.0, "control"))
        else:
            pieces.append(known[token] if token in known and known[token].kind == "normal" else foreign.piece(token))
    backend = rebuild(model, pieces, "always" if model.adds_space else "never", foreign=foreign)
    backend.add_tokens([plain_token(code, special=False) for code in codes])
    return backend


_READERS: dict[str, Callable[[list[Path], TokenizerClass, Mapping[str, Any], Mapping[str, AddedToken]], Backend]] = {
    "byte_bpe": _byte_bpe,
    "wordpiece": _wordpiece,
    "sentencepiece": _sentencepiece,
    "marian": _marian,
}


def _model(path: Path, config: Mapping[str, Any]) -> SentencePieceModel:
    if config.get("sp_model_kwargs"):
        raise TokenizerError(f"{path.parent}: `sp_model_kwargs` ask for sampled cuts, which are not made here; take them out.")
    return parse_sentencepiece(path)


def _ids(path: Path) -> dict[str, int]:
    data = read_json(path, max_bytes=_MAX_BYTES, error=TokenizerError)
    if not isinstance(data, dict) or not data:
        raise TokenizerError(f"{path}: should be a mapping from tokens to ids, and not empty.")
    for token, token_id in data.items():
        checked_id(token_id, token, path)
    if len(set(data.values())) != len(data):
        raise TokenizerError(f"{path}: gives one id to two tokens; repair the file.")
    return data


def _merges(path: Path, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens, the first to join first; a first line `#version` is none."""
    merges = []
    for number, line in enumerate(_lines(path), start=1):
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise TokenizerError(f"{path}:{number}: should be two tokens with one space between, this is `{line[:80]}`.")
        left, right = parts
        if missing := [token for token in (left, right, left + right) if token not in vocab]:
            raise TokenizerError(f"{path}:{number}: `{missing[0][:80]}` is not in vocab.json; the two files are not of one tokenizer.")
        merges.append((left, right))
    return merges


def _lines(path: Path) -> Iterable[str]:
    with os.fdopen(open_regular(path, error=TokenizerError), "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise TokenizerError(f"{path}: such a file is at most {_MAX_BYTES} bytes, this one is larger.")
    if not data.strip():
        raise TokenizerError(f"{path}: is empty.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TokenizerError(f"{path}:{line}: should be UTF-8 text.") from None
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_symlink() or (folder / name).exists()), None)


def _called(build: Callable[[], T], folder: Path) -> T:
    """What is built; an error that names no file gets the folder's name, and the plain Exception of the library becomes ours."""
    try:
        return build()
    except TokenizerError as error:
        raise error if str(error).startswith(str(folder)) else TokenizerError(f"{folder}: {error}") from None
    except Exception as error:
        raise TokenizerError(f"{folder}: the vocabulary cannot be used: {error}.") from None
