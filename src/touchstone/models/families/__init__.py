"""Which family reads a folder, and which can say a spec. A new architecture is one more file here with a `FAMILY`.

Every module of this package that has a `FAMILY` is found by its being here; nothing outside it names one.
"""

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from touchstone.config import unknown_name
from touchstone.errors import ConfigError, ModelFolderError, TouchstoneError, printable
from touchstone.models.families.family import Family, HfConfig
from touchstone.models.spec import ModelSpec

__all__ = ["Choice", "Family", "HfConfig", "choose_family", "families", "find_family", "label_names", "same_function"]

_NATIVE = "touchstone-"

_TRAINING = frozenset({"dropout", "attn_dropout", "final_dropout", "drop_pooled", "jitter", "balance_weight", "z_weight"})


@dataclass(frozen=True)
class Choice:
    """The family and type that a spec is saved as, with the config entries that say it."""

    family: Family
    model_type: str
    config: dict[str, Any]

    @property
    def is_native(self) -> bool:
        """True if only this toolkit opens it."""
        return self.model_type.startswith(_NATIVE)

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])


def families() -> tuple[Family, ...]:
    """All families there are, our own last."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [
        family for name in names if isinstance(family := getattr(importlib.import_module(f"{__name__}.{name}"), "FAMILY", None), Family)
    ]
    return tuple(sorted(found, key=lambda family: any(name.startswith(_NATIVE) for name in family.architectures)))


def find_family(config: Mapping[str, Any], source: str = "config.json") -> Family:
    """The family of a config.json's `model_type`; ModelFolderError names the near ones where there is none."""
    model_type = config.get("model_type")
    known = {name: family for family in families() for name in family.architectures}
    if not isinstance(model_type, str):
        raise ModelFolderError(
            f"{source}: `model_type` should be a text, not {printable(repr(model_type))}; read: {', '.join(sorted(known))}."
        )
    if model_type not in known:
        remote = " The folder's own code (`auto_map`) is never executed." if "auto_map" in config else ""
        raise ModelFolderError(f"{source}: {unknown_name('model type', printable(model_type), known)}{remote}")
    return known[model_type]


def label_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the labels that a config.json gives, in order; None where it has none or they are not in order."""
    return HfConfig(config, "config.json").label_names() or None


def choose_family(spec: ModelSpec, prefer: str | None = None, *, names: Collection[str] = ()) -> Choice:
    """The first type whose config, read back, computes the same function as the spec; our own type where no other does.

    prefer: a model_type to try first, such as the one the model was loaded from. names: those of the network's tensors, for what is
    known by the tensors that a folder has. Dropout and the like are no part of the comparison: they
    leave no trace in the weights, and the card keeps what a config cannot say.
    """
    types = [(family, name) for family in families() for name in family.architectures]
    for family, name in sorted(types, key=lambda pair: pair[1] != prefer):
        if (config := _said(family, name, spec, names)) is not None:
            return Choice(family, name, config)
    raise ConfigError(f"No family can keep a {spec.kind} spec.")


def same_function(a: ModelSpec, b: ModelSpec) -> bool:
    """True if the two specs compute the same logits from the same tensors: equal but for dropout and for defaults written out."""
    return bool(_meaning(a.model_dump(mode="json")) == _meaning(b.model_dump(mode="json")))


def _said(family: Family, model_type: str, spec: ModelSpec, names: Collection[str]) -> dict[str, Any] | None:
    try:
        config = family.write(spec, model_type)
        return config if config is not None and same_function(family.read(config, stored=family.their_names(names)), spec) else None
    except TouchstoneError:
        return None  # its reader refuses such a model


def _meaning(data: Any) -> Any:
    """A dumped spec without what matters in training alone, and with defaults written out."""
    if isinstance(data, list):
        runs = [
            [item["block"]] * item["repeat"] if isinstance(item, dict) and set(item) == {"repeat", "block"} else [item] for item in data
        ]
        return [_meaning(item) for run in runs for item in run]
    if not isinstance(data, dict):
        return data
    plain = {key: _meaning(value) for key, value in data.items() if key not in _TRAINING}
    if plain.get("kind") == "rms":
        plain["bias"] = True  # an RMSNorm has none
    if "d_head" in plain:
        plain["scale"] = plain["scale"] if plain["scale"] is not None else plain["d_head"] ** -0.5
        if isinstance(plain["position"], dict) and "d_rotary" in plain["position"]:
            plain["position"]["d_rotary"] = plain["position"]["d_rotary"] or plain["d_head"]
    return plain
