"""tokenizer_config.json and the files beside it: which tokens have a role, which were added, and what goes around a text.

A token with a role is special: text that spells it does not become it unless a call allows that.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from touchstone.errors import TokenizerError
from touchstone.files import read_json
from touchstone.text.tokenizer_classes import ROLES, TokenizerClass

__all__ = [
    "MAX_ADDED",
    "add_tokens",
    "added_tokens",
    "checked_id",
    "flag",
    "frame",
    "optional_json",
    "plain_token",
    "read_config",
    "role_tokens",
    "saved_config",
]

MAX_ADDED = 1 << 16
"""Most tokens beside a vocabulary that are read; published ones have a few thousand."""

_MAX_ID = 1 << 22  # the library walks over all ids up to the largest


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with what only special_tokens_map.json says; empty where there is neither."""
    config, names = (optional_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    return config | {role: token for role, token in names.items() if role not in config}


def role_tokens(kind: TokenizerClass, config: Mapping[str, Any]) -> dict[str, AddedToken]:
    """The token of each role: as the files say, else as the class does; a mask takes the space before it with it, except in BERT."""
    tokens = {}
    for role in ROLES:
        told = config.get(f"{role}_token", kind.roles.get(role))
        if told is not None:
            strips = role == "mask" and kind.kind in ("byte_bpe", "sentencepiece")
            tokens[role] = _told_token(told, f"{role}_token", lstrip=strips)
    return tokens


def added_tokens(folder: Path, config: Mapping[str, Any]) -> list[tuple[int | None, AddedToken]]:
    """Tokens beside the vocabulary, those with an id first, in the order of their ids."""
    found: dict[str, tuple[int | None, AddedToken]] = {}
    for content, token_id in optional_json(folder / "added_tokens.json").items():
        found[content] = (checked_id(token_id, content, folder / "added_tokens.json"), plain_token(content, special=False))
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, Mapping):
        raise TokenizerError(f"{folder}: `added_tokens_decoder` should be a mapping from ids to tokens.")
    for key, told in decoder.items():
        token = _told_token(told, f"added_tokens_decoder.{key}", special=False)
        number = int(key) if str(key).isdecimal() and len(str(key)) < 10 else None
        found[token.content] = (checked_id(number, token.content, folder / "tokenizer_config.json"), token)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = config.get(key) or []
        if not isinstance(extra, list | Mapping):
            raise TokenizerError(f"{folder}: `{key}` should be a list of tokens, or a mapping to them.")
        for told in extra.values() if isinstance(extra, Mapping) else extra:
            token = _told_token(told, key)
            found[token.content] = (found.get(token.content, (None,))[0], token)
    if len(found) > MAX_ADDED:
        raise TokenizerError(f"{folder}: {len(found)} added tokens; at most {MAX_ADDED} are read.")
    return sorted(found.values(), key=lambda entry: (entry[0] is None, entry[0] or 0))


def add_tokens(
    backend: Backend,
    added: list[tuple[int | None, AddedToken]],
    roles: Mapping[str, AddedToken],
    config: Mapping[str, Any],
) -> None:
    """Add the tokens, and mark those in a role as special; the ids must be those that the files say."""
    told = {token.content for _, token in added}
    in_role = {
        token.content: token
        for role, token in roles.items()
        if config.get(f"{role}_token") or backend.token_to_id(token.content) is not None
    }
    first = [in_role.get(token.content, token) for _, token in added]
    backend.add_tokens([*first, *(token for content, token in in_role.items() if content not in told)])
    for token_id, token in added:
        if token_id is not None and backend.token_to_id(token.content) != token_id:
            raise TokenizerError(
                f"the added token `{token.content}` should have id {token_id}, and gets {backend.token_to_id(token.content)}:"
                " ids of added tokens must follow those of the vocabulary without a gap."
            )


def frame(backend: Backend, kind: TokenizerClass, config: Mapping[str, Any], present: Mapping[str, str]) -> None:
    """Give the backend what its class puts around a text and a pair."""
    single, pair = kind.single, kind.pair
    if kind.adds_bos is not None:
        bos = "bos" in present and flag(config, "add_bos_token", kind.adds_bos)
        eos = "eos" in present and flag(config, "add_eos_token", False)
        if bos or eos:
            single = f"{'bos:0 ' * bos}A:0{' eos:0' * eos}"
            pair = f"{single} {'bos:1 ' * bos}B:1{' eos:1' * eos}"
    if single is None or pair is None:
        if kind.kind == "byte_bpe":
            backend.post_processor = processors.ByteLevel(trim_offsets=False)
        return
    used = sorted({part.split(":")[0] for part in f"{single} {pair}".split()} - {"A", "B"})
    if missing := [f"{role}_token" for role in used if role not in present]:
        raise TokenizerError(f"{', '.join(missing)} should be in the vocabulary: they go around every text.")
    ids: dict[str, Any] = {role: backend.token_to_id(present[role]) for role in used}
    if kind.kind == "byte_bpe" and kind.single is not None:
        space = flag(config, "add_prefix_space", False)
        backend.post_processor = processors.RobertaProcessing(
            (present["sep"], ids["sep"]), (present["cls"], ids["cls"]), trim_offsets=True, add_prefix_space=space
        )
        return

    def pieces(template: str) -> list[str]:
        parts = (part.split(":") for part in template.split())
        return [f"{'$' + name if name in 'AB' else present[name]}:{number}" for name, number in parts]

    backend.post_processor = processors.TemplateProcessing(
        single=pieces(single), pair=pieces(pair), special_tokens=[(content, ids[role]) for role, content in present.items() if role in used]
    )


def saved_config(kind: TokenizerClass, config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json for the new format: the library's own class, which takes tokenizer.json as it is."""
    dropped = {"tokenizer_file", "vocab_file", "special_tokens_map_file", "name_or_path", "auto_map", *(f"{role}_token" for role in ROLES)}
    saved = {key: value for key, value in config.items() if key not in dropped}
    names = ["input_ids", "token_type_ids", "attention_mask"] if kind.has_types else ["input_ids", "attention_mask"]
    defaults = {"clean_up_tokenization_spaces": False, "model_input_names": names}
    return defaults | saved | {"tokenizer_class": "PreTrainedTokenizerFast"}


def flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A key that is true or false; absent and null are the default."""
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(f"`{key}` should be true or false, this is {str(value)[:40]}.")
    return default if value is None else value


def plain_token(content: str, *, special: bool) -> AddedToken:
    """A token found as it is spelled, before the text is normalised."""
    return AddedToken(content, special=special, normalized=False)


def checked_id(value: Any, token: str, path: Path) -> int:
    """An id of a file that may be used as one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_ID:
        raise TokenizerError(f"{path}: the id of `{token}` must be a number from 0 to {_MAX_ID - 1}, this is {str(value)[:40]}.")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """The mapping in a file, empty where there is no file."""
    data = read_json(path, error=TokenizerError) if path.is_symlink() or path.exists() else {}
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: must be a mapping, this is a {type(data).__name__}.")
    return data


def _told_token(told: Any, key: str, *, special: bool = True, lstrip: bool = False) -> AddedToken:
    """A token as the files write it: its text, or a mapping with its text and its manners."""
    if isinstance(told, str) and told:
        return AddedToken(told, special=special, normalized=False, lstrip=lstrip)
    if not isinstance(told, Mapping) or not isinstance(told.get("content"), str) or not told["content"]:
        raise TokenizerError(f"`{key}` should be a text, or a mapping with `content`; this is {str(told)[:80]}.")
    manners = {name: told.get(name, False) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    if wrong := [name for name, value in manners.items() if not isinstance(value, bool)]:
        raise TokenizerError(f"`{key}.{wrong[0]}` should be true or false.")
    is_special = special or told.get("special") is True  # then its name is found as it is, not as the normalizer writes it
    return AddedToken(told["content"], special=is_special, **manners | {"normalized": manners["normalized"] and not is_special})
