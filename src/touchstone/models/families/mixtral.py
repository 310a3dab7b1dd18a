"""Mixtral: Llama's layout with experts in every layer.

| | llama | here |
|---|---|---|
| feed-forward | one, gated | some of many, each gated; their probabilities are divided by their sum |
| its names on disk | `mlp.{gate,up,down}_proj` | `block_sparse_moe.experts.{e}.w{1,3,2}`, the router is `block_sparse_moe.gate` |
| window | none | all layers, where `sliding_window` is given |
| biases | by two keys | never |
| theta, where no key gives it | 10 000 | 1 000 000 |

transformers 5 keeps all experts of a layer in one tensor while it runs. It writes the names above, or, where it is told to keep its
own, `mlp.experts.{gate_up_proj,down_proj}`: both are read, and the first are written.
In training, `router_jitter_noise` shakes what the router sees, as in Fedus et al. 2022; transformers shakes the experts' input with it.
Source: Jiang et al. 2024; transformers `models/mixtral`.
"""

from typing import Any

from touchstone.models.families.decoder_heads import decoder_classes
from touchstone.models.families.family import ACTIVATION_WORDS, Family, HfConfig
from touchstone.models.families.llama import DECODER, IGNORED, LlamaType, read_decoder, write_decoder
from touchstone.models.spec import ModelSpec, Stack
from touchstone.models.weights import Row, Stacked
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import ActivationName, MlpSpec

__all__ = ["FAMILY", "WEIGHTS", "to_hf_config", "to_spec"]

TYPE = LlamaType("Mixtral", "never", window="all", window_size=None, n_kv_heads=8, norm_eps=1e-5, theta=1e6, span_prefix="model.")

_OURS = "decoder.layers.{i}.mlp."
_THEIRS = "model.layers.{i}.block_sparse_moe."
_FUSED = "model.layers.{i}.mlp."
_GATE, _UP, _DOWN = (f"{_OURS}experts.{{e}}.{part}_proj.weight" for part in ("gate", "up", "down"))

WEIGHTS = (
    *DECODER,
    Row(f"{_OURS}router.weight", f"{_THEIRS}gate.weight"),
    Row(_GATE, f"{_THEIRS}experts.{{e}}.w1.weight"),
    Row(_UP, f"{_THEIRS}experts.{{e}}.w3.weight"),
    Row(_DOWN, f"{_THEIRS}experts.{{e}}.w2.weight"),
)

FUSED = (
    *DECODER,
    Row(f"{_OURS}router.weight", f"{_FUSED}gate.weight"),
    Row((_GATE, _UP), f"{_FUSED}experts.gate_up_proj", Stacked(2)),
    Row(_DOWN, f"{_FUSED}experts.down_proj", Stacked()),
)


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a Mixtral config.json."""

    def experts(activation: ActivationName) -> ExpertsSpec:
        jitter, weight = config.number("router_jitter_noise", 0.0, most=1.0), config.number("router_aux_loss_coef", 0.001)
        return ExpertsSpec(
            n_experts=config.size("num_local_experts", 8),
            n_active=config.size("num_experts_per_tok", 2),
            expert=MlpSpec(d_ff=config.size("intermediate_size"), activation=activation, gated=True),
            balance_weight=weight if config.flag("output_router_logits", False) else 0.0,
            jitter=jitter,
        )

    return read_decoder(config, TYPE, lambda n_layers, activation: [experts(activation)] * n_layers, IGNORED)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as Mixtral does."""
    written = write_decoder(spec, TYPE)
    if written is None or not isinstance(spec.decoder, Stack):
        return None
    experts = spec.decoder.blocks[0].mlp
    if not isinstance(experts, ExpertsSpec):
        return None
    return written | {
        "intermediate_size": experts.expert.d_ff,
        "hidden_act": ACTIVATION_WORDS[experts.expert.activation],
        "num_local_experts": experts.n_experts,
        "num_experts_per_tok": experts.n_active,
        "router_jitter_noise": experts.jitter,
        "output_router_logits": experts.balance_weight > 0,
        "router_aux_loss_coef": experts.balance_weight or 0.001,
    }


FAMILY = Family(
    name="mixtral",
    architectures={"mixtral": decoder_classes(TYPE.classes)},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    also_read=FUSED,
    prefix="model.",
    aliases={"num_experts": "num_local_experts"},
    ignored_keys=IGNORED,
    ignored_tensors={r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": "is computed from the rotary settings"},
)
