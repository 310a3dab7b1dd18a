"""Rotary settings in Hugging Face configs: `rope_parameters` (transformers 5), `rope_theta` with `rope_scaling` (4), and both together.

The scalings that transformers computes once are read: default, linear, llama3, yarn. Those that change with the text being read
(dynamic, longrope) are refused.
"""

from collections.abc import Mapping
from typing import Any

from touchstone.models.families.family import HfConfig
from touchstone.nn.position import LinearScaling, Llama3Scaling, RotaryPositions, YarnScaling

__all__ = ["read_rotary", "write_rotary"]

_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
}


def read_rotary(
    config: HfConfig, max_seq_len: int, *, theta: float = 10_000.0, d_head: int | None = None, share: float = 1.0
) -> RotaryPositions:
    """The positions that the keys of either version describe; what is wrong is noted in the config.

    d_head: given where the family's classes may turn a part of each head only. theta, share (that part): where no key says it.
    """
    new, old = config.value("rope_parameters"), config.value("rope_scaling")
    theta = config.number("rope_theta", theta, least=1e-9)
    outer = config.number("partial_rotary_factor", share, most=1.0)
    if any(given is not None and not isinstance(given, Mapping) for given in (new, old)):
        config.problems.append("`rope_parameters` and `rope_scaling` should be mappings")
        return RotaryPositions(max_seq_len=max_seq_len)
    if new and old and any(new[key] != old[key] for key in set(new) & set(old)):
        config.problems.append("`rope_parameters` and `rope_scaling` contradict each other; keep one")
    parameters = {**(new or {}), **(old or {})}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KEYS:
        config.unsupported.append(f"rotary scaling {kind!r} is not built; there are: {', '.join(_KEYS)}")
        return RotaryPositions(max_seq_len=max_seq_len)
    inner = HfConfig(parameters, "rope_parameters")
    if config.has("rope_theta") and inner.has("rope_theta") and parameters["rope_theta"] != theta:
        config.problems.append(f"`rope_theta` ({theta:g}) and the one in `rope_parameters` ({parameters['rope_theta']}) differ; keep one")
    theta = inner.number("rope_theta", theta, least=1e-9)
    share = inner.number("partial_rotary_factor", outer, most=1.0)
    if config.value("partial_rotary_factor") is not None and share != outer:
        config.problems.append(f"`partial_rotary_factor` ({outer:g}) and the one in `rope_parameters` ({share:g}) differ; keep one")
    if share != 1.0 and d_head is None:
        config.unsupported.append("`partial_rotary_factor` other than 1 is not in this family's classes")
    for key in parameters:
        if key not in _ALWAYS | _KEYS[kind]:
            config.problems.append(
                f"unknown key `{key}` in the rotary settings of type {kind}; there are: {', '.join(sorted(_ALWAYS | _KEYS[kind]))}"
            )
    scaling = _scaling(kind, inner, max_seq_len)
    config.problems += [f"{problem} in the rotary settings" for problem in inner.problems]
    d_rotary = int(d_head * share) if d_head is not None and share != 1.0 else None
    return RotaryPositions(theta=theta, d_rotary=d_rotary, max_seq_len=max_seq_len, scaling=scaling)


def write_rotary(position: RotaryPositions, *, d_head: int | None = None) -> dict[str, Any]:
    """The keys of both versions; a version reads its own and takes the other for the same.

    d_head: given where the family's classes may turn a part of each head only; the part is then always written.
    """
    scaling = position.scaling
    share = {} if d_head is None else {"partial_rotary_factor": (position.d_rotary or d_head) / d_head}
    if scaling is None:
        told: dict[str, Any] = {"rope_type": "default"}
    else:
        told = {"rope_type": scaling.kind, **scaling.model_dump(exclude={"kind"}, exclude_none=True)}
        if "original_max_seq_len" in told:
            told["original_max_position_embeddings"] = told.pop("original_max_seq_len")
    return {
        "rope_theta": position.theta,
        **share,
        "rope_scaling": told if scaling is not None else None,
        "rope_parameters": {"rope_theta": position.theta, **share, **told},
    }


def _scaling(kind: str, inner: HfConfig, max_seq_len: int) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    if kind == "default":
        return None
    original = inner.size("original_max_position_embeddings", max_seq_len, most=1 << 32)
    factor = _needed(inner, "factor") if not (kind == "yarn" and inner.value("factor") is None) else max_seq_len / original
    if kind == "linear":
        return LinearScaling(factor=factor)
    if kind == "llama3":
        low, high = _needed(inner, "low_freq_factor"), _needed(inner, "high_freq_factor")
        return Llama3Scaling(factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_seq_len=original)

    def optional(key: str) -> float | None:
        return None if inner.value(key) is None else inner.number(key, 1.0)

    return YarnScaling(
        factor=factor,
        original_max_seq_len=original,
        beta_fast=inner.number("beta_fast", 32.0, least=1e-9) or 32.0,
        beta_slow=inner.number("beta_slow", 1.0, least=1e-9) or 1.0,
        attention_factor=optional("attention_factor"),
        mscale=optional("mscale"),
        mscale_all_dim=optional("mscale_all_dim"),
        truncate=inner.flag("truncate", True),
    )


def _needed(inner: HfConfig, key: str) -> float:
    if inner.value(key) is None:
        inner.problems.append(f"`{key}` is missing")
    return inner.number(key, 1.0, least=1e-9)
