"""Model folders: Hugging Face's layout plus `touchstone.json`, saved complete or not at all, loaded strictly.

Nothing in a folder is executed, and nothing is allocated before the sizes in config.json were held against the headers of the
weight files. What is left out of a folder is listed with its reason in `LoadedModel.extra`.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from touchstone.config import parse
from touchstone.errors import ConfigError, ModelFolderError
from touchstone.files import (
    load_tensors,
    open_regular,
    publish_folder,
    save_tensors,
    settle_folder,
    write_json,
    write_text,
)
from touchstone.models.build import build
from touchstone.models.card import CARD_NAME, Card, SentencePooling, readme
from touchstone.models.card_file import as_folder_error, plain_card, read_card, read_mapping
from touchstone.models.families import choose_family, find_family, label_names, same_function
from touchstone.models.generation import check_generation, generation_from_config, unknown_settings
from touchstone.models.heads import ClassifyHead, TagHead
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.quantized import INT8_TYPE, fill_int8, hollow, int8_config, is_int8, read_int8_config
from touchstone.models.sentence_folders import SentenceFolder, find_sentence_folder, sentence_files
from touchstone.models.spec import ModelSpec, Stack
from touchstone.models.transformer import KernelName
from touchstone.models.weight_files import MAX_SHARD_BYTES, WeightFiles, find_weights, split_shards
from touchstone.models.weights import FLOATS, match, same_bits
from touchstone.nn.position import SinusoidalPositions
from touchstone.text.tokenizer import Tokenizer
from touchstone.text.vocabulary_files import VOCABULARY_FILES, why_unreadable

T = TypeVar("T")

__all__ = ["FolderNotes", "LoadedModel", "SavedModel", "load_model", "save_model"]

_NGRAM = "touchstone-ngram"
_MAX_TEMPLATE_BYTES = 1 << 20  # published templates have a few thousand
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TEMPLATE = "chat_template.jinja"
_TARGET_IDS = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")  # of an encoder-decoder


@dataclass(frozen=True)
class FolderNotes:
    """What a reader of the folder should know: what was left out and why, and what is legal but odd."""

    ignored_keys: dict[str, str] = field(default_factory=dict)  # of config.json and generation_config.json -> reason
    ignored_tensors: dict[str, str] = field(default_factory=dict)
    ignored_files: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    n_spare_rows: int = 0  # embedding rows that no token of the tokenizer uses
    stored_types: dict[str, int] = field(default_factory=dict)  # type in the files -> numbers stored so


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory. Weights keep the type they are stored in: `net.to(dtype)` gives the whole one type to compute in."""

    net: LanguageNet | NgramModel
    spec: ModelSpec | NgramSpec
    tokenizer: Tokenizer | None
    card: Card
    generation_config: dict[str, Any]
    family: str
    model_type: str
    extra: FolderNotes


@dataclass(frozen=True)
class SavedModel:
    """What was written, and who opens it."""

    folder: Path
    model_type: str
    opens_in_transformers: bool
    n_bytes: int  # of the weights
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Contents:
    """A folder decided, before anything is written."""

    model_type: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    card: Card
    facts: dict[str, str]
    opens_in_transformers: bool
    use: str = "lm"
    sentence_files: Mapping[str, Any] = field(default_factory=dict)  # place in the folder -> JSON

    @property
    def readme(self) -> str:
        return readme(self.card, self.facts, opens_in_transformers=self.opens_in_transformers, use=self.use)


def save_model(
    folder: Path | str,
    net: LanguageNet | NgramModel,
    *,
    tokenizer: Tokenizer | None = None,
    card: Card | None = None,
    generation_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> SavedModel:
    """Write a model folder and read it back; an existing model stays until the new one is complete.

    The folder is of the Hugging Face class that computes the same function, or of our own `touchstone-…` type where there is none.
    generation_config: None takes the start, end and padding ids from the tokenizer.
    dtype: the type to store weights in; None keeps theirs.
    Raises ModelFolderError if a weight is not finite, an id is no token, or the files read back differently.
    """
    if not isinstance(net, LanguageNet | NgramModel):
        raise ConfigError(f"A model folder holds a network of ours or an n-gram model, not a {type(net).__name__}; unwrap a compiled one.")
    if dtype is not None and (isinstance(net, NgramModel) or is_int8(net) or dtype not in FLOATS.values()):
        raise ConfigError(f"`dtype` ({dtype}) should be {', '.join(map(str, FLOATS.values()))}, and None for n-gram counts and int8.")
    folder, card = Path(folder), card or Card()
    generation = dict(generation_config) if generation_config is not None else _ids_of(tokenizer)
    _spare_rows(tokenizer, net.spec.vocab_size, str(folder))
    warnings = check_generation(generation, net.spec.vocab_size, "generation_config")
    contents = _ngram_contents(net, card) if isinstance(net, NgramModel) else _network_contents(net, card, generation, dtype)
    shards = split_shards(contents.tensors, max_shard_bytes)

    def fill(place: Path) -> None:
        for name, tensors in shards.files.items():
            save_tensors(place / name, tensors, {"format": "pt"})
        if shards.index is not None:
            write_json(place / "model.safetensors.index.json", shards.index)
        write_json(place / "config.json", contents.config)
        write_json(place / "generation_config.json", generation)
        if tokenizer is not None:
            tokenizer.save(place)
        if contents.card.chat_template is not None:
            write_text(place / _TEMPLATE, contents.card.chat_template)
        for name, data in contents.sentence_files.items():
            (place / name).parent.mkdir(exist_ok=True)
            write_json(place / name, data)
        write_json(place / CARD_NAME, plain_card(contents.card))
        write_text(place / "README.md", contents.readme)
        _verify(place, shards.files, net, tokenizer, contents.card)

    publish_folder(folder, fill)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in contents.tensors.values())
    return SavedModel(folder, contents.model_type, contents.opens_in_transformers, n_bytes, tuple(warnings))


def load_model(folder: Path | str, *, kernel: KernelName = "sdpa") -> LoadedModel:
    """Read a model folder; ModelFolderError, Unsupported or TokenizerError says everything that is wrong with it."""
    folder = Path(folder)
    settle_folder(folder)
    if not folder.is_dir():
        raise ModelFolderError(f"{folder}: no such model folder.")
    card, sentence = read_card(folder), find_sentence_folder(folder)
    folder = sentence.model if sentence is not None else folder
    config = read_mapping(folder / "config.json")
    load_net = {_NGRAM: _load_ngram, INT8_TYPE: _load_int8}.get(str(config.get("model_type")), _load_network)
    loaded = load_net(folder, config, card, kernel)
    tokenizer, ignored_files = _load_tokenizer(folder, loaded.spec.vocab_size)
    generation, ignored_settings, warnings = _load_generation(folder, config, loaded.spec.vocab_size)
    native = config["model_type"].startswith("touchstone-")
    notes = FolderNotes(
        ignored_keys={**loaded.ignored_keys, **ignored_settings},
        ignored_tensors=loaded.ignored_tensors,
        ignored_files={**loaded.ignored_files, **ignored_files},
        warnings=tuple(warnings),
        n_spare_rows=_spare_rows(tokenizer, loaded.spec.vocab_size, str(folder)),
        stored_types=loaded.stored_types,
    )
    card = card.replace(spec=None, hf_config=card.hf_config if native else config, chat_template=_read_template(folder))
    card = card.replace(labels=_labels(loaded.spec, config, card, folder), pooling=_pooling(sentence, loaded.spec))
    return LoadedModel(loaded.net, loaded.spec, tokenizer, card, generation, loaded.family, config["model_type"], notes)


@dataclass(frozen=True)
class _Filled:
    """A network with its weights, and what was left out on the way."""

    net: LanguageNet | NgramModel
    spec: ModelSpec | NgramSpec
    family: str
    stored_types: dict[str, int]
    ignored_keys: dict[str, str] = field(default_factory=dict)
    ignored_tensors: dict[str, str] = field(default_factory=dict)
    ignored_files: Mapping[str, str] = field(default_factory=dict)


def _load_network(folder: Path, config: dict[str, Any], card: Card, kernel: KernelName) -> _Filled:
    source = str(folder / "config.json")
    family = find_family(config, source)
    weights = find_weights(folder)
    spec = _exact_spec(family.read(config, source, stored=weights.header), card, folder)
    _check_plausible(spec, weights, folder)
    net = _empty_net(spec, kernel)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    plan = match(
        family.rows(shapes, stored=weights.header),
        shapes,
        weights.header,
        prefix=family.prefix,
        other_prefixes=frozenset(family.other_prefixes.values()),
        ignored=family.ignored_tensors,
    )
    plan.report.check(str(folder))
    net.load_state_dict(plan.load(weights.load(plan.names.values()), str(folder)), assign=True)
    ignored = family.left_out(config)
    return _Filled(net, spec, family.name, weights.types(), ignored, plan.report.ignored, weights.ignored)


def _load_int8(folder: Path, config: dict[str, Any], card: Card, kernel: KernelName) -> _Filled:
    spec, smoothed = as_folder_error(lambda: read_int8_config(config, str(folder / "config.json")))
    weights = find_weights(folder)
    _check_plausible(spec, weights, folder)
    with _WeightsOnMeta():
        net = fill_int8(hollow(build(spec, kernel=kernel, seed=None), smoothed), weights, str(folder))
    return _Filled(net, spec, "touchstone", weights.types(), ignored_files=weights.ignored)


def _load_ngram(folder: Path, config: dict[str, Any], card: Card, kernel: KernelName) -> _Filled:
    if unknown := sorted(set(config) - {"model_type", "architectures", "vocab_size", "spec"}):
        raise ModelFolderError(f"{folder / 'config.json'}: unknown keys {', '.join(unknown)}.")
    told = config.get("spec")
    if not isinstance(told, dict):
        raise ModelFolderError(f"{folder / 'config.json'}: `spec` should be a mapping.")
    spec = as_folder_error(lambda: parse(NgramSpec, told, source=f"{folder / 'config.json'}: spec"))
    weights = find_weights(folder)
    if wrong := [name for name, entry in weights.header.items() if entry.dtype != "I32"]:
        raise ModelFolderError(f"{folder}: n-gram counts are stored as I32; `{wrong[0]}` is not.")
    net = NgramModel.from_arrays(spec, {name: tensor.numpy() for name, tensor in weights.load().items()})
    return _Filled(net, spec, "touchstone", weights.types(), ignored_files=weights.ignored)


def _network_contents(net: LanguageNet, card: Card, generation: Mapping[str, Any], dtype: torch.dtype | None) -> _Contents:
    ours = {name: _stored(name, tensor, dtype) for name, tensor in net.state_dict().items()}
    vectors = sentence_files(card.pooling, net.spec.d_hidden) if card.pooling else {}
    if is_int8(net):
        ours, facts = dict(sorted(ours.items())), _facts(net.spec, INT8_TYPE, "int8")
        return _Contents(INT8_TYPE, int8_config(net), ours, card, facts, False, _use(net.spec), vectors)
    carried = card.hf_config or {}
    choice = choose_family(net.spec, prefer=carried.get("model_type"), names=ours)
    stored = choice.family.their_names(ours)
    same_type = carried.get("model_type") == choice.model_type
    config = _config_to_write(choice.config, carried if same_type else {}, net.spec, generation, card.labels, stored)
    architecture = (config.get("architectures") or choice.config["architectures"])[0]
    if not choice.family.holds_state(ours, architecture):
        architecture = choice.architecture
        config["architectures"] = [architecture]
    tensors = choice.family.to_theirs(ours, architecture)
    kind = Counter(str(tensor.dtype) for tensor in tensors.values()).most_common(1)[0][0].removeprefix("torch.")
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    if key in config or not same_type:
        config[key] = kind
    said_all = choice.family.read(config, stored=stored) == net.spec
    card = card.replace(spec=None if said_all else net.spec, hf_config=None if same_type else card.hf_config)
    facts = _facts(net.spec, choice.model_type, kind)
    return _Contents(choice.model_type, config, tensors, card, facts, not choice.is_native, _use(net.spec), vectors)


def _config_to_write(
    said: dict[str, Any],
    carried: dict[str, Any],
    spec: ModelSpec,
    generation: Mapping[str, Any],
    labels: tuple[str, ...] | None,
    stored: Collection[str],
) -> dict[str, Any]:
    """config.json: as it was read where it still describes the model, else our words with what was carried beside them.

    stored: names of the tensors that will lie beside it.
    """
    named = _label_keys(spec, labels)
    if carried:
        family = find_family(carried)
        if family.read(carried, stored=stored) == spec and (not named or label_names(carried) == labels):
            return dict(carried)
        kept = {key: carried[key] for key in family.left_out(carried)}
        return {**kept, **said, **named}
    ids = {key: generation.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}  # null, or a class default would come in
    if spec.encoder is not None and spec.decoder is not None:
        ids |= {key: generation[key] for key in _TARGET_IDS if generation.get(key) is not None}
    return {**ids, **said, **named}


def _label_keys(spec: ModelSpec, labels: tuple[str, ...] | None) -> dict[str, Any]:
    """The names of a head's labels as transformers keeps them; LABEL_0 … where they have none."""
    if not isinstance(spec.head, ClassifyHead | TagHead):
        return {}
    names = labels or tuple(f"LABEL_{number}" for number in range(spec.head.n_labels))
    if len(names) != spec.head.n_labels or len(set(names)) != len(names):
        raise ModelFolderError(f"The card names {len(names)} labels and the head has {spec.head.n_labels}; give each its own name.")
    return {"id2label": {str(number): name for number, name in enumerate(names)}, "label2id": {name: i for i, name in enumerate(names)}}


def _labels(spec: ModelSpec | NgramSpec, config: Mapping[str, Any], card: Card, folder: Path) -> tuple[str, ...] | None:
    """The card's names of the labels, else those of config.json."""
    if not isinstance(spec, ModelSpec) or not isinstance(spec.head, ClassifyHead | TagHead):
        return card.labels
    labels = card.labels or label_names(config)
    if labels is not None and len(labels) != spec.head.n_labels:
        raise ModelFolderError(f"{folder}: {len(labels)} labels are named, and the head has {spec.head.n_labels}.")
    return labels


def _pooling(sentence: SentenceFolder | None, spec: ModelSpec | NgramSpec) -> SentencePooling | None:
    if sentence is None:
        return None
    if not isinstance(spec, ModelSpec) or sentence.d_model not in (None, spec.d_hidden):
        width = f"hidden states of {spec.d_hidden}" if isinstance(spec, ModelSpec) else "no hidden states"
        raise ModelFolderError(f"{sentence.model}: the pooling is for hidden states of {sentence.d_model}, and the model has {width}.")
    return sentence.pooling


def _use(spec: ModelSpec) -> str:
    """What the README says the model is for."""
    if spec.head is None or spec.head.kind == "pool":
        return "base"
    return "seq2seq" if spec.encoder is not None and spec.predicts_tokens else spec.head.kind


def _ngram_contents(net: NgramModel, card: Card) -> _Contents:
    if card.pooling is not None:
        raise ConfigError("The card's `pooling` makes vectors of hidden states, and an n-gram model has none; leave it out.")
    spec = net.spec.model_dump(mode="json")
    config = {"model_type": _NGRAM, "architectures": ["TouchstoneNgram"], "vocab_size": net.spec.vocab_size, "spec": spec}
    tensors = {name: torch.from_numpy(array) for name, array in sorted(net.to_arrays().items())}
    facts = {"type": f"{_NGRAM}, order {net.spec.order}", "vocabulary": str(net.spec.vocab_size), "n-grams": f"{sum(net.n_ngrams):,}"}
    return _Contents(_NGRAM, config, tensors, card, facts, False)


def _verify(
    place: Path, files: Mapping[str, Mapping[str, Tensor]], net: LanguageNet | NgramModel, tokenizer: Tokenizer | None, card: Card
) -> None:
    """Read the folder back: every tensor as it was given, and a whole model with the same spec and tokenizer."""
    for name, tensors in files.items():
        stored = load_tensors(place / name)
        if wrong := [tensor for tensor in tensors if tensor not in stored or not same_bits(stored[tensor], tensors[tensor])]:
            raise ModelFolderError(f"{place / name}: `{wrong[0]}` reads back differently from what was written; is the disk failing?")
    again = load_model(place)
    if again.spec != net.spec:
        raise ModelFolderError(f"{place}: the spec reads back differently from what was written.")
    if again.card.pooling != card.pooling:
        raise ModelFolderError(f"{place}: the `pooling` reads back differently from what was written.")
    if (again.tokenizer and again.tokenizer.fingerprint) != (tokenizer and tokenizer.fingerprint):
        raise ModelFolderError(f"{place}: the tokenizer reads back differently from what was written.")


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise ModelFolderError(f"`{name}` holds values that are not finite; such a model is not saved.")
    return tensor.detach().to("cpu", dtype)


def _exact_spec(said: ModelSpec, card: Card, folder: Path) -> ModelSpec:
    """The card's spec where it has one: config.json's, and what that has no words for."""
    if card.spec is None:
        return said
    told = card.spec
    spec = as_folder_error(lambda: parse(ModelSpec, told, source=f"{folder / CARD_NAME}: spec"))
    if not same_function(spec, said):
        raise ModelFolderError(
            f"{folder}: config.json and the `spec` in {CARD_NAME} describe different models; remove that entry, or restore config.json."
        )
    return spec


def _check_plausible(spec: ModelSpec, weights: WeightFiles, folder: Path) -> None:
    """Refuse sizes that the stored numbers cannot fill, before a network is made of them."""
    n_stored, n_tensors = weights.n_numbers(), len(weights.header)
    n_layers = sum(len(stack.blocks) if isinstance(stack, Stack) else stack.cell.n_layers for stack in spec.stacks.values())
    if n_layers > max(n_tensors, 1):
        raise ModelFolderError(f"{folder}: config.json says {n_layers} layers, and the files hold {n_tensors} tensors.")
    if spec.n_parameters() > 2 * n_stored + 1_000_000:
        raise ModelFolderError(
            f"{folder}: config.json describes {spec.n_parameters():,} parameters, and the files hold {n_stored:,} numbers."
        )
    tables = [stack.position for stack in spec.stacks.values() if isinstance(stack, Stack)]
    for table in tables:
        if isinstance(table, SinusoidalPositions) and table.max_seq_len * spec.d_model > 1 << 28:
            raise ModelFolderError(f"{folder}: a sinusoidal table of {table.max_seq_len} × {spec.d_model} is larger than a gigabyte.")


class _WeightsOnMeta(TorchFunctionMode):
    """Modules make their weights with `torch.empty` and compute their buffers: the weights take no memory here, the buffers are real."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **({**kwargs, "device": "meta"} if func is torch.empty else kwargs))


def _empty_net(spec: ModelSpec, kernel: KernelName) -> LanguageNet:
    with _WeightsOnMeta():
        return build(spec, kernel=kernel, seed=None)


def _load_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer | None, dict[str, str]]:
    for name in _TOKENIZER_FILES:
        if (folder / name).is_symlink() or (folder / name).exists():
            _touch(folder / name)
    if (folder / "tokenizer.json").exists():
        return Tokenizer.load(folder, n_rows=vocab_size), {}
    others = [name for name in VOCABULARY_FILES if (folder / name).exists()]
    reason = why_unreadable(folder) if others else None
    if others and reason is None:
        return Tokenizer.load(folder), {}
    return None, dict.fromkeys(others, f"is no tokenizer that can be read: {reason}")


def _load_generation(folder: Path, config: Mapping[str, Any], vocab_size: int) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    path = folder / "generation_config.json"
    given = path.is_symlink() or path.exists()
    generation = read_mapping(path) if given else generation_from_config(config)
    warnings = check_generation(generation, vocab_size, str(path if given else folder / "config.json"))
    return generation, unknown_settings(generation), warnings


def _read_template(folder: Path) -> str | None:
    path = folder / _TEMPLATE
    if not (path.is_symlink() or path.exists()):
        return None
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(_MAX_TEMPLATE_BYTES + 1)
    if len(data) > _MAX_TEMPLATE_BYTES:
        raise ModelFolderError(f"{path}: a chat template is at most {_MAX_TEMPLATE_BYTES} bytes, this one is larger.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFolderError(f"{path}: should be UTF-8 text.") from None


def _touch(path: Path) -> None:
    """Open a file as carefully as the others, for a reader that opens it by itself."""
    os.close(open_regular(path))


def _ids_of(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {}
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    return {key: token_id for key, token_id in ids.items() if token_id is not None}


def _spare_rows(tokenizer: Tokenizer | None, vocab_size: int, source: str) -> int:
    if tokenizer is None:
        return 0
    if tokenizer.vocab_size > vocab_size:
        raise ModelFolderError(
            f"{source}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, and the model has {vocab_size} rows; "
            "use the tokenizer it was trained with."
        )
    return vocab_size - tokenizer.vocab_size


def _facts(spec: ModelSpec, model_type: str, kind: str) -> dict[str, str]:
    length = spec.max_seq_len
    return {
        "type": model_type,
        "parameters": f"{spec.n_parameters():,}",
        "layers, width": f"{spec.n_layers}, {spec.d_model}",
        "vocabulary": f"{spec.vocab_size:,}",
        "context": f"{length:,} tokens" if length else "unbounded",
        "weights stored in": kind,
    }
