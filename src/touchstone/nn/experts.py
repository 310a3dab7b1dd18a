"""A feed-forward layer of many experts, of which a router picks a few for each token, and the losses that keep them all in use.

A token is sent to its n_active likeliest experts; their outputs are added up, each times its probability. `experts.{e}` are plain
feed-forward layers, so whatever works on those works here.
Sources: Shazeer et al. 2017 (top-k gating); Fedus et al. 2022 (Switch: one expert, balance loss eq. 4); Jiang et al. 2024 (Mixtral);
Yang et al. 2024 (Qwen2-MoE: a shared expert behind a gate); Zoph et al. 2022 (ST-MoE: the router's z-loss).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from touchstone.config import Config
from touchstone.nn.dropout import Noise
from touchstone.nn.linear import Linear, build_linear
from touchstone.nn.mlp import Mlp, MlpSpec, build_mlp
from touchstone.nn.shared import Route, Shared

__all__ = ["Experts", "ExpertsSpec", "balance_loss", "build_experts", "router_z_loss"]


class ExpertsSpec(Config):
    """Equal experts behind a router."""

    kind: Literal["experts"] = "experts"
    n_experts: int = Field(gt=1)
    n_active: int = Field(gt=0)  # experts a token
    expert: MlpSpec
    renormalise: bool = True  # the probabilities of the active experts are divided by their sum
    shared: MlpSpec | None = None  # an expert that sees every token, its output times a gate
    balance_weight: float = Field(0.0, ge=0)  # factor on the balance loss; 0 = no such loss
    z_weight: float = Field(0.0, ge=0)  # factor on the router's z-loss; 0 = no such loss
    wide_router: bool = False  # the router multiplies in fp32 whatever the network's type
    jitter: float = Field(0.0, ge=0, lt=1)  # in training the router's input is multiplied by numbers from 1 - jitter to 1 + jitter

    @model_validator(mode="after")
    def _fits(self) -> "ExpertsSpec":
        if self.n_active > self.n_experts:
            raise ValueError(f"`n_active` ({self.n_active}) must be at most `n_experts` ({self.n_experts}).")
        return self

    def product_weights(self, d_model: int) -> int:
        """Weights that every token is multiplied by: the router, the active experts, and the shared one with its gate."""
        shared = self.shared.product_weights(d_model) + d_model if self.shared else 0
        return self.n_experts * d_model + self.n_active * self.expert.product_weights(d_model) + shared

    def n_parameters(self, d_model: int) -> int:
        shared = self.shared.n_parameters(d_model) + d_model if self.shared else 0
        return self.n_experts * (d_model + self.expert.n_parameters(d_model)) + shared


class WideLinear(Linear):
    """x W^T in fp32 at least, whatever the types of x and W."""

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        wide = torch.promote_types(x.dtype, torch.float32)
        return self.product(x.to(wide), self.weight.to(wide), None)


class Experts(nn.Module):
    """sum over the active experts of probability · expert(x)."""

    def __init__(self, spec: ExpertsSpec, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        router = WideLinear if spec.wide_router else Linear
        self.router = router(d_model, spec.n_experts, bias=False)
        self.experts = nn.ModuleList(build_mlp(spec.expert, d_model) for _ in range(spec.n_experts))

    def forward(self, x: Float[Tensor, "B T D"], shared: Shared | None = None) -> Float[Tensor, "B T D"]:
        rows, noise = x.reshape(-1, x.shape[-1]), shared.noise if shared else None
        logits, weights, chosen = self._route(rows, noise, x.shape[1])
        if shared is not None and (self.spec.balance_weight or self.spec.z_weight):
            shared.routes.append(Route(logits, torch.zeros_like(logits, dtype=torch.bool).scatter(1, chosen, True)))
        mixed = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            place, rank = (chosen == number).nonzero(as_tuple=True)  # an expert without tokens still has gradients, of zero
            theirs = _shared_by(shared, noise.at(place, x.shape[1]) if noise is not None else None)
            mixed = mixed.index_add(0, place, expert(rows[place], theirs) * weights[place, rank, None])
        return mixed.view_as(x)

    def _route(self, rows: Float[Tensor, "N D"], noise: Noise | None, n_tokens: int) -> tuple[Tensor, Tensor, Int[Tensor, "N A"]]:
        """The router's score of every expert (in fp32 at least), and of the chosen ones their weights and numbers."""
        if self.training and self.spec.jitter:
            rows = rows * (1 + self.spec.jitter * (2 * self._uniform(rows, noise, n_tokens) - 1))
        logits = self.router(rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights, chosen = logits.softmax(dim=-1).topk(self.spec.n_active, dim=-1)
        if self.spec.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights.to(rows.dtype), chosen

    def _uniform(self, rows: Float[Tensor, "N D"], noise: Noise | None, n_tokens: int) -> Float[Tensor, "N D"]:
        if noise is None:
            return torch.rand_like(rows)
        places, first = torch.arange(len(rows), device=rows.device), self.experts[0]
        assert isinstance(first, Mlp)  # the number of its dropout is this layer's alone
        return noise.at(places, n_tokens).uniform(rows.shape, site=_ROUTER + first.dropout.site).to(rows.dtype)


class ExpertsAndOne(Experts):
    """Experts, and one more that sees every token: + sigmoid(g . x) · shared(x)."""

    def __init__(self, spec: ExpertsSpec, d_model: int) -> None:
        super().__init__(spec, d_model)
        assert spec.shared is not None
        self.shared_expert = build_mlp(spec.shared, d_model)
        self.shared_gate = build_linear(d_model, 1, bias=False)
        self.squash: Callable[[Tensor], Tensor] = torch.sigmoid

    def forward(self, x: Float[Tensor, "B T D"], shared: Shared | None = None) -> Float[Tensor, "B T D"]:
        return super().forward(x, shared) + self.squash(self.shared_gate(x)) * self.shared_expert(x, shared)


def build_experts(spec: ExpertsSpec, d_model: int) -> Experts:
    """The module for a spec."""
    return ExpertsAndOne(spec, d_model) if spec.shared is not None else Experts(spec, d_model)


def balance_loss(routes: Sequence[Route], counts: Bool[Tensor, "B T"] | None) -> Float[Tensor, ""]:
    """E · Σ_e (share of tokens sent to e) · (mean probability of e), over the tokens of all layers together; n_active where all is even.

    counts: the tokens that count; None = all. It is a product of means, so the losses of the parts of a batch do not add up.
    """
    kept = slice(None) if counts is None else counts.reshape(-1)
    probabilities = torch.cat([route.logits[kept] for route in routes]).softmax(dim=-1)
    taken = torch.cat([route.taken[kept] for route in routes])
    return probabilities.shape[1] * (taken.to(probabilities.dtype).mean(0) * probabilities.mean(0)).sum()


def router_z_loss(routes: Sequence[Route], counts: Bool[Tensor, "B T"] | None) -> Float[Tensor, ""]:
    """The mean of log(Σ_e exp score_e)^2 over the tokens of all layers together, which keeps the router's scores small.

    counts: the tokens that count; None = all.
    """
    kept = slice(None) if counts is None else counts.reshape(-1)
    return torch.cat([route.logits[kept] for route in routes]).logsumexp(dim=-1).square().mean()


def _shared_by(shared: Shared | None, noise: Noise | None) -> Shared | None:
    return Shared(masks={}, noise=noise) if shared is not None and noise is not None else None


_ROUTER = 0x5BD1  # sets the router's random numbers apart from those of every dropout
