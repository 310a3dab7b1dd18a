"""Qwen2-MoE and Qwen3-MoE: Llama's layout with experts in some layers and one feed-forward in the others.

| | qwen2_moe | qwen3_moe |
|---|---|---|
| layers with experts | every `decoder_sparse_step`th, but for `mlp_only_layers` | the same |
| probabilities of the active experts | as they are; divided by their sum with `norm_topk_prob` | the same |
| width of an expert; of the other layers | `moe_intermediate_size`; `intermediate_size` | the same |
| expert that sees every token | yes, behind a gate | no |
| biases on q, k, v | `qkv_bias`, true unless given | `attention_bias`, which means o too |
| norm of q and k | no | RMS over each head |
| window, where `use_sliding_window` | by `layer_types`; else every other layer below `max_window_layers` | all layers |

transformers 5 keeps all experts of a layer in one tensor while it runs. It writes `mlp.experts.{e}.{gate,up,down}_proj`, or, where it
is told to keep its own, `mlp.experts.{gate_up_proj,down_proj}`: both are read, and the first are written.
Source: Yang et al. 2024, 2025; transformers `models/{qwen2_moe,qwen3_moe}`.
"""

from collections.abc import Mapping
from typing import Any

from touchstone.models.families.decoder_heads import decoder_classes
from touchstone.models.families.family import ACTIVATION_WORDS, Family, HfConfig
from touchstone.models.families.llama import IGNORED, LlamaType, read_decoder, span_prefixes, write_decoder
from touchstone.models.families.llama import WEIGHTS as LLAMA
from touchstone.models.spec import ModelSpec, Stack
from touchstone.models.weights import Row, Stacked
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import ActivationName, MlpSpec

__all__ = ["FAMILY", "TYPES", "WEIGHTS", "to_hf_config", "to_spec"]

TYPES: Mapping[str, LlamaType] = {
    "qwen2_moe": LlamaType("Qwen2Moe", "qkv_bias", window="layers below", n_kv_heads=16, keeps_d_head=False, span_prefix="model."),
    "qwen3_moe": LlamaType("Qwen3Moe", qk_norm=True, window="all if used", n_kv_heads=4),
}

_N_EXPERTS = {"qwen2_moe": 60, "qwen3_moe": 128}  # where the key is absent
_N_ACTIVE = {"qwen2_moe": 4, "qwen3_moe": 8}
_D_EXPERT = {"qwen2_moe": 1408, "qwen3_moe": 768}

_OURS = "decoder.layers.{i}.mlp."
_THEIRS = "model.layers.{i}.mlp."
_EXPERT, _SHARED = f"{_OURS}experts.{{e}}.", f"{_OURS}shared_expert."

_BESIDE = (
    *LLAMA,  # the layers without experts, and what is around all of them
    Row(f"{_OURS}router.weight", f"{_THEIRS}gate.weight"),
    *(Row(f"{_SHARED}{part}_proj.weight", f"{_THEIRS}shared_expert.{part}_proj.weight") for part in ("gate", "up", "down")),
    Row(f"{_OURS}shared_gate.weight", f"{_THEIRS}shared_expert_gate.weight"),
)

WEIGHTS = _BESIDE + tuple(
    Row(f"{_EXPERT}{part}_proj.weight", f"{_THEIRS}experts.{{e}}.{part}_proj.weight") for part in ("gate", "up", "down")
)

FUSED = (
    *_BESIDE,
    Row((f"{_EXPERT}gate_proj.weight", f"{_EXPERT}up_proj.weight"), f"{_THEIRS}experts.gate_up_proj", Stacked(2)),
    Row(f"{_EXPERT}down_proj.weight", f"{_THEIRS}experts.down_proj", Stacked()),
)

ONLY = {
    "qkv_bias": (False, "the class has `attention_bias` instead"),
    "use_qk_norm": (True, "the class always has the norms of q and k"),
    "shared_expert_intermediate_size": (0, "the class has no expert that sees every token"),
}
"""Keys of published qwen3_moe folders that transformers' class does not read."""


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a config.json of one of these types."""
    kind = config.model_type

    def feed_forward(n_layers: int, activation: ActivationName) -> list[MlpSpec | ExpertsSpec]:
        def gated(d_ff: int) -> MlpSpec:
            return MlpSpec(d_ff=d_ff, activation=activation, gated=True)

        dense, with_experts = gated(config.size("intermediate_size")), _layers_with_experts(config, n_layers)
        d_expert, weight = config.size("moe_intermediate_size", _D_EXPERT[kind]), config.number("router_aux_loss_coef", 0.001)
        d_shared = config.size("shared_expert_intermediate_size", 5632) if kind == "qwen2_moe" else None
        experts = ExpertsSpec(
            n_experts=config.size("num_local_experts", _N_EXPERTS[kind]),
            n_active=config.size("num_experts_per_tok", _N_ACTIVE[kind]),
            expert=gated(d_expert),
            renormalise=config.flag("norm_topk_prob", False),
            shared=gated(d_shared) if d_shared is not None else None,
            balance_weight=weight if config.flag("output_router_logits", False) else 0.0,
        )
        return [experts if layer in with_experts else dense for layer in range(n_layers)]

    return read_decoder(config, TYPES[kind], feed_forward, IGNORED, ONLY if kind == "qwen3_moe" else {})


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as this type does."""
    written = write_decoder(spec, TYPES[model_type])
    if written is None or not isinstance(spec.decoder, Stack):
        return None
    mlps = [block.mlp for block in spec.decoder.blocks]
    experts = next((mlp for mlp in mlps if isinstance(mlp, ExpertsSpec)), None)
    if experts is None:
        return None
    dense = next((mlp for mlp in mlps if isinstance(mlp, MlpSpec)), experts.expert)
    shared = {"shared_expert_intermediate_size": experts.shared.d_ff} if experts.shared is not None else {}
    return (
        written
        | shared
        | {
            "intermediate_size": dense.d_ff,
            "hidden_act": ACTIVATION_WORDS[experts.expert.activation],
            "moe_intermediate_size": experts.expert.d_ff,
            "num_experts": experts.n_experts,
            "num_experts_per_tok": experts.n_active,
            "norm_topk_prob": experts.renormalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [layer for layer, mlp in enumerate(mlps) if isinstance(mlp, MlpSpec)],
            "output_router_logits": experts.balance_weight > 0,
            "router_aux_loss_coef": experts.balance_weight or 0.001,
        }
    )


def _layers_with_experts(config: HfConfig, n_layers: int) -> frozenset[int]:
    step, without = config.size("decoder_sparse_step", 1), config.value("mlp_only_layers") or []
    if not isinstance(without, list) or not all(type(layer) is int for layer in without):
        config.problems.append("`mlp_only_layers` should list the numbers of layers")
        without = []
    return frozenset(layer for layer in range(n_layers) if (layer + 1) % step == 0 and layer not in without)


FAMILY = Family(
    name="qwen_moe",
    architectures={name: decoder_classes(kind.classes) for name, kind in TYPES.items()},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    also_read=FUSED,
    prefix="model.",
    other_prefixes=span_prefixes(TYPES),
    aliases={"num_experts": "num_local_experts"},
    ignored_keys=IGNORED,
    ignored_tensors={r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": "is computed from the rotary settings"},
)
