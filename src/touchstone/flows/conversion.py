"""The verb `convert`: a model folder made of another one, or of a llama2.c checkpoint.

The new folder is written beside its place, opened again and asked for the logits of three prompts, and only then moved to its place:
a conversion that fails, or is stopped, leaves nothing there.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.errors import ConfigError, ModelFolderError
from touchstone.files import check_writable, read_json
from touchstone.files.atomic import sync_folder
from touchstone.infer.locate import locate_model
from touchstone.infer.runner import LanguageCore, evaluating
from touchstone.models import build
from touchstone.models.card import Card
from touchstone.models.checkpoint import SavedModel, load_model, save_model
from touchstone.models.llama2c import END_IDS, START_ID, read_llama2c, read_llama2c_tokenizer
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.weight_files import MAX_SHARD_BYTES
from touchstone.models.weights import same_bits
from touchstone.report.terminal import Terminal
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Agreement", "ConversionRequest", "bytes_of", "compare_logits", "convert_model"]

_PROMPTS = ("Once upon a time, there was a little girl who", "def main(arguments):\n    return", "天空是蓝色的，因为")
_ID_PROMPT_LENGTHS = (5, 8, 13)  # where there is no tokenizer
_UNITS = {unit: base**power for power, letter in enumerate("KMGT", 1) for unit, base in ((f"{letter}B", 1000), (f"{letter}IB", 1024))}


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert, and into what.

    source: a folder or name that `touchstone.load` opens, or with `origin` the file of another tool.
    tokenizer: the tokenizer file that belongs to a llama2.c checkpoint; None = the new folder has none.
    dtype: a name such as "bfloat16"; None keeps the types that the weights are stored in.
    """

    source: str
    target: Path
    origin: Literal["llama2c"] | None = None
    tokenizer: Path | None = None
    dtype: str | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES


@dataclass(frozen=True)
class Agreement:
    """How far two models agree on some prompts. max_difference: of logits; KL divergences in nats a token, of `b` from `a`."""

    n_prompts: int
    n_positions: int
    bit_equal: bool
    max_difference: float
    mean_kl: float
    max_kl: float


def convert_model(asked: ConversionRequest, terminal: Terminal) -> dict[str, Any]:
    """Write the new folder, check it, show what was found and return the same as plain data.

    Raises ConfigError where something stands at the target, and ModelFolderError where the new folder computes something else.
    """
    words, target = terminal.words, asked.target.absolute()
    _check_target(target)
    source = _read(asked)
    dtype = _stored_type(asked.dtype, source.net)
    with terminal.progress(words("convert.working")), _beside(target) as place:
        is_same_type = dtype is None or all(tensor.dtype == dtype for tensor in _state(source.net).values())
        saved = save_model(
            place,
            source.net,
            tokenizer=source.tokenizer,
            card=source.card,
            generation_config=source.generation or None,
            dtype=dtype,
            max_shard_bytes=asked.max_shard_bytes,
        )
        agreement = _check(place, source, is_same_type=is_same_type)
        opens_in = read_json(place / "config.json")["architectures"][0] if saved.opens_in_transformers else None
        _put(place, target)
    _tell(asked, saved, agreement, opens_in, source, terminal)
    return {
        "status": "ok",
        "source": asked.source,
        "folder": str(asked.target),
        "model_type": saved.model_type,
        "opens_in_transformers_as": opens_in,
        "weight_bytes": saved.n_bytes,
        "check": asdict(agreement),
        "ignored": dict(source.ignored),
        "warnings": list(saved.warnings),
    }


def compare_logits(a: LanguageCore, b: LanguageCore, prompts: Sequence[Sequence[int]]) -> Agreement:
    """Next-token logits of both models at every place of the prompts; ModelFolderError where one of them is not finite."""
    pairs = [(_logits(a, prompt), _logits(b, prompt)) for prompt in prompts]
    if not all(bool(torch.isfinite(logits).all()) for pair in pairs for logits in pair):
        raise ModelFolderError("The model gives logits that are not finite numbers.")
    first, second = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    expected, found = first.log_softmax(-1), second.log_softmax(-1)
    divergences = (expected.exp() * (expected - found)).sum(-1).clamp(min=0.0)  # below zero by rounding only
    return Agreement(
        n_prompts=len(pairs),
        n_positions=len(first),
        bit_equal=all(same_bits(one, other) for one, other in pairs),
        max_difference=float((first - second).abs().max()),
        mean_kl=float(divergences.mean()),
        max_kl=float(divergences.max()),
    )


def bytes_of(size: str) -> int:
    """A size as people write it, such as 500MB, 2.5GiB or a plain number of bytes; ConfigError for anything else."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]I?B)?", size.strip(), re.IGNORECASE)
    n_bytes = int(float(found[1]) * _UNITS.get((found[2] or "").upper(), 1)) if found else 0
    if n_bytes < 1:
        raise ConfigError(f"`{size}` should be a size of at least one byte, such as 500MB, 2GiB or 1000000.")
    return n_bytes


@dataclass(frozen=True)
class _Source:
    """A model to be written anew, its weights in their stored types; `ignored` is what is not carried over, and why."""

    net: LanguageCore
    tokenizer: Tokenizer | None
    card: Card
    generation: Mapping[str, Any]
    ignored: Mapping[str, str] = field(default_factory=dict)


def _check_target(target: Path) -> None:
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ConfigError(f"{target}: must not exist or be an empty folder; choose another place, or move away what is there.")


def _read(asked: ConversionRequest) -> _Source:
    if asked.origin is not None:
        return _read_llama2c(Path(asked.source), asked.tokenizer)
    if asked.tokenizer is not None:
        raise ConfigError("`--tokenizer` goes with `--from llama2c`; a model folder brings its own.")
    if Path(asked.source).is_file():
        raise ConfigError(f"{asked.source}: is a file, and a model is a folder; a llama2.c checkpoint is read with `--from llama2c`.")
    loaded = load_model(locate_model(asked.source))
    notes = loaded.extra
    ignored = {**notes.ignored_tensors, **notes.ignored_files}  # ignored keys of config.json are written back
    return _Source(loaded.net, loaded.tokenizer, loaded.card, loaded.generation_config, ignored)


def _read_llama2c(path: Path, tokenizer_path: Path | None) -> _Source:
    found = read_llama2c(path)
    net = build(found.spec, seed=None)
    net.load_state_dict(found.state, assign=True)
    tokenizer = read_llama2c_tokenizer(tokenizer_path, found.spec.vocab_size) if tokenizer_path is not None else None
    ends = [token_id for token_id in END_IDS if token_id < found.spec.vocab_size]
    generation = {"bos_token_id": START_ID, "eos_token_id": ends} if ends else {}
    card = Card(name=path.stem, about=f"Converted from the llama2.c checkpoint `{path.name}` (version {found.version}).")
    return _Source(net, tokenizer, card, generation, found.ignored)


def _stored_type(name: str | None, net: LanguageCore) -> torch.dtype | None:
    """The type to store weights in; ConfigError where a weight would become infinite in it."""
    if name is None:
        return None
    dtype: torch.dtype = getattr(torch, name)
    largest = torch.finfo(dtype).max
    for weight, tensor in _state(net).items():
        if tensor.is_floating_point() and float(tensor.abs().max()) > largest:
            raise ConfigError(f"`{weight}` holds numbers beyond {largest:g}, the largest of {name}; choose bfloat16 or float32.")
    return dtype


def _state(net: LanguageCore) -> Mapping[str, Tensor]:
    return {} if isinstance(net, NgramModel) else net.state_dict()


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A place for the new folder on the disk of its target; what is left there in the end is deleted."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.converting-", dir=check_writable(target.parent)))
    try:
        yield temporary / target.name
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(place: Path, source: _Source, *, is_same_type: bool) -> Agreement:
    """Open what was written, and hold it against the source, both computed in the wider type of the two."""
    again = load_model(place)
    if not isinstance(source.net, NgramModel) and not isinstance(again.net, NgramModel):
        kinds = {tensor.dtype for net in (source.net, again.net) for tensor in net.state_dict().values()}
        for net in (source.net, again.net):
            net.to(torch.float64 if torch.float64 in kinds else torch.float32)
    agreement = compare_logits(source.net, again.net, _prompts(source))
    if is_same_type and not agreement.bit_equal:
        raise ModelFolderError(
            f"The new folder computes other logits than its source, by up to {agreement.max_difference:.3g}, with the same weights; it was"
            " not kept. Please report this with the source's config.json."
        )
    return agreement


def _prompts(source: _Source) -> list[list[int]]:
    """Texts where there is a tokenizer, else ids spread over the vocabulary; none longer than either side of the model reads."""
    spec = source.net.spec
    bounds = [] if isinstance(spec, NgramSpec) else [n for n in (spec.max_seq_len, spec.max_source_len) if n is not None]
    room = min(bounds, default=None)
    texts = [[*source.tokenizer.prefix_ids, *source.tokenizer.encode(text)] for text in _PROMPTS] if source.tokenizer else []
    if not texts or not all(texts):
        texts = [[(97 * place + 31 * length) % spec.vocab_size for place in range(length)] for length in _ID_PROMPT_LENGTHS]
    return [ids[:room] for ids in texts]


@torch.no_grad()
def _logits(core: LanguageCore, prompt: Sequence[int]) -> Float[Tensor, "N V"]:
    if isinstance(core, NgramModel):
        return torch.from_numpy(core.next_log_probs_batch([list(prompt[: n + 1]) for n in range(len(prompt))]))
    token_ids = torch.tensor([list(prompt)])
    has_source = core.spec.encoder is not None and core.spec.decoder is not None
    with evaluating(core):
        logits = core(token_ids, **({"source_ids": token_ids} if has_source else {})).logits[0]
    return logits.reshape(-1, logits.shape[-1])  # one row where there is one answer for the whole prompt


def _put(place: Path, target: Path) -> None:
    os.rename(place, target)  # noqa: PTH104 - onto an empty folder, or where nothing is
    sync_folder(target.parent)


def _tell(asked: ConversionRequest, saved: SavedModel, found: Agreement, opens_in: str | None, source: _Source, terminal: Terminal) -> None:
    words = terminal.words
    terminal.say(words("convert.written", source=asked.source, folder=asked.target, kind=saved.model_type, size=words.size(saved.n_bytes)))
    n, positions = found.n_prompts, found.n_positions
    if found.bit_equal:
        terminal.say(words("convert.equal", n=n, positions=positions), style="good")
    else:
        difference, kl, mean_kl = (f"{value:.3g}" for value in (found.max_difference, found.max_kl, found.mean_kl))
        terminal.say(words("convert.close", n=n, positions=positions, difference=difference, kl=kl, mean_kl=mean_kl), style="good")
    terminal.say(words("convert.opens_in", name=opens_in) if opens_in else words("convert.ours_only"))
    for warning in saved.warnings:
        terminal.warn(warning)
    if source.ignored:
        terminal.table([words("convert.ignored"), words("convert.reason")], list(source.ignored.items()))
