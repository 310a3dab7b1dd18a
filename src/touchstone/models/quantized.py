"""A network in int8: every product and table of it that is worth the change, by `touchstone.nn.int8`.

What stays in fp32, and why: norms, biases, position and token-type tables (a few thousandths of the weights); routers and gates of
experts (a changed choice of expert is a large error, and they are narrow); the cells of LSTM and GRU layers (a state takes its error into
all later steps, and torch's fused cell reads a whole text in one call, where int8 steps would be called one by one).

A few inputs of a layer can be a hundred times larger than the rest, and then one scale a row leaves nothing of the others. Where that is
so, the layer divides its large inputs by powers of two, and its weights hold the factors (`smooth`). Which inputs, and whether it pays, is
decided by computing each layer's error on the inputs that it gets while the network reads some tokens; layers that read one input
decide together.
Sources: Xiao et al. 2023, SmoothQuant §4 (the factors); Dettmers et al. 2022, LLM.int8() §3 (large inputs).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from touchstone.config import parse
from touchstone.errors import ConfigError, ModelFolderError, printable
from touchstone.models.heads import HeadModule, TiedHead, UntiedHead
from touchstone.models.net import LanguageNet
from touchstone.models.spec import ModelSpec
from touchstone.models.weight_files import WeightFiles
from touchstone.models.weights import StateReport
from touchstone.nn.attention import Attention, CrossAttention
from touchstone.nn.dropout import Noise
from touchstone.nn.experts import Experts, ExpertsAndOne
from touchstone.nn.int8 import Int8Linear, Int8Table
from touchstone.nn.int8_products import quantise_rows
from touchstone.nn.linear import Linear
from touchstone.nn.mlp import Mlp

__all__ = [
    "INT8_TYPE",
    "Int8TiedHead",
    "Int8UntiedHead",
    "fill_int8",
    "hollow",
    "int8_config",
    "is_int8",
    "numeric_scheme",
    "quantize",
    "read_int8_config",
    "sample_ids",
]

INT8_TYPE = "touchstone-int8"
"""The `model_type` of a folder that holds a network in int8."""

_MOST_ROWS = 128  # inputs of a layer that are kept to decide by
_MOST_OUTPUTS = 512  # of a layer that are computed to decide by
_POWERS = (0.25, 0.5, 0.75)  # tried: how much of the unevenness of inputs goes to the weights
_LEAST_GAIN = 0.25  # of the error, for a factor on the inputs to be worth its operation
_SMALLEST = 2.0**-10
_SAMPLE = (2, 64)  # rows and tokens


class Int8TiedHead(HeadModule):
    """scale · h E^T + b, with E the int8 token table."""

    def __init__(self, table: Int8Linear, bias: nn.Parameter | None, scale: float) -> None:
        super().__init__()
        self.bias, self.scale = bias, scale
        self._table = (table,)  # in a tuple: its tensors are the embedding's, and are stored there

    def forward(
        self, hidden: Float[Tensor, "... D"], table: Tensor, mask: Bool[Tensor, "B T"] | None = None, noise: Noise | None = None
    ) -> Float[Tensor, "... V"]:
        scores = self._table[0](hidden if self.scale == 1.0 else hidden * self.scale)
        return scores if self.bias is None else scores.add_(self.bias)


class Int8UntiedHead(HeadModule):
    """scale · h W^T + b, with W in int8."""

    def __init__(self, rows: Int8Linear, scale: float) -> None:
        super().__init__()
        self.rows, self.scale = rows, scale

    def forward(
        self, hidden: Float[Tensor, "... D"], table: Tensor, mask: Bool[Tensor, "B T"] | None = None, noise: Noise | None = None
    ) -> Float[Tensor, "... V"]:
        return self.rows(hidden if self.scale == 1.0 else hidden * self.scale)


def is_int8(net: object) -> bool:
    """Whether a model is a network in int8."""
    return isinstance(net, LanguageNet) and isinstance(net.embed, Int8Table)


def numeric_scheme(net: LanguageNet) -> str:
    """What a measured figure of the network holds for: "int8", or the type that its weights are computed in."""
    return "int8" if is_int8(net) else str(net.embed.weight.dtype).removeprefix("torch.")


def quantize(net: LanguageNet, calibration_ids: Int[Tensor, "B T"] | None = None) -> LanguageNet:
    """Turn a network on the CPU into its int8 form, in place, and return it, ready to read: a layer's weights go as its codes come.

    calibration_ids: tokens that the network reads, as source and as target, to see its layers' inputs; None = `sample_ids`. An expert
    that none of them reaches shares what its neighbours learn of their input.
    Raises ConfigError for a network that is int8 already, or has weights that are not finite.
    """
    if is_int8(net):
        raise ConfigError("This network is in int8 already.")
    net.eval().float()
    ids = sample_ids(net) if calibration_ids is None else calibration_ids
    smooth = _choose_smooth(_read_inputs(net, ids))
    _exchange(net, lambda name, weight, bias: Int8Linear.of_weight(weight, bias, smooth.get(name)))
    return net.requires_grad_(False)


def sample_ids(net: LanguageNet) -> Int[Tensor, "B T"]:
    """Tokens drawn evenly from the vocabulary, the same every time: for a network whose text is not known.

    Inputs are large in a network's channels rather than for its words, so these showed them as well as text did (docs/results/int8.md).
    """
    rng = torch.Generator().manual_seed(0)
    n_rows, n_tokens = _SAMPLE
    return torch.randint(net.spec.vocab_size, (n_rows, min(n_tokens, net.spec.max_seq_len or n_tokens)), generator=rng)


def hollow(net: LanguageNet, smoothed: Collection[str]) -> LanguageNet:
    """Put empty int8 layers in the place of a network's own, for a loader to fill; `smoothed` names those with factors on their inputs."""
    _exchange(net, lambda name, weight, bias: Int8Linear(weight.shape[1], weight.shape[0], bias=bias is not None, smooth=name in smoothed))
    if unknown := sorted(set(smoothed) - set(_smoothed(net))):
        raise ModelFolderError(f"`smoothed` in config.json names `{printable(unknown[0])}`, which is no int8 layer of the model.")
    return net.requires_grad_(False)


def int8_config(net: LanguageNet) -> dict[str, Any]:
    """What config.json says of a network in int8: its spec, and which layers have factors on their inputs."""
    return {
        "model_type": INT8_TYPE,
        "architectures": ["TouchstoneInt8"],
        "vocab_size": net.spec.vocab_size,
        "spec": net.spec.model_dump(mode="json"),
        "smoothed": _smoothed(net),
    }


def read_int8_config(config: Mapping[str, Any], source: str) -> tuple[ModelSpec, frozenset[str]]:
    """The spec and the smoothed layers that `int8_config` wrote; ConfigError, which `source` opens, for anything else."""
    known = ("model_type", "architectures", "vocab_size", "spec", "smoothed")
    if unknown := sorted(set(config) - set(known)):
        raise ConfigError(f"{source}: unknown keys {', '.join(map(printable, unknown))}.")
    told, smoothed = config.get("spec"), config.get("smoothed")
    if not isinstance(told, dict):
        raise ConfigError(f"{source}: `spec` should be a mapping.")
    if not isinstance(smoothed, list) or not all(isinstance(name, str) for name in smoothed):
        raise ConfigError(f"{source}: `smoothed` should list names of layers.")
    try:
        return parse(ModelSpec, told, source=f"{source}: spec"), frozenset(smoothed)
    except RecursionError:
        raise ConfigError(f"{source}: `spec` is nested too deeply.") from None


def fill_int8(net: LanguageNet, weights: WeightFiles, source: str) -> LanguageNet:
    """The hollow network with the tensors of a folder; raises ModelFolderError that lists all that do not fit."""
    expected, header = net.state_dict(), weights.header
    both = [name for name in expected if name in header]
    shapes = {name: f"{list(header[name].shape)} should be {list(expected[name].shape)}" for name in both}
    types = {name: f"{header[name].dtype} should be {_WORDS[expected[name].dtype]}" for name in both}
    StateReport(
        missing={name: "" for name in expected if name not in header},
        unknown={name: "" for name in header if name not in expected},
        misshapen={name: text for name, text in shapes.items() if header[name].shape != tuple(expected[name].shape)},
        mistyped={name: text for name, text in types.items() if header[name].dtype != _WORDS[expected[name].dtype]},
    ).check(source)
    net.load_state_dict(weights.load(), assign=True)
    return net


_WORDS = {torch.int8: "I8", torch.float32: "F32"}


def _smoothed(net: LanguageNet) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, Int8Linear) and module.smooth is not None]


_Make = Callable[[str, Tensor, Tensor | None], Int8Linear]  # of (name, weight, bias)
_TABLE = "embed.rows"


def _exchange(net: LanguageNet, make: _Make) -> None:
    """Put what `make` gives in the place of every product and table."""
    table = make(_TABLE, net.embed.weight, None)
    net.embed = Int8Table(table, net.embed.scale, net.embed.token_types)
    for name in tuple(_products(net)):
        module = net.get_submodule(name)
        owner, _, own_name = name.rpartition(".")
        made: nn.Module
        if isinstance(module, UntiedHead):
            made = Int8UntiedHead(make(_held_as(name, module), module.weight, module.bias), module.scale)
        elif isinstance(module, TiedHead):
            made = Int8TiedHead(table, module.bias, module.scale)
        else:
            assert isinstance(module, Linear)
            made = make(name, module.weight, module.bias)
        setattr(net.get_submodule(owner), own_name, made)


def _products(net: LanguageNet) -> dict[str, Linear | TiedHead]:
    """The layers that are exchanged, by name."""
    kept = {part for module in net.modules() if isinstance(module, Experts) for part in _choosing(module)}
    return {name: module for name, module in net.named_modules() if isinstance(module, Linear | TiedHead) and module not in kept}


def _choosing(experts: Experts) -> list[nn.Module]:
    return [experts.router, experts.shared_gate] if isinstance(experts, ExpertsAndOne) else [experts.router]


def _held_as(name: str, module: Linear | TiedHead) -> str:
    """The name of the int8 layer that will hold a module's weight."""
    if isinstance(module, UntiedHead):
        return f"{name}.rows"
    return _TABLE if isinstance(module, TiedHead) else name


class _Input:
    """What several layers read, and the weights they multiply it by, by the names of the int8 layers that will hold them."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self._rows: list[Tensor] = []

    def hook(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        rows = given[0].detach().reshape(-1, given[0].shape[-1])
        self._rows.append(_some(rows[rows.isfinite().all(1) & (rows != 0).any(1)], _MOST_ROWS))

    @property
    def rows(self) -> Float[Tensor, "N I"] | None:
        """Some of the inputs seen; None where there were none."""
        rows = torch.cat(self._rows) if self._rows else torch.empty(0, 0)
        return _some(rows, _MOST_ROWS) if len(rows) else None


def _read_inputs(net: LanguageNet, ids: Int[Tensor, "B T"]) -> list[_Input]:
    """Every input that an int8 layer will read, with what it is while the network reads the tokens."""
    experts = tuple(name for name, module in net.named_modules() if isinstance(module, Experts))
    inputs: dict[str, _Input] = {}
    hooks = []
    for name, module in _products(net).items():
        read = inputs.setdefault(_input_name(net, name, experts), _Input())
        read.weights[_held_as(name, module)] = module.weight if isinstance(module, Linear | UntiedHead) else net.embed.weight
        hooks.append(module.register_forward_pre_hook(read.hook))
    try:
        with torch.inference_mode():
            net(ids, source_ids=ids if net.spec.encoder is not None and net.spec.decoder is not None else None)
    finally:
        for hook in hooks:
            hook.remove()
    return list(inputs.values())


def _input_name(net: LanguageNet, name: str, experts: Sequence[str]) -> str:
    """One name for the layers that read one input."""
    owner, _, part = name.rpartition(".")
    module = net.get_submodule(owner)
    if isinstance(module, CrossAttention):
        return f"{owner} source" if part in ("k_proj", "v_proj") else name
    if isinstance(module, Attention):
        return owner if part in ("q_proj", "k_proj", "v_proj") else name
    if isinstance(module, Mlp) and part in ("gate_proj", "up_proj"):
        return next((layer for layer in experts if name.startswith(f"{layer}.")), owner)
    return name


def _choose_smooth(inputs: Sequence[_Input]) -> dict[str, Tensor]:
    """Factors on the inputs of the layers that gain by them."""
    chosen = {}
    for read in inputs:
        rows = read.rows
        factors = _best_factors(rows, list(read.weights.values()), is_looked_up=_TABLE in read.weights) if rows is not None else None
        if factors is not None:
            chosen.update(dict.fromkeys(read.weights, factors))
    return chosen


@torch.inference_mode()
def _best_factors(rows: Float[Tensor, "N I"], weights: Sequence[Tensor], *, is_looked_up: bool) -> Float[Tensor, " I"] | None:
    """The factors with the least error of those tried; None where none takes off enough of it."""
    relative = (rows / rows.abs().amax(1, keepdim=True)).abs()
    inputs, outputs = relative.amax(0), torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    some = [_some(weight, _MOST_OUTPUTS).float() for weight in weights]
    tried = [_factors(inputs, outputs, power) for power in _POWERS]
    errors = [_error(rows, some, factors, is_looked_up) for factors in tried]
    plain = _error(rows, some, torch.ones_like(inputs), is_looked_up)
    least = min(errors)
    return tried[errors.index(least)] if least < (1 - _LEAST_GAIN) * plain else None


def _factors(inputs: Float[Tensor, " I"], outputs: Float[Tensor, " I"], power: float) -> Float[Tensor, " I"]:
    """Powers of two at most 1: an input that was small in the sample is not made larger, as it need not be small in another text."""
    divisors = inputs.clamp_min(1e-6) ** power / outputs.clamp_min(1e-6) ** (1 - power)
    return torch.exp2((divisors.median() / divisors).log2().round()).clamp(_SMALLEST, 1.0)


def _error(rows: Float[Tensor, "N I"], weights: Sequence[Tensor], factors: Float[Tensor, " I"], is_looked_up: bool) -> float:
    """How far the products in int8 are from those in fp32, relative, root mean square; and the vectors of a table from its rows."""
    read = _rounded(rows * factors)
    errors = []
    for weight in weights:
        held = _rounded(weight / factors)
        errors.append(_apart(read @ held.t(), rows @ weight.t()))
        if is_looked_up:
            errors.append(_apart(held * factors, weight))
    return math.sqrt(sum(errors) / len(errors))


def _rounded(rows: Float[Tensor, "N I"]) -> Float[Tensor, "N I"]:
    codes, step = quantise_rows(rows)
    return codes * step


def _apart(found: Float[Tensor, "N O"], wanted: Float[Tensor, "N O"]) -> float:
    """The mean over rows of |found - wanted|² / |wanted|²."""
    return float(((found - wanted).square().sum(1) / wanted.square().sum(1).clamp_min(1e-30)).mean())


def _some(rows: Float[Tensor, "N I"], most: int) -> Float[Tensor, "_ I"]:
    """Rows from all places, at most so many."""
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows
