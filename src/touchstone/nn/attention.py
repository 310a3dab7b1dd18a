"""Attention: projections, a mask value, and a kernel.

The reference kernel is the formula and stays as the oracle; `sdpa` is torch's fused one. The additive score (Bahdanau) has the
reference form only. Weights are returned only where they are asked for, by the reference kernel.
Sources: Vaswani et al. 2017 §3.2; Bahdanau et al. 2015 §A.1.2; Ainslie et al. 2023 (grouped queries); Henry et al. 2020 (q/k norm).
"""

import math
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.config import Config, unknown_name
from touchstone.nn.cache import LayerCache
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.linear import build_linear
from touchstone.nn.mask import AttentionMask
from touchstone.nn.norm import NormSpec, build_norm
from touchstone.nn.position import AlibiPositions, RelativePositions, RotaryPositions, angles_key, rotate
from touchstone.nn.shared import Shared

__all__ = [
    "Attended",
    "Attention",
    "AttentionSpec",
    "CrossAttention",
    "Kernel",
    "KernelName",
    "additive",
    "bias_key",
    "build_kernel",
    "reference",
    "sdpa",
    "whole_source",
]

KernelName = Literal["reference", "sdpa"]


class AttentionSpec(Config):
    """The shape of one attention layer."""

    n_heads: int = Field(gt=0)
    n_kv_heads: int = Field(gt=0)  # = n_heads unless queries share key-value heads
    d_head: int = Field(gt=0)
    qkv_bias: bool = False
    o_bias: bool = False
    position: Annotated[RotaryPositions | AlibiPositions | RelativePositions, Field(discriminator="kind")] | None = None
    window: int | None = Field(None, gt=0)  # tokens a query sees, itself included; None = all
    qk_norm: NormSpec | None = None  # over each head's features, before the rotation
    score: Literal["scaled_dot", "additive"] = "scaled_dot"
    scale: float | None = None  # factor on q.k; None = d_head^-0.5
    dropout: float = Field(0.0, ge=0, lt=1)  # on the attention weights

    @model_validator(mode="after")
    def _fits(self) -> "AttentionSpec":
        if self.n_heads % self.n_kv_heads:
            near = max(n for n in range(1, self.n_kv_heads + 1) if self.n_heads % n == 0)
            raise ValueError(f"`n_heads` ({self.n_heads}) must be a multiple of `n_kv_heads` ({self.n_kv_heads}); nearest: {near}.")
        if isinstance(self.position, RotaryPositions):
            d_rotary = self.position.d_rotary or self.d_head
            if d_rotary % 2 or d_rotary > self.d_head:
                raise ValueError(f"`d_rotary` ({d_rotary}) must be even and at most `d_head` ({self.d_head}).")
        if self.score == "additive" and (self.scale is not None or isinstance(self.position, AlibiPositions | RelativePositions)):
            raise ValueError("the additive score takes no `scale` and no distances; remove them or use `scaled_dot`.")
        return self

    def n_parameters(self, d_model: int, *, d_keys: int | None = None) -> int:
        """d_keys: width of what keys and values are made of, where it is another."""
        queries, keys = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        weights = 2 * d_model * queries + 2 * (d_model if d_keys is None else d_keys) * keys
        biases = (queries + 2 * keys if self.qkv_bias else 0) + (d_model if self.o_bias else 0)
        norms = 2 * self.qk_norm.n_parameters(self.d_head) if self.qk_norm else 0
        return weights + biases + norms + (queries if self.score == "additive" else 0)


def whole_source(cross: AttentionSpec | None) -> AttentionSpec | None:
    """The spec of attention to a source, checked: it sees all of it, wherever its own tokens stand."""
    if cross is not None and (cross.position is not None or cross.window is not None):
        raise ValueError("attention to a source has no `position` and no `window`; leave both out.")
    return cross


class Attended(NamedTuple):
    """What a query saw: the mixed values, and the weights if the kernel keeps them."""

    values: Float[Tensor, "B H T K"]
    weights: Float[Tensor, "B H T S"] | None


@runtime_checkable  # the shape checks of the tests ask
class Kernel(Protocol):
    """Mixes values by scores; k and v come with key-value heads unrepeated. bias is added to the scores, -inf where mask is False."""

    def __call__(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        mask: AttentionMask,
        bias: Float[Tensor, "b H T S"] | None,
        scale: float,
        dropout: Dropout,
        noise: Noise | None,
    ) -> Attended: ...


def reference(
    q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None, scale: float, dropout: Dropout, noise: Noise | None
) -> Attended:
    """softmax(q k^T · scale + bias, masked) v, written out."""
    k, v = _repeat(k, q), _repeat(v, q)
    return _mix(q @ k.transpose(-1, -2) * scale, v, mask, bias, dropout, noise)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None, scale: float, dropout: Dropout, noise: Noise | None
) -> Attended:
    """torch's fused kernel; per-example dropout has no place in it and takes the reference."""
    p = dropout.p if dropout.training else 0.0
    if p and noise is not None:
        return reference(q, k, v, mask, bias, scale, dropout, noise)
    shares = q.shape[1] != k.shape[1]
    if shares and q.device.type != "cpu":  # elsewhere the fused kernels take shared heads in some cases only
        k, v, shares = _repeat(k, q), _repeat(v, q), False
    look, is_causal = (mask.allowed, mask.is_causal) if bias is None else (bias, False)
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        return Attended(_in_fp32(q, k, v, look, p, is_causal, scale, shares), None)
    values = F.scaled_dot_product_attention(q, k, v, attn_mask=look, dropout_p=p, is_causal=is_causal, scale=scale, enable_gqa=shares)
    return Attended(values, None)


def _in_fp32(q: Tensor, k: Tensor, v: Tensor, look: Tensor | None, p: float, is_causal: bool, scale: float, shares: bool) -> Tensor:
    """For training in bfloat16 on a CPU: the backward pass of torch's fused kernel takes ten times as long there as in fp32."""
    if look is not None and look.is_floating_point():
        look = look.float()
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=look, dropout_p=p, is_causal=is_causal, scale=scale, enable_gqa=shares
        )
    return mixed.to(q.dtype)


def additive(score_vector: Float[Tensor, "H K"]) -> Kernel:
    """The kernel with score v . tanh(q + k); the projections play Bahdanau's W and U."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None, scale: float, dropout: Dropout, noise: Noise | None
    ) -> Attended:
        k, v = _repeat(k, q), _repeat(v, q)
        hidden = torch.tanh(q[:, :, :, None] + k[:, :, None])  # (B, H, T, S, K)
        return _mix((hidden * score_vector[None, :, None, None]).sum(-1), v, mask, bias, dropout, noise)

    return kernel


_KERNELS: dict[str, Kernel] = {"reference": reference, "sdpa": sdpa}


def build_kernel(name: str) -> Kernel:
    """The dot-product kernel of that name; UnknownName if there is none."""
    if name not in _KERNELS:
        raise unknown_name("attention kernel", name, _KERNELS)
    return _KERNELS[name]


class Attention(nn.Module):
    """Self-attention of one block."""

    def __init__(self, spec: AttentionSpec, d_model: int, kernel: KernelName = "sdpa", *, d_keys: int | None = None) -> None:
        """d_keys: width of what keys and values are made of; None = d_model."""
        super().__init__()
        queries, keys = spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head
        self.spec = spec
        self.scale = spec.scale if spec.scale is not None else 1 / math.sqrt(spec.d_head)
        self.q_proj = build_linear(d_model, queries, bias=spec.qkv_bias)
        self.k_proj = build_linear(d_keys or d_model, keys, bias=spec.qkv_bias)
        self.v_proj = build_linear(d_keys or d_model, keys, bias=spec.qkv_bias)
        self.o_proj = build_linear(queries, d_model, bias=spec.o_bias)
        self.q_norm = build_norm(spec.qk_norm, spec.d_head) if spec.qk_norm else nn.Identity()
        self.k_norm = build_norm(spec.qk_norm, spec.d_head) if spec.qk_norm else nn.Identity()
        self.score_vector = nn.Parameter(torch.empty(spec.n_heads, spec.d_head)) if spec.score == "additive" else None
        self.dropout = Dropout(spec.dropout)
        self.kernel = build_kernel(kernel)
        self.angles_key = angles_key(spec.position, spec.d_head) if isinstance(spec.position, RotaryPositions) else None
        self.bias_key = bias_key(spec)

    def forward(
        self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None = None, *, weights: bool = False
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        """The mixed hidden states, and the attention weights if asked for."""
        q, k = self.q_norm(self._heads(self.q_proj(x))), self.k_norm(self._heads(self.k_proj(x)))
        v = self._heads(self.v_proj(x))
        if self.angles_key is not None:
            angles = shared.angles[self.angles_key]
            q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            assert shared.place is not None
            k, v = cache.append(k, v, shared.place)
        bias = shared.biases[self.bias_key] if self.bias_key is not None else None
        attended = self._kernel(weights)(q, k, v, shared.masks[self.spec.window], bias, self.scale, self.dropout, shared.noise)
        return self.o_proj(attended.values.transpose(1, 2).flatten(2)), attended.weights

    def _kernel(self, weights: bool) -> Kernel:
        if self.score_vector is not None:
            return additive(self.score_vector)
        return reference if weights else self.kernel

    def _heads(self, x: Float[Tensor, "B T HK"]) -> Float[Tensor, "B h T K"]:
        return x.view(*x.shape[:2], -1, self.spec.d_head).transpose(1, 2)


class CrossAttention(Attention):
    """Attention of one side's tokens to the other's: queries from here, keys and values from the source, made once."""

    def keys_values(self, memory: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """What the source offers this layer; the same at every step of decoding."""
        return self.k_norm(self._heads(self.k_proj(memory))), self._heads(self.v_proj(memory))

    def look(
        self, x: Float[Tensor, "B T D"], source: tuple[Tensor, Tensor], shared: Shared, *, weights: bool = False
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        """The mixed values of the source, and the attention weights if asked for; rows next to each other may look at one source."""
        assert shared.source_mask is not None
        q = self.q_norm(self._heads(self.q_proj(x)))
        n_beside = len(q) // len(source[0])
        attended = self._kernel(weights)(_beside(q, n_beside), *source, shared.source_mask, None, self.scale, self.dropout, shared.noise)
        mixed = _apart(attended.values, n_beside).transpose(1, 2).flatten(2)
        return self.o_proj(mixed), None if attended.weights is None else _apart(attended.weights, n_beside)


def _beside(q: Float[Tensor, "B H T K"], n: int) -> Float[Tensor, "b H nT K"]:
    """The queries of n rows as those of one."""
    return q if n == 1 else q.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)


def _apart(mixed: Float[Tensor, "b H nT _"], n: int) -> Float[Tensor, "B H T _"]:
    """What `_beside` put together."""
    return mixed if n == 1 else mixed.unflatten(2, (n, -1)).transpose(1, 2).flatten(0, 1)


def bias_key(spec: AttentionSpec) -> str | None:
    """The name under which layers share what is added to their scores; None where nothing is."""
    if isinstance(spec.position, AlibiPositions | RelativePositions):
        return f"{spec.n_heads} {spec.window} {spec.position.model_dump_json()}"
    return None


def _repeat(kv: Float[Tensor, "B G S K"], q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H S K"]:
    n_shared = q.shape[1] // kv.shape[1]
    return kv if n_shared == 1 else kv.repeat_interleave(n_shared, dim=1)


def _mix(scores: Tensor, v: Tensor, mask: AttentionMask, bias: Tensor | None, dropout: Dropout, noise: Noise | None) -> Attended:
    if bias is not None:
        scores = scores + bias
    allowed = mask.dense(scores.shape[2], scores.shape[3], scores.device)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    return Attended(dropout(weights, noise) @ v, weights)
