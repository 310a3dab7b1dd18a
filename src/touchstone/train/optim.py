"""Optimisers over parameters sorted by what they are: hidden matrices, token and position tables, the head, and vectors.

AdamW (Loshchilov & Hutter 2019) is torch's, in its fused form: measured on two cores for 1.6 million parameters, one update takes 1.1 ms
fused, 2.5 ms as `foreach` and 2.2 ms one by one. Muon (muon.py) takes the hidden matrices when asked to, AdamW the rest.

What decays (L2, decoupled: w <- w - rate * weight_decay * w): hidden matrices and an untied head. Not norms and biases, which set
scales and offsets, and not token and position tables unless asked: decay shrinks a rare token's row between the few times it is
seen (OLMo 2, 2025, §3.3). L1 (the same parameters that decay) is the proximal step w <- sign(w) max(|w| - rate * l1, 0) after the
update, so that weights become exactly zero and stay there (Beck & Teboulle 2009, ISTA).

State is tensors by parameter name, for safetensors; loading is strict.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.config import Config
from touchstone.errors import ConfigError, RunFolderError
from touchstone.models.heads import MODULES
from touchstone.nn.products import Product, torch_product
from touchstone.train.muon import Muon
from touchstone.train.precision import Precision

__all__ = ["OptimConfig", "Optimizer", "ParameterGroups", "build_optimizer", "parameter_groups"]

_TABLES = ("embed", "positions", "token_types", "relative_bias")  # the module names of lookup tables, the same in every network
_HEADS = frozenset(MODULES.values())
_FUSED_DEVICES = ("cpu", "cuda", "mps")


class OptimConfig(Config):
    """Rates and strengths; every rate is the peak that the schedule's factor multiplies."""

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)  # AdamW's; suits models of about 1-10 million parameters
    embedding_learning_rate: float | None = Field(None, gt=0)  # AdamW's for token and position tables; None = learning_rate
    betas: tuple[float, float] = (0.9, 0.95)  # the second shorter than Adam's 0.999, as GPT-3 and Llama have it
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)  # AdamW's, per unit of rate
    decay_embeddings: bool = False  # whether token and position tables decay too
    l1: float = Field(0.0, ge=0)  # per unit of rate, on the parameters that decay
    muon_learning_rate: float = Field(0.02, gt=0)  # Jordan et al. 2024; of updates whose singular values are about 1
    muon_weight_decay: float = Field(0.0, ge=0)  # per unit of muon_learning_rate
    momentum: float = Field(0.95, ge=0, lt=1)  # Muon's
    newton_schulz_steps: int = Field(5, ge=1, le=20)  # Muon's; fewer are faster and leave the singular values further from 1

    @model_validator(mode="after")
    def _betas_below_one(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` {self.betas} must be from 0 to below 1.")
        return self


@dataclass(frozen=True)
class ParameterGroups:
    """The trained parameters of a network by role; each mapping goes from name to parameter, a tied one once."""

    matrices: dict[str, nn.Parameter] = field(default_factory=dict)  # two and more axes, inside the network
    tables: dict[str, nn.Parameter] = field(default_factory=dict)  # token, position and token type tables; a tied head is one
    head: dict[str, nn.Parameter] = field(default_factory=dict)  # matrices of a head that are no table
    vectors: dict[str, nn.Parameter] = field(default_factory=dict)  # norms and biases


def parameter_groups(net: nn.Module) -> ParameterGroups:
    """Sort a network's trained parameters by role; frozen ones (`requires_grad` False) are left out."""
    groups = ParameterGroups()
    looked_up = {id(p) for module in net.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        places = name.split(".")[:-1]
        if parameter.ndim < 2:
            groups.vectors[name] = parameter
        elif id(parameter) in looked_up or any(place in _TABLES for place in places):
            groups.tables[name] = parameter
        elif _HEADS.intersection(places):
            groups.head[name] = parameter
        else:
            groups.matrices[name] = parameter
    return groups


class Optimizer:
    """AdamW, with Muon for some parameters, under one step, one schedule factor and one state."""

    def __init__(self, adamw: torch.optim.AdamW, names: Mapping[nn.Parameter, str], muon: Muon | None, config: OptimConfig) -> None:
        self.config = config
        self._adamw, self._muon, self._names = adamw, muon, dict(names)
        self._peaks = [group["lr"] for group in adamw.param_groups]
        self._shrunk = [p for group in adamw.param_groups if group["decays"] for p in group["params"]]
        self._muon_shrunk = list(muon.parameters.values()) if muon else []
        for parameter in names:  # now and not at the first step, so that the state always has the same tensors
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, factor: float) -> None:
        """One update from the gradients, with every rate at `factor` times its peak."""
        for group, peak in zip(self._adamw.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._adamw.step()
        if self._muon is not None:
            self._muon.step(self.config.muon_learning_rate * factor)
        if self.config.l1:
            self._shrink(self._shrunk, self.config.learning_rate * factor)
            self._shrink(self._muon_shrunk, self.config.muon_learning_rate * factor)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def parameters(self) -> Iterable[nn.Parameter]:
        """Every parameter that is updated."""
        yield from self._names
        if self._muon is not None:
            yield from self._muon.parameters.values()

    def state(self) -> dict[str, Tensor]:
        """The whole state, live: KIND.FIELD.PARAMETER -> tensor."""
        tensors = {f"adamw.{what}.{name}": value for p, name in self._names.items() for what, value in self._adamw.state[p].items()}
        if self._muon is not None:
            tensors |= {f"muon.momentum.{name}": buffer for name, buffer in self._muon.buffers.items()}
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a state in; RunFolderError unless names and shapes are exactly those of `state`."""
        own = self.state()
        wrong = [f"`{name}` is missing" for name in own.keys() - tensors.keys()]
        wrong += [f"`{name}` is unknown" for name in tensors.keys() - own.keys()]
        wrong += [
            f"`{name}` is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
            for name in own.keys() & tensors.keys()
            if tensors[name].shape != own[name].shape
        ]
        if wrong:
            raise RunFolderError(f"The optimiser state does not fit this network and configuration: {'; '.join(sorted(wrong))}.")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def _shrink(self, parameters: list[nn.Parameter], rate: float) -> None:
        for parameter in parameters:
            parameter.copy_(F.softshrink(parameter, rate * self.config.l1))


def build_optimizer(net: nn.Module, config: OptimConfig, precision: Precision = "float32") -> Optimizer:
    """The optimiser of a network that is trained in this precision; Muon's products are computed as the network's own are.

    Raises ConfigError if nothing is left to train.
    """
    groups = parameter_groups(net)
    matrices = {name: p for name, p in groups.matrices.items() if config.kind == "adamw" or p.ndim != 2}
    hidden = {name: p for name, p in groups.matrices.items() if name not in matrices}
    table_rate = config.embedding_learning_rate or config.learning_rate
    sorted_ = [
        (matrices | groups.head, config.learning_rate, True),
        (groups.tables, table_rate, config.decay_embeddings),
        (groups.vectors, config.learning_rate, False),
    ]
    names = {parameter: name for members, _, _ in sorted_ for name, parameter in members.items()}
    if not names and not hidden:
        raise ConfigError("The network has no parameter to train: set `requires_grad` on some.")
    adamw = torch.optim.AdamW(
        [
            {"params": list(members.values()), "lr": rate, "weight_decay": config.weight_decay if decays else 0.0, "decays": decays}
            for members, rate, decays in sorted_
            if members
        ]
        or [{"params": [], "decays": False}],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=all(parameter.device.type in _FUSED_DEVICES for parameter in names),
    )
    return Optimizer(adamw, names, _muon(net, hidden, config, precision) if hidden else None, config)


def _muon(net: nn.Module, hidden: Mapping[str, nn.Parameter], config: OptimConfig, precision: Precision) -> Muon:
    return Muon(
        hidden,
        momentum=config.momentum,
        n_iterations=config.newton_schulz_steps,
        weight_decay=config.muon_weight_decay,
        product=_product(net),
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )


def _product(net: nn.Module) -> Product:
    """The product that the network's own layers use."""
    found: list[Product] = [getattr(module, "product") for module in net.modules() if hasattr(module, "product")]  # noqa: B009
    return found[0] if found else torch_product
