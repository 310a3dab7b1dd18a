"""sentence-transformers folders: where the model lies, and how its hidden states become one vector a text.

`modules.json` names the modules in order, each with its folder. Read are a Transformer (in the root, or in `0_Transformer`), a Pooling and
perhaps a Normalize; their class names are compared and never imported. `sentence_bert_config.json` beside the model says how many tokens
are read, `config_sentence_transformers.json` which words stand before a text (prompts) and how vectors are compared. Written are the words
of version 2, which all later versions read too.
Source: sentence-transformers 2.0 to 6.2, `SentenceTransformer.save`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from touchstone.config import Config, closest, parse
from touchstone.errors import ConfigError, ModelFolderError, Unsupported, printable
from touchstone.files import read_json
from touchstone.models.card import SentencePooling

__all__ = ["SENTENCE_FILES", "SentenceFolder", "find_sentence_folder", "sentence_files"]

SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json")
"""Of the root; the others lie in the folders that modules.json names."""

_Mode = Literal["first", "last", "mean", "max"]

_MODES: dict[str, _Mode] = {"cls": "first", "lasttoken": "last", "mean": "mean", "max": "max"}
_FLAGS = {  # before version 5.5, a switch for each
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")
_READER_FILES = tuple(f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta"))
_BARE = "remove modules.json to read the model alone"
_UNBOUNDED = 1 << 32  # tokenizers without a bound write 10^30

_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_READER_ONLY: dict[str, Any] = {  # what a reader's other settings may say, besides being absent or null
    "do_lower_case": False,
    "transformer_task": "feature-extraction",
    "modality_config": _TEXT_ONLY,
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
    **{key: {} for key in ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")},
    **dict.fromkeys(("query_length", "document_length", "query_expansion"), None),
}


@dataclass(frozen=True)
class SentenceFolder:
    """Where the model of a folder lies, and what is done with its hidden states."""

    model: Path
    pooling: SentencePooling
    d_model: int | None  # the width that the pooling says it was made for


class _Module(Config):
    idx: int
    name: str
    path: str
    type: str
    kwargs: tuple[str, ...] | None = None


def find_sentence_folder(folder: Path) -> SentenceFolder | None:
    """What a folder's modules.json and the files it names say; None for a folder without one.

    Raises ModelFolderError or Unsupported with everything that is wrong in a file.
    """
    path = folder / SENTENCE_FILES[0]
    if not (path.is_symlink() or path.exists()):
        return None
    modules = _modules(path)
    kinds = [module.type.rpartition(".")[2] for module in modules]
    if foreign := [module.type for module in modules if not module.type.startswith("sentence_transformers.")]:
        raise Unsupported(f"{path}: `{printable(foreign[0])}` is code of the folder's own, which is never executed; {_BARE}.")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        listed = ", ".join(printable(kind) for kind in kinds)
        raise Unsupported(f"{path}: the modules {listed} are not built; read are Transformer, Pooling and perhaps Normalize. Or {_BARE}.")
    for module in modules:
        if (folder / module.path).is_symlink() and module.path:
            raise ModelFolderError(f"{folder / module.path}: a symbolic link here leads out of the folder; copy what it points to.")
    model = folder / modules[0].path
    mode, d_model, counts_prompt = _read_pooling(folder / modules[1].path / "config.json")
    overall = _read_overall(folder / SENTENCE_FILES[1])
    if not counts_prompt and any(overall["prompts"].values()):
        raise Unsupported(f"{folder}: leaving the prompt's tokens out of the pooling (`include_prompt`) is not built; {_BARE}.")
    said = {"mode": mode, "normalise": len(modules) == 3, "max_seq_len": _read_length(model), **overall}
    try:
        return SentenceFolder(model, parse(SentencePooling, said, source=str(folder)), d_model)
    except ConfigError as error:
        raise ModelFolderError(str(error)) from None


def sentence_files(pooling: SentencePooling, d_model: int) -> dict[str, Any]:
    """What is written for a model in the root: the place of each file in the folder, and its JSON."""
    kinds = ("Transformer", "Pooling", "Normalize") if pooling.normalise else ("Transformer", "Pooling")
    paths = ["", *(f"{place}_{kind}" for place, kind in enumerate(kinds) if place)]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    flags = {flag: _MODES.get(word) == pooling.mode for flag, word in _FLAGS.items()}
    if pooling.mode != "last":  # the first versions know four
        flags = {
            flag: chosen for flag, chosen in flags.items() if flag not in ("pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken")
        }
    overall = {"prompts": pooling.prompts, "default_prompt_name": pooling.default_prompt, "similarity_fn_name": pooling.similarity}
    files: dict[str, Any] = {
        "modules.json": modules,
        "config_sentence_transformers.json": overall,
        "sentence_bert_config.json": {"max_seq_length": pooling.max_seq_len, "do_lower_case": False},
        f"{paths[1]}/config.json": {"word_embedding_dimension": d_model, **flags},
    }
    if pooling.normalise:
        files[f"{paths[2]}/config.json"] = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    return files


def _modules(path: Path) -> list[_Module]:
    data = read_json(path)
    if not isinstance(data, list) or not data or len(data) > 100 or not all(isinstance(entry, dict) for entry in data):
        raise ModelFolderError(f"{path}: should list the modules, from 1 to 100, each a mapping.")
    try:
        modules = [parse(_Module, entry, source=f"{path}: module {place}") for place, entry in enumerate(data)]
    except ConfigError as error:
        raise ModelFolderError(str(error)) from None
    for module in modules:
        if not re.fullmatch(r"|[A-Za-z0-9_][A-Za-z0-9_.-]*", module.path):
            raise ModelFolderError(f"{path}: the path `{printable(module.path)}` should be a folder's name, without slashes.")
    return modules


def _read_pooling(path: Path) -> tuple[_Mode, int | None, bool]:
    """The mode, the width it was made for, and whether a prompt's tokens count."""
    data = _mapping(path)
    _check_keys(path, data, (*_FLAGS, *_WIDTHS, "pooling_mode", "include_prompt"))
    chosen = data.get("pooling_mode", [word for flag, word in _FLAGS.items() if data.get(flag) is True] or ["mean"])
    words = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ModelFolderError(f"{path}: `pooling_mode` should name one of {', '.join(_MODES)}, not {printable(chosen)}.")
    if len(words) > 1 or words[0] not in _MODES:
        listed = ", ".join(printable(word) for word in words)
        raise Unsupported(f"{path}: pooling by {listed} is not built; read is one of {', '.join(_MODES)}. Or {_BARE}.")
    width = next((data[key] for key in _WIDTHS if key in data), None)
    if width is not None and (type(width) is not int or width < 1):
        raise ModelFolderError(f"{path}: `{_WIDTHS[0]}` should be a whole number from 1, not {printable(width)}.")
    return _MODES[words[0]], width, data.get("include_prompt", True) is not False


def _read_overall(path: Path) -> dict[str, Any]:
    """Prompts and the comparison of vectors; a folder of the first versions has no such file."""
    data = _mapping(path) if path.is_symlink() or path.exists() else {}
    known = ("__version__", "requirements", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    _check_keys(path, data, known)
    if (kind := data.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise Unsupported(f"{path}: a {printable(kind)} is another kind of model; {_BARE}.")
    if data.get("truncate_dim") is not None:
        raise Unsupported(f"{path}: cutting vectors short (`truncate_dim`) is not built; {_BARE}.")
    prompts = data.get("prompts")
    return {
        "prompts": {} if prompts is None else prompts,
        "default_prompt": data.get("default_prompt_name"),
        "similarity": data.get("similarity_fn_name"),
    }


def _read_length(model: Path) -> int | None:
    """Tokens read of a text: what the reader's file says, else the tokenizer's; None where neither has a bound."""
    path = next((model / name for name in _READER_FILES if (model / name).is_symlink() or (model / name).exists()), None)
    data = _mapping(path) if path is not None else {}
    if path is not None:
        _check_keys(path, data, (*_READER_ONLY, "max_seq_length", "unpad_inputs", "tokenizer_name_or_path"))
        if wrong := [key for key, single in _READER_ONLY.items() if data.get(key) is not None and data[key] != single]:
            raise Unsupported(
                f"{path}: `{wrong[0]}` ({printable(data[wrong[0]])}) is not built, only {_READER_ONLY[wrong[0]]!r}; or {_BARE}."
            )
    found = data.get("max_seq_length")
    if found is None and ((place := model / "tokenizer_config.json").is_symlink() or place.exists()):
        bound = _mapping(place).get("model_max_length")
        return bound if type(bound) is int and 0 < bound < _UNBOUNDED else None
    if found is not None and (type(found) is not int or not 0 < found < _UNBOUNDED):
        raise ModelFolderError(f"{path}: `max_seq_length` should be a whole number from 1, not {printable(found)}.")
    return found


def _check_keys(path: Path, data: Mapping[str, Any], known: Collection[str]) -> None:
    for key in data:
        if key not in known:
            near = closest(key, known, n=1)
            raise ModelFolderError(f"{path}: unknown key `{printable(key)}`{f'; did you mean `{near[0]}`?' if near else '.'}")


def _mapping(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ModelFolderError(f"{path}: should hold a mapping, not a {type(data).__name__}.")
    return data
