"""Llama and the types that share its layout: Mistral, Qwen2, Qwen3, Arcee. Those with experts build on it in files of their own.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from touchstone.models.families.decoder_heads import decoder_classes, read_head, write_head
from touchstone.models.families.family import ACTIVATION_WORDS, ACTIVATIONS, MAX_LAYERS, MAX_LENGTH, Family, HfConfig
from touchstone.models.families.rope import read_rotary, write_rotary
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import Row, TiedAlias
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import RotaryPositions

__all__ = [
    "DECODER",
    "FAMILY",
    "IGNORED",
    "TYPES",
    "WEIGHTS",
    "LlamaType",
    "read_decoder",
    "span_prefixes",
    "to_hf_config",
    "to_spec",
    "write_decoder",
]

FeedForward = MlpSpec | ExpertsSpec


@dataclass(frozen=True)
class LlamaType:
    """A column of such a table as the one above, with the defaults of its config class."""

    classes: str  # what its class names begin with
    attention_bias: Literal["attention_bias", "qkv_bias", "qkv", "never"] = "attention_bias"  # the key that says it, or which there are
    mlp_bias: bool = False  # has the key
    qk_norm: bool = False
    window: Literal["none", "all", "all if used", "layers from", "layers below"] = "none"  # which layers have one, by which keys
    window_size: int | None = 4096  # when the key is absent
    gated: bool = True
    head_divides: bool = False  # its config class refuses other widths
    d_head: int | None = None  # None = d_model / n_heads
    keeps_d_head: bool = True  # writes the key even where it divides
    n_kv_heads: int | None = None  # when the key is absent; None = n_heads
    norm_eps: float = 1e-6
    activation: str = "silu"
    theta: float = 10_000.0
    span_prefix: str = "transformer."  # what its question answering class calls the base model


TYPES: Mapping[str, LlamaType] = {
    "llama": LlamaType("Llama", mlp_bias=True, head_divides=True),
    "mistral": LlamaType("Mistral", "never", window="all", n_kv_heads=8, span_prefix="model."),
    "qwen2": LlamaType("Qwen2", "qkv", window="layers from", n_kv_heads=32, keeps_d_head=False),
    "qwen3": LlamaType("Qwen3", qk_norm=True, window="layers from", d_head=128, n_kv_heads=32),
    "arcee": LlamaType("Arcee", mlp_bias=True, gated=False, head_divides=True, norm_eps=1e-5, activation="relu2"),
}

_LAYER = "decoder.layers.{i}."
_THEIRS = "model.layers.{i}."

DECODER = (
    Row("embed.weight", "model.embed_tokens.weight"),
    Row(f"{_LAYER}norm1.weight", f"{_THEIRS}input_layernorm.weight"),
    *(Row(f"{_LAYER}attn.{part}_proj.{kind}", f"{_THEIRS}self_attn.{part}_proj.{kind}") for part in "qkvo" for kind in ("weight", "bias")),
    Row(f"{_LAYER}attn.q_norm.weight", f"{_THEIRS}self_attn.q_norm.weight"),
    Row(f"{_LAYER}attn.k_norm.weight", f"{_THEIRS}self_attn.k_norm.weight"),
    Row(f"{_LAYER}norm2.weight", f"{_THEIRS}post_attention_layernorm.weight"),
    Row("decoder.final_norm.weight", "model.norm.weight"),
    Row("lm_head.weight", "lm_head.weight"),
    Row("embed.weight", "lm_head.weight", TiedAlias()),
    Row("classify_head.out.weight", "score.weight"),
    Row("tag_head.out.weight", "score.weight"),
    Row("tag_head.out.bias", "score.bias"),
    Row("span_head.out.weight", "qa_outputs.weight"),
    Row("span_head.out.bias", "qa_outputs.bias"),
)
"""All but the feed-forward layers."""

WEIGHTS = DECODER + tuple(
    Row(f"{_LAYER}mlp.{part}_proj.{kind}", f"{_THEIRS}mlp.{part}_proj.{kind}")
    for part in ("gate", "up", "down")
    for kind in ("weight", "bias")
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

    def dense(activation: ActivationName) -> MlpSpec:
        bias = config.flag("mlp_bias", False) if kind.mlp_bias else False
        return MlpSpec(d_ff=config.size("intermediate_size"), activation=activation, gated=kind.gated, bias=bias)

    return read_decoder(config, kind, lambda n_layers, activation: [dense(activation)] * n_layers, IGNORED)


def read_decoder(
    config: HfConfig,
    kind: LlamaType,
    feed_forward: Callable[[int, ActivationName], Sequence[FeedForward]],
    ignored: Mapping[str, str],
    only: Mapping[str, tuple[Any, str]] | None = None,
) -> ModelSpec:
    """The spec of a decoder of this layout.

    feed_forward: reads the feed-forward of every layer, given their number and their activation. ignored, only: keys of the type, see
        `HfConfig.finish`.
    """
    d_model, n_heads = config.size("hidden_size"), config.size("num_attention_heads")
    n_layers = config.size("num_hidden_layers", most=MAX_LAYERS)
    d_head = config.size("head_dim", (kind.d_head if not config.has("head_dim") else None) or max(d_model // n_heads, 1))
    kv_default = kind.n_kv_heads if not config.has("num_key_value_heads") and kind.n_kv_heads else n_heads
    n_kv_heads = config.size("num_key_value_heads", kv_default)
    norm = NormSpec(kind="rms", norm_eps=config.number("rms_norm_eps", kind.norm_eps))
    qkv_bias, o_bias = _read_biases(config, kind)
    position = read_rotary(config, config.size("max_position_embeddings", most=MAX_LENGTH), theta=kind.theta)
    windows = _windows(config, kind, n_layers)
    dropout = config.share("attention_dropout")
    mlps = feed_forward(n_layers, config.choice("hidden_act", ACTIVATIONS, kind.activation))
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model)
    head = read_head(config, tied=False, tag_bias="token_classification_bias")
    if n_heads % n_kv_heads:
        config.problems.append(f"`num_attention_heads` ({n_heads}) must be a multiple of `num_key_value_heads` ({n_kv_heads})")
    if d_model % n_heads and (kind.head_divides or config.value("head_dim") is None):
        config.problems.append(f"`hidden_size` ({d_model}) must be a multiple of `num_attention_heads` ({n_heads})")
    if d_head % 2:
        config.problems.append(f"`head_dim` ({d_head}) must be even: rotary positions turn pairs")
    config.finish(ignored, {**ONLY, **(only or {})})

    def block(window: int | None, mlp: FeedForward) -> BlockSpec:
        attn = AttentionSpec(
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_head=d_head,
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            position=position,
            window=window,
            qk_norm=norm if kind.qk_norm else None,
            dropout=dropout,
        )
        return BlockSpec(attn=attn, mlp=mlp, norm=norm)

    layers = list(zip(windows, mlps, strict=True))
    made = {layer: block(*layer) for layer in set(layers)}
    stack = Stack(blocks=tuple(made[layer] for layer in layers), causal=True, final_norm=norm)
    return ModelSpec(embed=embed, decoder=stack, head=head)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as this type does."""
    kind, written = TYPES[model_type], write_decoder(spec, TYPES[model_type])
    if written is None or not isinstance(spec.decoder, Stack):
        return None
    mlp = spec.decoder.blocks[0].mlp
    if not isinstance(mlp, MlpSpec):
        return None
    bias = {"mlp_bias": mlp.bias} if kind.mlp_bias else {}
    return written | {"intermediate_size": mlp.d_ff, "hidden_act": ACTIVATION_WORDS[mlp.activation], **bias}


def write_decoder(spec: ModelSpec, kind: LlamaType) -> dict[str, Any] | None:
    """The entries of a decoder of this layout, without those of its feed-forward layers; None where it plainly is of another."""
    stack = spec.decoder
    if not isinstance(stack, Stack) or not isinstance(stack.blocks[0].attn.position, RotaryPositions):
        return None
    attn, norm = stack.blocks[0].attn, stack.blocks[0].norm
    assert isinstance(attn.position, RotaryPositions)
    divides = attn.n_heads * attn.d_head == spec.d_model
    if kind.head_divides and spec.d_model % attn.n_heads:
        return None
    written: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": len(stack.blocks),
        "num_attention_heads": attn.n_heads,
        "num_key_value_heads": attn.n_kv_heads,
        "max_position_embeddings": attn.position.max_seq_len,
        "rms_norm_eps": norm.norm_eps,
        "attention_dropout": attn.dropout,
        **write_head(spec.head, tag_bias="token_classification_bias"),
        **write_rotary(attn.position),
    }
    if kind.keeps_d_head or not divides:
        written["head_dim"] = attn.d_head
    if kind.attention_bias in ("attention_bias", "qkv_bias"):
        written[kind.attention_bias] = attn.qkv_bias
    return written | _write_windows([block.attn.window for block in stack.blocks], kind)


def _read_biases(config: HfConfig, kind: LlamaType) -> tuple[bool, bool]:
    """Whether query, key and value have one, and whether the output has."""
    if kind.attention_bias == "attention_bias":
        biased = config.flag("attention_bias", False)
        return biased, biased
    return (config.flag("qkv_bias", True) if kind.attention_bias == "qkv_bias" else kind.attention_bias == "qkv"), False


def _windows(config: HfConfig, kind: LlamaType, n_layers: int) -> list[int | None]:
    """The window of each layer, as transformers' config classes resolve it."""
    if kind.window == "none":
        return [None] * n_layers
    given, used = config.value("sliding_window"), kind.window == "all" or config.flag("use_sliding_window", False)
    absent = kind.window_size if not config.has("sliding_window") else None
    window = (
        config.size("sliding_window", absent, most=MAX_LENGTH) if used and (given if given is not None else absent) is not None else None
    )
    if kind.window in ("all", "all if used"):
        return [window] * n_layers
    first, types = config.value("max_window_layers", 28), config.value("layer_types")
    if types is None:
        first = first if type(first) is int else n_layers
        below = kind.window == "layers below"  # every other layer
        return [window if (layer < first and layer % 2 == 0 if below else layer >= first) else None for layer in range(n_layers)]
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
    written = {"use_sliding_window": window is not None, "sliding_window": window}
    if kind.window == "all if used":
        return written
    first = next((layer for layer, size in enumerate(windows) if size is not None), len(windows))
    return written | {
        "max_window_layers": first if kind.window == "layers from" else len(windows),
        "layer_types": ["full_attention" if size is None else "sliding_attention" for size in windows],
    }


def span_prefixes(types: Mapping[str, LlamaType]) -> dict[str, str]:
    """The classes that call the base model another name than `model.`, with theirs."""
    return {f"{kind.classes}ForQuestionAnswering": kind.span_prefix for kind in types.values() if kind.span_prefix != "model."}


FAMILY = Family(
    name="llama",
    architectures={name: decoder_classes(kind.classes) for name, kind in TYPES.items()},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="model.",
    other_prefixes=span_prefixes(TYPES),
    ignored_keys=IGNORED,
    ignored_tensors={r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": "is computed from the rotary settings"},
)
