"""Malformed and hostile model folders: the sound folder each is made from, how it is spoilt, and what its refusal must say.

A new case is one row of CASES in hostile_weights.py or hostile_settings.py; a new family is one row of GOODS here. Every sound folder
already holds traps - code, pickles and a config that asks for them to be run - which must never go off.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import torch

from touchstone.errors import ModelFolderError, TouchstoneError
from touchstone.models import ModelSpec, build, decoder_spec, encoder_decoder_spec, encoder_spec
from touchstone.models.card import Card
from touchstone.models.checkpoint import save_model
from touchstone.text.tokenizer import Tokenizer

N_ROWS = 263  # 256 bytes, two special tokens, and five rows to spare
CANARY = "canary"  # what a trap that goes off leaves beside the folder

Layout = Literal["one file", "shards"]


@dataclass(frozen=True)
class Good:
    """A sound folder of one family, and the words that its files have for things."""

    family: str
    make: Callable[[Path, int], None]  # write it, no weight file larger than so many bytes
    words: Mapping[str, str]  # see GOODS
    compute: Callable[[Any], torch.Tensor]  # logits of a network of this family
    layout: Layout = "one file"

    def weights(self, folder: Path) -> Path:
        """The weight file that holds `vector`."""
        if self.layout == "one file":
            return folder / "model.safetensors"
        index = json.loads((folder / INDEX).read_text())
        return folder / str(index["weight_map"][self.words["vector"]])

    def __str__(self) -> str:
        return f"{self.family}, {self.layout}"


@dataclass(frozen=True)
class Case:
    """One way to spoil a folder."""

    name: str
    spoil: Callable[[Path, Good], None]
    says: tuple[str, ...]  # what the message holds; `{width}` and the like stand for the family's word, a family without it has no case
    error: type[TouchstoneError] = ModelFolderError
    only: Layout | None = None  # the layout that has what is spoilt; None = both


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (self.path, "w"))


def lay_traps(folder: Path) -> None:
    """Put code and pickles into a folder, and ask for them to be run wherever a file can ask."""
    canary = folder.parent / CANARY
    code = f"open({str(canary)!r}, 'w').close()\n"
    for name in ("modeling_evil.py", "__init__.py", "tokenizer.py", "torch.py", "sitecustomize.py", "conftest.py"):
        (folder / name).write_text(code)
    for place, name in enumerate(("pytorch_model.bin", "training_args.bin", "optimizer.pt", "data.pkl")):
        (folder / name).write_bytes(pickle.dumps(Trap(canary), protocol=2 + place))
    asks = {"auto_map": {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}, "trust_remote_code": True}
    edit_json(folder / "config.json", lambda data: data.update(asks))
    edit_json(folder / "generation_config.json", lambda data: data.update(trust_remote_code=True))
    edit_json(folder / "tokenizer_config.json", lambda data: data.update(auto_map={"AutoTokenizer": ["tokenizer.Evil", None]}))
    payload = "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}{% for i in range(10**9) %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(payload)


def make_bad(case: Case, good: Good, sound: Path, place: Path) -> Path:
    """A copy of a sound folder at `place`, spoilt."""
    shutil.copytree(sound, place)
    lay_traps(place)
    case.spoil(place, good)
    return place


def applies(case: Case, good: Good) -> bool:
    """True if the folder has what the case spoils."""
    fields = {field for part in case.says for _, field, _, _ in Formatter().parse(part) if field}
    return case.only in (None, good.layout) and fields <= good.words.keys()


def worded(case: Case, good: Good) -> list[str]:
    """What the message must hold, in the family's words."""
    return [part.format_map(good.words) for part in case.says]


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the mapping in a JSON file in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_raw(path: Path, header: bytes, body: bytes = b"") -> None:
    """A safetensors file with a header as it is given."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)


def write_sparse(path: Path, n_bytes: int, start: bytes = b"") -> None:
    """A file of that many bytes, zeros that take no room on the disk behind the start."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(n_bytes)


INDEX = "model.safetensors.index.json"

_SIZES: dict[str, Any] = {"vocab_size": N_ROWS, "d_model": 12, "n_heads": 3}
_DECODER: dict[str, Any] = {**_SIZES, "n_layers": 2, "max_seq_len": 9}
_GPT2: dict[str, Any] = {"positions": "learned", "norm": "layer", "bias": True, "gated": False, "activation": "gelu_tanh"}
_T5: dict[str, Any] = {
    "norm": "rms",
    "norm_place": "pre",
    "bias": False,
    "positions": "relative",
    "attention_scale": 1.0,
    "head_scale": 12**-0.5,
}
_IDS = torch.tensor([[0, 1, 2]])


def _make(spec: Callable[[], ModelSpec]) -> Callable[[Path, int], None]:
    def make(folder: Path, max_shard_bytes: int) -> None:
        tokenizer = Tokenizer.train([], kind="bytes")
        card = Card(name="Sound", language=("en",))
        save_model(folder, build(spec(), seed=3), tokenizer=tokenizer, card=card, max_shard_bytes=max_shard_bytes)

    return make


def _both(family: str, spec: Callable[[], ModelSpec], words: dict[str, str], *, has_source: bool = False) -> tuple[Good, Good]:
    def compute(net: Any) -> torch.Tensor:
        logits: torch.Tensor = net(_IDS, source_ids=_IDS if has_source else None).logits
        return logits

    return Good(family, _make(spec), words, compute), Good(family, _make(spec), words, compute, layout="shards")


GOODS = (
    *_both(
        "gpt2",
        lambda: decoder_spec(**_DECODER, **_GPT2),
        {
            **{"width": "n_embd", "heads": "n_head", "divides": "n_head", "layers": "n_layer", "d_ff": "n_inner"},
            **{"vector": "transformer.ln_f.weight", "matrix": "transformer.wte.weight", "product": "transformer.h.1.mlp.c_fc.weight"},
            "tied": "lm_head.weight",
        },
    ),
    *_both(
        "llama",
        lambda: decoder_spec(**_DECODER),
        {
            **{"width": "hidden_size", "heads": "num_attention_heads", "divides": "num_attention_heads"},
            **{"layers": "num_hidden_layers", "d_ff": "intermediate_size"},
            **{"vector": "model.norm.weight", "matrix": "model.embed_tokens.weight", "product": "model.layers.1.mlp.up_proj.weight"},
            "tied": "lm_head.weight",
        },
    ),
    *_both(
        "bert",
        lambda: encoder_spec(**_DECODER),
        {
            **{"width": "hidden_size", "heads": "num_attention_heads", "divides": "num_attention_heads"},
            **{"layers": "num_hidden_layers", "d_ff": "intermediate_size"},
            **{"vector": "bert.embeddings.LayerNorm.weight", "matrix": "bert.embeddings.word_embeddings.weight"},
            **{"product": "bert.encoder.layer.1.intermediate.dense.weight", "tied": "cls.predictions.decoder.weight"},
        },
    ),
    *_both(
        "t5",
        lambda: encoder_decoder_spec(**_SIZES, n_encoder_layers=2, n_decoder_layers=1, **_T5),
        {
            **{"width": "d_model", "heads": "num_heads", "layers": "num_layers", "d_ff": "d_ff"},
            **{"vector": "encoder.final_layer_norm.weight", "matrix": "shared.weight"},
            **{"product": "encoder.block.1.layer.1.DenseReluDense.wi.weight", "tied": "lm_head.weight"},
        },
        has_source=True,
    ),
)
"""The families, each as one file and as shards, with their words: `width`, `heads`, `layers`, `d_ff` and `divides` (the number of heads
where it must divide the width) are keys of config.json; `vector` (of d_model numbers), `matrix` (the token table), `product` (of a
feed-forward) and `tied` (a second name of the table) are tensors."""

SHARD_BYTES = 6000  # of a folder in shards
ONE_FILE_BYTES = 10**9


def make_sound(good: Good, folder: Path) -> Path:
    """The sound folder, without traps."""
    good.make(folder, SHARD_BYTES if good.layout == "shards" else ONE_FILE_BYTES)
    assert (folder / INDEX).exists() == (good.layout == "shards")
    return folder


def is_root() -> bool:
    return os.geteuid() == 0
