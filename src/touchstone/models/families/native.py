"""Our own model types, for what no Hugging Face class expresses: same folder layout, our tensor names, the whole spec in config.json.

| | the plain pre-norm decoder | here |
|---|---|---|
| `touchstone-decoder` | | any stack of attention blocks that looks back |
| `touchstone-encoder` | looks back | any stack that looks both ways |
| `touchstone-encoder-decoder` | one stack | both, the second looking at the first |
| `touchstone-recurrent`, `-recurrent-encoder`, `-recurrent-encoder-decoder` | attention | LSTM or GRU layers |
"""

from typing import Any, get_args

from touchstone.config import parse
from touchstone.errors import ConfigError
from touchstone.models.families.family import Family, HfConfig
from touchstone.models.heads import MODULES
from touchstone.models.spec import ModelKind, ModelSpec

__all__ = ["FAMILY", "to_hf_config", "to_spec"]

_KINDS = {f"touchstone-{kind}": kind for kind in get_args(ModelKind)}

_COPIES = {
    "vocab_size": "repeats the spec for other readers",
    "hidden_size": "repeats the spec for other readers",
    "num_hidden_layers": "repeats the spec for other readers",
}


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec that config.json holds as it is."""
    told = config.value("spec")
    if not isinstance(told, dict):
        config.problems.append("`spec` should be a mapping")
    config.finish(_COPIES)
    try:
        spec = parse(ModelSpec, told, source="spec")
    except RecursionError:
        raise ConfigError("`spec` is nested too deeply.") from None
    if spec.kind != _KINDS[config.model_type]:
        raise ConfigError(f"`model_type` `{config.model_type}` does not go with a {spec.kind} spec.")
    return spec


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The spec itself, and the three numbers that other readers of config.json look for."""
    if spec.kind != _KINDS[model_type]:
        return None
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
        "spec": spec.model_dump(mode="json"),
    }


def _class(kind: str, head: str) -> str:
    """TouchstoneDecoder for a decoder that predicts tokens, TouchstoneDecoderForClassify …"""
    words = "".join(word.capitalize() for word in kind.split("-"))
    after = {"lm": "", "base": "Body"}.get(head, "For" + "".join(word.capitalize() for word in head.split("-")))
    return f"Touchstone{words}{after}"


FAMILY = Family(
    name="touchstone",
    architectures={name: {_class(kind, head): head for head in (*MODULES, "base")} for name, kind in _KINDS.items()},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=None,
    ignored_keys=_COPIES,
)
