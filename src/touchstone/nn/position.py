"""Where a token stands: learned and sinusoidal tables, rotary angles, ALiBi's linear distance penalty, T5's trained one.

Tables are added to the embeddings; rotary turns query and key pairs by an angle that grows with position; ALiBi lowers a
score by the distance; relative positions add a trained number a head for each bucket of distances. Rotary uses the half-rotation
layout (the first half pairs with the second), the one Hugging Face files use, so no weight is ever permuted, and computes angles in
fp32 whatever the network's type, as those files' models do.
Sources: Vaswani et al. 2017 §3.5; Su et al. 2021 (RoFormer) eq. 34; Press et al. 2022 (ALiBi) §3; Raffel et al. 2020 (T5) §2.1;
Peng et al. 2023 (YaRN) §3; Llama 3.1 model card (llama3 scaling).
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from touchstone.config import Config
from touchstone.errors import ShapeError

__all__ = [
    "AlibiPositions",
    "LearnedPositions",
    "LinearScaling",
    "Llama3Scaling",
    "PositionTable",
    "RelativeBias",
    "RelativePositions",
    "RotaryAngles",
    "RotaryPositions",
    "SinusoidalPositions",
    "YarnScaling",
    "alibi_slopes",
    "angles_key",
    "build_table",
    "rotate",
]


class LearnedPositions(Config):
    """A trained vector for each position; `offset` rows come before the first (RoBERTa and BART keep two)."""

    kind: Literal["learned"] = "learned"
    max_seq_len: int = Field(gt=0)
    offset: int = Field(0, ge=0)


class SinusoidalPositions(Config):
    """Fixed sines and cosines; `interleaved` alternates them (Vaswani), `halves` puts all sines first (Marian)."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    max_seq_len: int = Field(gt=0)
    layout: Literal["interleaved", "halves"] = "interleaved"


class LinearScaling(Config):
    """Positions divided by `factor` (Chen et al. 2023)."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(gt=0)


class Llama3Scaling(Config):
    """Slow frequencies divided by `factor`, fast ones kept, a ramp between (Llama 3.1)."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_seq_len: int = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "Llama3Scaling":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(f"`high_freq_factor` ({self.high_freq_factor}) must exceed `low_freq_factor` ({self.low_freq_factor}).")
        return self


class YarnScaling(Config):
    """Interpolated slow and kept fast frequencies with a ramp, and a temperature on the attention (YaRN)."""

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(gt=0)
    original_max_seq_len: int = Field(gt=0)
    beta_fast: float = Field(32.0, gt=0)  # turns over the original context above which a frequency is kept
    beta_slow: float = Field(1.0, gt=0)  # turns below which it is fully interpolated
    attention_factor: float | None = Field(None, gt=0)  # None = 0.1 ln(factor) + 1, unless the mscale pair says otherwise
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True  # round the ramp's ends to whole pairs

    @model_validator(mode="after")
    def _fits(self) -> "YarnScaling":
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"`beta_fast` ({self.beta_fast}) must exceed `beta_slow` ({self.beta_slow}).")
        return self


Scaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="kind")]


class RotaryPositions(Config):
    """Angles position / theta^(2i / d_rotary) on the first d_rotary features of each head."""

    kind: Literal["rotary"] = "rotary"
    theta: float = Field(10_000.0, gt=1)
    d_rotary: int | None = Field(None, gt=0)  # None = the whole head
    max_seq_len: int = Field(gt=0)  # what the model was trained for; nothing is allocated by it
    scaling: Scaling | None = None


class AlibiPositions(Config):
    """A score falls by slope × distance; slopes are a geometric series over the heads."""

    kind: Literal["alibi"] = "alibi"
    max_seq_len: int = Field(gt=0)  # what the model was trained for; nothing is allocated by it


class RelativePositions(Config):
    """A trained number a head is added to the score, by the distance's bucket: near distances each have one, far ones share.

    One table serves all layers of a stack, as in T5.
    """

    kind: Literal["relative"] = "relative"
    n_buckets: int = Field(32, ge=4)
    max_distance: int = Field(128, gt=1)  # from here on all distances share the last bucket
    both_ways: bool  # distances ahead have buckets of their own, half of all

    @model_validator(mode="after")
    def _fits(self) -> "RelativePositions":
        exact = self.n_buckets // (4 if self.both_ways else 2)
        if self.n_buckets % 2 or self.max_distance <= exact:
            raise ValueError(f"`n_buckets` ({self.n_buckets}) must be even, and `max_distance` ({self.max_distance}) above {exact}.")
        return self


class PositionTable(nn.Module):
    """A table of position vectors, looked up and added to the embeddings."""

    weight: Tensor

    def __init__(self, spec: LearnedPositions | SinusoidalPositions, d_model: int) -> None:
        super().__init__()
        self.max_seq_len = spec.max_seq_len
        self.offset = spec.offset if isinstance(spec, LearnedPositions) else 0
        if isinstance(spec, LearnedPositions):
            self.weight = nn.Parameter(torch.empty(spec.max_seq_len + spec.offset, d_model))
        else:
            self.register_buffer("weight", sinusoids(spec, d_model), persistent=False)

    def forward(self, positions: Int[Tensor, "B T"], below: int | None = None) -> Float[Tensor, "B T D"]:
        """Raises ShapeError for a position that the table does not hold.

        below: what positions from 0 are known to stay below; if the table is as long, they are not read back from the device.
        """
        if positions.numel() and (below is None or below > self.max_seq_len):
            first, last = int(positions.min()), int(positions.max())
            if first < 0 or last >= self.max_seq_len:
                wrong = last if first >= 0 else first
                raise ShapeError(f"Position {wrong} is not in the table of `max_seq_len` ({self.max_seq_len}); shorten the text.")
        return nn.functional.embedding(positions + self.offset if self.offset else positions, self.weight)


def build_table(spec: LearnedPositions | SinusoidalPositions, d_model: int) -> PositionTable:
    """The table module for a spec."""
    return PositionTable(spec, d_model)


def sinusoids(spec: SinusoidalPositions, d_model: int) -> Float[Tensor, "S D"]:
    """sin and cos of position / 10000^(2i / d_model), in fp32."""
    place = torch.arange(spec.max_seq_len, dtype=torch.float64)[:, None]
    angles = place / 10_000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    if spec.layout == "halves":
        table = torch.cat([angles.sin(), angles[:, : d_model // 2].cos()], dim=1)
    else:
        table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :d_model]
    return table.float()


def angles_key(spec: RotaryPositions, d_head: int) -> str:
    """The name under which layers of equal spec and head width share their angles: plain text, which compilers can follow."""
    return f"{d_head} {spec.model_dump_json()}"


class RotaryAngles(nn.Module):
    """cos and sin of each position's angles; one module serves all layers that share a spec."""

    frequencies: Tensor

    def __init__(self, spec: RotaryPositions, d_head: int) -> None:
        super().__init__()
        self.d_rotary = spec.d_rotary or d_head
        if self.d_rotary % 2 or self.d_rotary > d_head:
            raise ShapeError(f"`d_rotary` ({self.d_rotary}) must be even and at most `d_head` ({d_head}).")
        frequencies, self.attention_factor = scaled_frequencies(spec, self.d_rotary)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Int[Tensor, "B T"], dtype: torch.dtype) -> tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T R"]]:
        """cos and signed sin over the rotary width R, broadcast over heads: the first half of sin is negative, as `rotate` needs it."""
        angles = positions[:, None, :, None].float() * self.frequencies  # (B, 1, T, R / 2)
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryAngles":
        """What `net.to` and its kin call: the frequencies follow to the device and stay fp32."""
        frequencies = self.frequencies
        super()._apply(fn, recurse)
        self.frequencies = frequencies.to(self.frequencies.device)
        return self


class RelativeBias(nn.Module):
    """What relative positions add to the scores; one module serves all layers that share a spec."""

    def __init__(self, spec: RelativePositions, n_heads: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.n_buckets, n_heads))

    def forward(self, query_order: Int[Tensor, "b T"], key_order: Int[Tensor, "b S"]) -> Float[Tensor, "b H T S"]:
        buckets = distance_buckets(key_order[:, None, :] - query_order[:, :, None], self.spec)
        return nn.functional.embedding(buckets, self.weight).permute(0, 3, 1, 2)


def distance_buckets(ahead: Int[Tensor, "..."], spec: RelativePositions) -> Int[Tensor, "..."]:
    """The bucket of each distance (key minus query): the first half exact, the rest logarithmic up to max_distance."""
    n_buckets, base = spec.n_buckets, torch.zeros_like(ahead)
    if spec.both_ways:
        n_buckets //= 2
        base, distance = (ahead > 0).long() * n_buckets, ahead.abs()
    else:
        distance = (-ahead).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(spec.max_distance / exact)
    far = (exact + (growth * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return base + torch.where(distance < exact, distance, far)


def rotate(x: Float[Tensor, "... K"], angles: tuple[Tensor, Tensor]) -> Float[Tensor, "... K"]:
    """Turn the first R features of every head by the angles; features beyond pass unchanged."""
    cos, sin = angles
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat([rotate(x[..., :width], angles), x[..., width:]], dim=-1)
    return x * cos + x.roll(width // 2, dims=-1) * sin  # the roll swaps the halves


def scaled_frequencies(spec: RotaryPositions, d_rotary: int) -> tuple[Float[Tensor, " R"], float]:
    """The angle per step of each pair in fp32, and the factor on cos and sin (1 unless YaRN)."""
    plain = 1.0 / (spec.theta ** (torch.arange(0, d_rotary, 2, dtype=torch.int64).float() / d_rotary))
    scaling = spec.scaling
    if scaling is None:
        return plain, 1.0
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor, 1.0
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling), 1.0
    return _yarn(plain, scaling, spec.theta, d_rotary)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelength = 2 * math.pi / plain
    longest_kept = scaling.original_max_seq_len / scaling.high_freq_factor
    shortest_scaled = scaling.original_max_seq_len / scaling.low_freq_factor
    share = (scaling.original_max_seq_len / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    between = (1 - share) * plain / scaling.factor + share * plain
    scaled = torch.where(wavelength > shortest_scaled, plain / scaling.factor, plain)
    return torch.where((wavelength >= longest_kept) & (wavelength <= shortest_scaled), between, scaled)


def _yarn(plain: Tensor, scaling: YarnScaling, theta: float, d_rotary: int) -> tuple[Tensor, float]:
    def pair_with(turns: float) -> float:
        return d_rotary * math.log(scaling.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d_rotary - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = ((torch.arange(d_rotary // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    powers = theta ** (torch.arange(0, d_rotary, 2).float() / d_rotary)
    frequencies = (1.0 / (scaling.factor * powers)) * ramp + (1.0 / powers) * (1 - ramp)
    return frequencies, scaling.attention_factor if scaling.attention_factor is not None else _yarn_attention_factor(scaling)


def _yarn_attention_factor(scaling: YarnScaling) -> float:
    def temperature(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return temperature(scaling.mscale) / temperature(scaling.mscale_all_dim)
    return temperature(1.0)


def alibi_slopes(n_heads: int) -> Float[Tensor, " H"]:
    """2^(-8h/n) for n a power of two; otherwise the series of the next lower power, filled from the doubled one."""

    def series(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (head + 1) / n) for head in range(n)]

    power = 2 ** math.floor(math.log2(n_heads))
    return torch.tensor(series(power) + series(2 * power)[::2][: n_heads - power])
