"""Llama and the types that share its layout: Mistral, Qwen2, Qwen3, Arcee.

| | llama | mistral | qwen2 | qwen3 | arcee |
|---|---|---|---|---|---|
| biases on q, k, v | `attention_bias` | never | always | `attention_bias` | `attention_bias` |
| bias on o | `attention_bias` | never | never | `attention_bias` | `attention_bias` |
| norm of q and k | no | no | no | RMS over each head | no |
| window | no | all layers | by `layer_types` | by `layer_types` | no |
| feed-forward | gated | gated | gated | gated | plain, squared relu |
| biases in it | `mlp_bias` | never | never | never | `mlp_bias` |
| width of a head | must divide | free | free | free, 128 unless given | must divide |

All are the plain pre-norm decoder: RMSNorm, rotary positions, grouped key-value heads. Both spellings of the rotary settings are
read (`rope_parameters`, and `rope_theta` with `rope_scaling`) and both are written.
Source: Touvron et al. 2023; Jiang et al. 2023; Yang et al. 2024, 2025; transformers `models/{llama,mistral,qwen2,qwen3,arcee}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from touchstone.models.families.family import ACTIVATION_WORDS, ACTIVATIONS, MAX_LAYERS, MAX_LENGTH, Family, HfConfig
from touchstone.models.families.rope import read_rotary, write_rotary
from touchstone.models.spec import EmbedSpec, LmHead, ModelSpec, Stack
from touchstone.models.weights import Row, TiedAlias
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import RotaryPositions

__all__ = ["FAMILY", "TYPES", "WEIGHTS", "to_hf_config", "to_spec"]


@dataclass(frozen=True)
class LlamaType:
    """A column of the table above, with the defaults of its config class."""

    classes: str  # what its class names begin with
    attention_bias: Literal["key", "qkv", "never"] = "key"
    mlp_bias: bool = False  # has the key
    qk_norm: bool = False
    window: Literal["none", "all", "layers"] = "none"
    gated: bool = True
    head_divides: bool = False  # its config class refuses other widths
    d_head: int | None = None  # None = d_model / n_heads
    n_kv_heads: int | None = None  # when the key is absent; None = n_heads
    norm_eps: float = 1e-6
    activation: str = "silu"


TYPES: Mapping[str, LlamaType] = {
    "llama": LlamaType("Llama", mlp_bias=True, head_divides=True),
    "mistral": LlamaType("Mistral", "never", window="all", n_kv_heads=8),
    "qwen2": LlamaType("Qwen2", "qkv", window="layers", n_kv_heads=32),
    "qwen3": LlamaType("Qwen3", qk_norm=True, window="layers", d_head=128, n_kv_heads=32),
    "arcee": LlamaType("Arcee", mlp_bias=True, gated=False, head_divides=True, norm_eps=1e-5, activation="relu2"),
}

_LAYER = "decoder.layers.{i}."
_THEIRS = "model.layers.{i}."

WEIGHTS = (
    Row("embed.weight", "model.embed_tokens.weight"),
    Row(f"{_LAYER}norm1.weight", f"{_THEIRS}input_layernorm.weight"),
    *(Row(f"{_LAYER}attn.{part}_proj.{kind}", f"{_THEIRS}self_attn.{part}_proj.{kind}") for part in "qkvo" for kind in ("weight", "bias")),
    Row(f"{_LAYER}attn.q_norm.weight", f"{_THEIRS}self_attn.q_norm.weight"),
    Row(f"{_LAYER}attn.k_norm.weight", f"{_THEIRS}self_attn.k_norm.weight"),
    Row(f"{_LAYER}norm2.weight", f"{_THEIRS}post_attention_layernorm.weight"),
    *(
        Row(f"{_LAYER}mlp.{part}_proj.{kind}", f"{_THEIRS}mlp.{part}_proj.{kind}")
        for part in ("gate", "up", "down")
        for kind in ("weight", "bias")
    ),
    Row("decoder.final_norm.weight", "model.norm.weight"),
    Row("lm_head.weight", "lm_head.weight"),
    Row("embed.weight", "lm_head.weight", TiedAlias()),
)

IGNORED = {
    "max_window_layers": "repeats what layer_types says layer by layer",
    "max_sequence_length": "is an old name of max_position_embeddings that no version reads",
}

ONLY = {
    "rope_interleaved": (False, "pairs of neighbours are another layout than the half-rotation of these files"),
    "use_mrope": (False, "positions of images are not built"),
}


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a config.json of one of these types."""
    kind = TYPES[config.model_type]
    d_model, n_heads = config.size("hidden_size"), config.size("num_attention_heads")
    n_layers = config.size("num_hidden_layers", most=MAX_LAYERS)
    d_head = config.size("head_dim", (kind.d_head if not config.has("head_dim") else None) or max(d_model // n_heads, 1))
    kv_default = kind.n_kv_heads if not config.has("num_key_value_heads") and kind.n_kv_heads else n_heads
    n_kv_heads = config.size("num_key_value_heads", kv_default)
    norm = NormSpec(kind="rms", norm_eps=config.number("rms_norm_eps", kind.norm_eps))
    biased = config.flag("attention_bias", False) if kind.attention_bias == "key" else False
    position = read_rotary(config, config.size("max_position_embeddings", most=MAX_LENGTH))
    windows = _windows(config, kind, n_layers)
    dropout = config.share("attention_dropout")
    mlp = MlpSpec(
        d_ff=config.size("intermediate_size"),
        activation=config.choice("hidden_act", ACTIVATIONS, kind.activation),
        gated=kind.gated,
        bias=config.flag("mlp_bias", False) if kind.mlp_bias else False,
    )
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model)
    head = LmHead(tied=config.flag("tie_word_embeddings", False))
    if n_heads % n_kv_heads:
        config.problems.append(f"`num_attention_heads` ({n_heads}) must be a multiple of `num_key_value_heads` ({n_kv_heads})")
    if d_model % n_heads and (kind.head_divides or config.value("head_dim") is None):
        config.problems.append(f"`hidden_size` ({d_model}) must be a multiple of `num_attention_heads` ({n_heads})")
    if d_head % 2:
        config.problems.append(f"`head_dim` ({d_head}) must be even: rotary positions turn pairs")
    config.finish(IGNORED, ONLY)

    def block(window: int | None) -> BlockSpec:
        attn = AttentionSpec(
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_head=d_head,
            qkv_bias=biased or kind.attention_bias == "qkv",
            o_bias=biased,
            position=position,
            window=window,
            qk_norm=norm if kind.qk_norm else None,
            dropout=dropout,
        )
        return BlockSpec(attn=attn, mlp=mlp, norm=norm)

    made = {window: block(window) for window in set(windows)}
    stack = Stack(blocks=tuple(made[window] for window in windows), causal=True, final_norm=norm)
    return ModelSpec(embed=embed, decoder=stack, head=head)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as this type does."""
    kind, stack = TYPES[model_type], spec.decoder
    if not isinstance(stack, Stack) or not isinstance(stack.blocks[0].attn.position, RotaryPositions):
        return None
    attn, mlp, norm = stack.blocks[0].attn, stack.blocks[0].mlp, stack.blocks[0].norm
    assert isinstance(attn.position, RotaryPositions)
    divides = attn.n_heads * attn.d_head == spec.d_model
    if kind.head_divides and spec.d_model % attn.n_heads:
        return None
    written: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": len(stack.blocks),
        "num_attention_heads": attn.n_heads,
        "num_key_value_heads": attn.n_kv_heads,
        "hidden_act": ACTIVATION_WORDS[mlp.activation],
        "max_position_embeddings": attn.position.max_seq_len,
        "rms_norm_eps": norm.norm_eps,
        "attention_dropout": attn.dropout,
        "tie_word_embeddings": spec.head.tied,
        **write_rotary(attn.position),
    }
    if model_type != "qwen2" or not divides:  # Qwen2's class reads the key but does not write it
        written["head_dim"] = attn.d_head
    if kind.attention_bias == "key":
        written["attention_bias"] = attn.qkv_bias
    if kind.mlp_bias:
        written["mlp_bias"] = mlp.bias
    return written | _write_windows([block.attn.window for block in stack.blocks], kind)


def _windows(config: HfConfig, kind: LlamaType, n_layers: int) -> list[int | None]:
    """The window of each layer, as transformers' config classes resolve it."""
    if kind.window == "none":
        return [None] * n_layers
    given = config.value("sliding_window")
    if kind.window == "all":
        return [None if config.has("sliding_window") and given is None else config.size("sliding_window", 4096, most=MAX_LENGTH)] * n_layers
    first = config.value("max_window_layers", 28)
    used = config.flag("use_sliding_window", False)
    window = config.size("sliding_window", 4096, most=MAX_LENGTH) if used and not (config.has("sliding_window") and given is None) else None
    types = config.value("layer_types")
    if types is None:
        first = first if type(first) is int else n_layers
        return [window if layer >= first else None for layer in range(n_layers)]
    meant = {"full_attention": None, "sliding_attention": window}
    if not isinstance(types, list) or len(types) != n_layers or not all(isinstance(word, str) and word in meant for word in types):
        config.problems.append(f"`layer_types` should name full_attention or sliding_attention for each of the {n_layers} layers")
        return [None] * n_layers
    if window is None and "sliding_attention" in types:
        config.problems.append("`layer_types` names sliding_attention, but `use_sliding_window` and `sliding_window` give no window")
    return [meant[word] for word in types]


def _write_windows(windows: list[int | None], kind: LlamaType) -> dict[str, Any]:
    if kind.window == "none":
        return {}
    window = next((size for size in windows if size is not None), None)
    if kind.window == "all":
        return {"sliding_window": window}
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": next((layer for layer, size in enumerate(windows) if size is not None), len(windows)),
        "layer_types": ["full_attention" if size is None else "sliding_attention" for size in windows],
    }


FAMILY = Family(
    name="llama",
    architectures={name: (f"{kind.classes}ForCausalLM", f"{kind.classes}Model") for name, kind in TYPES.items()},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="model.",
    ignored_keys=IGNORED,
    ignored_tensors={r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": "is computed from the rotary settings"},
)
