"""T5 and mT5: an encoder and a decoder that know distances by a trained table, as Hugging Face keeps them.

| | the plain pre-norm block | t5 (1.0) | t5 (1.1, Flan) | mt5 |
|---|---|---|---|---|
| positions | rotary | a table of distances in the first layer of each stack, for all its layers | the same | the same |
| scores | q.k / sqrt(d_head) | q.k | q.k | q.k |
| biases | none | none | none | none |
| feed-forward | gated, silu | plain, relu | gated, tanh-gelu | gated, tanh-gelu |
| head | own | the token table, hidden states times d_model^-0.5 | own, no factor | own, no factor |
| dropout | by place | one number for all, after the final norm too | the same | the same |

Both stacks look up one token table. `feed_forward_proj` says the activation ("gated-gelu" means the tanh approximation), and
`dense_act_fn` and `is_gated_act` overrule it where they are written. What scales the head is `scale_decoder_outputs`, which
transformers 5 writes, and before that `tie_word_embeddings`. transformers 5 writes `tie_word_embeddings: true` always: a head of its
own is known by its tensor being there. An mT5's hidden states are never scaled.
`T5EncoderModel` is the encoder alone; its hidden states are the answer.
Source: Raffel et al. 2020; Shazeer 2020 (1.1); Xue et al. 2021 (mT5); transformers `models/{t5,mt5}`.
"""

from typing import Any

from touchstone.models.families.family import ACTIVATIONS, MAX_LAYERS, Family, HfConfig
from touchstone.models.heads import LmHead
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import Row, TiedAlias
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import RelativePositions

__all__ = [
    "FAMILY",
    "IGNORED",
    "PLAIN",
    "SHARED_ROWS",
    "WEIGHTS",
    "read_block",
    "said_of_stacks",
    "stack_of",
    "to_hf_config",
    "to_spec",
    "two_sides",
]

MODEL_TYPES = {
    name: {f"{begin}ForConditionalGeneration": "lm", f"{begin}Model": "base", f"{begin}EncoderModel": "encoder"}
    for name, begin in {"t5": "T5", "mt5": "MT5"}.items()
}

IGNORED = {
    "classifier_dropout": "belongs to a classifier's head",
    "initializer_factor": "is for starting or running a training",
    "n_positions": "is the length of the training's texts; distances have no bound, and no version reads it",
}

PLAIN = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu", "relu2": "relu2", "tanh": "tanh"}
"""The word for each activation after `feed_forward_proj`'s "gated-", or alone."""

_E, _D = "encoder.layers.{i}.", "decoder.layers.{i}."
_THEIR_E, _THEIR_D = "encoder.block.{i}.layer.", "decoder.block.{i}.layer."


def _attention_rows() -> tuple[Row, ...]:
    places = {
        f"{_E}attn": f"{_THEIR_E}0.SelfAttention",
        f"{_D}attn": f"{_THEIR_D}0.SelfAttention",
        f"{_D}cross_attn": f"{_THEIR_D}1.EncDecAttention",
    }
    return tuple(Row(f"{ours}.{part}_proj.weight", f"{theirs}.{part}.weight") for ours, theirs in places.items() for part in "qkvo")


SHARED_ROWS = (
    Row("embed.weight", "shared.weight"),
    *_attention_rows(),
    *(
        Row(f"{side}.relative_bias.0.weight", f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        for side in ("encoder", "decoder")
    ),
    Row(f"{_E}norm1.weight", f"{_THEIR_E}0.layer_norm.weight"),
    Row(f"{_E}norm2.weight", f"{_THEIR_E}1.layer_norm.weight"),
    Row(f"{_D}norm1.weight", f"{_THEIR_D}0.layer_norm.weight"),
    Row(f"{_D}norm_cross.weight", f"{_THEIR_D}1.layer_norm.weight"),
    Row(f"{_D}norm2.weight", f"{_THEIR_D}2.layer_norm.weight"),
    *(Row(f"{side}.final_norm.weight", f"{side}.final_layer_norm.weight") for side in ("encoder", "decoder")),
    *(Row("embed.weight", f"{side}.embed_tokens.weight", TiedAlias()) for side in ("encoder", "decoder")),
    Row("lm_head.weight", "lm_head.weight"),
    Row("embed.weight", "lm_head.weight", TiedAlias()),
)
"""Everything but the feed-forward layers."""


def _mlp_rows(ours: str, theirs: str) -> tuple[Row, ...]:
    gate = f"{ours}gate_proj.weight"
    return (
        Row(gate, f"{theirs}wi_0.weight"),
        Row(f"{ours}up_proj.weight", f"{theirs}wi_1.weight", beside=gate),
        Row(f"{ours}up_proj.weight", f"{theirs}wi.weight", without=gate),
        Row(f"{ours}down_proj.weight", f"{theirs}wo.weight"),
    )


WEIGHTS = (
    *SHARED_ROWS,
    *_mlp_rows(f"{_E}mlp.", f"{_THEIR_E}1.DenseReluDense."),
    *_mlp_rows(f"{_D}mlp.", f"{_THEIR_D}2.DenseReluDense."),
)


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a T5 or mT5 config.json."""
    d_model = config.size("d_model")
    n_encoder = config.size("num_layers", most=MAX_LAYERS)
    n_decoder = config.size("num_decoder_layers", n_encoder, most=MAX_LAYERS)
    block = read_block(config, _read_mlp(config))
    tied, scaled = _read_head(config)
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model)
    config.finish(IGNORED, two_sides(config))
    encoder = stack_of((block,) * n_encoder, causal=False)
    if config.head == "encoder":
        return ModelSpec(embed=embed, encoder=encoder, head=None)
    head = LmHead(tied=tied, scale=d_model**-0.5 if scaled else 1.0) if config.head == "lm" else None
    return ModelSpec(embed=embed, encoder=encoder, decoder=stack_of((block,) * n_decoder, causal=True), head=head)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as this type does."""
    said, encoder = said_of_stacks(spec), spec.encoder
    if said is None or not isinstance(encoder, Stack) or not isinstance(mlp := encoder.blocks[0].mlp, MlpSpec):
        return None
    word = PLAIN[mlp.activation]
    if mlp.gated and word in ("gelu", "gelu_new"):
        word = "gelu" if word == "gelu_new" else "gelu_python"  # "gated-gelu" is the tanh approximation
    tied = not isinstance(spec.head, LmHead) or spec.head.tied
    return {
        **said,
        "d_ff": mlp.d_ff,
        "feed_forward_proj": f"gated-{word}" if mlp.gated else word,
        "dense_act_fn": "gelu_new" if mlp.activation == "gelu_tanh" else word,
        "is_gated_act": mlp.gated,
        "tie_word_embeddings": tied,
        **({"scale_decoder_outputs": isinstance(spec.head, LmHead) and spec.head.scale != 1.0} if model_type == "t5" else {}),
    }


def read_block(config: HfConfig, mlp: MlpSpec | ExpertsSpec) -> BlockSpec:
    """A layer of either stack; `stack_of` gives it what is different in them."""
    n_heads, dropout = config.size("num_heads"), config.share("dropout_rate", 0.1)
    position = RelativePositions(
        n_buckets=config.size("relative_attention_num_buckets", 32),
        max_distance=config.size("relative_attention_max_distance", 128),
        both_ways=True,
    )
    attn = AttentionSpec(n_heads=n_heads, n_kv_heads=n_heads, d_head=config.size("d_kv", 64), position=position, scale=1.0, dropout=dropout)
    norm = NormSpec(kind="rms", norm_eps=config.number("layer_norm_epsilon", 1e-6))
    return BlockSpec(attn=attn, mlp=mlp, norm=norm, dropout=dropout)


def two_sides(config: HfConfig) -> dict[str, tuple[Any, str]]:
    """What `is_encoder_decoder` must say; the file of an encoder alone may be its whole model's."""
    said = config.value("is_encoder_decoder", True)
    return {"is_encoder_decoder": (said if config.head == "encoder" else True, "one side alone is of the encoder's class")}


def stack_of(blocks: tuple[BlockSpec, ...], *, causal: bool) -> Stack:
    """The encoder's or the decoder's layers: the decoder's look back only, and at the encoder."""

    def placed(block: BlockSpec) -> BlockSpec:
        position = block.attn.position
        assert isinstance(position, RelativePositions)
        attn = block.attn.replace(position=position.replace(both_ways=not causal))
        return block.replace(attn=attn, cross=attn.replace(position=None) if causal else None)

    made = {id(block): placed(block) for block in {id(block): block for block in blocks}.values()}  # thousands may be one and the same
    return Stack(
        blocks=tuple(made[id(block)] for block in blocks),
        causal=causal,
        dropout=blocks[0].dropout,
        final_norm=blocks[0].norm,
        final_dropout=blocks[0].dropout,
    )


def said_of_stacks(spec: ModelSpec) -> dict[str, Any] | None:
    """What a config.json says of the stacks, but for their feed-forward layers; None where distances are not the positions."""
    encoder, decoder = spec.encoder, spec.decoder
    if (
        not isinstance(encoder, Stack)
        or not encoder.blocks
        or not isinstance(position := encoder.blocks[0].attn.position, RelativePositions)
    ):
        return None
    if decoder is not None and not isinstance(decoder, Stack):
        return None
    block = encoder.blocks[0]
    return {
        "vocab_size": spec.vocab_size,
        "d_model": spec.d_model,
        "d_kv": block.attn.d_head,
        "num_layers": len(encoder.blocks),
        "num_decoder_layers": len(decoder.blocks) if decoder is not None else len(encoder.blocks),
        "num_heads": block.attn.n_heads,
        "relative_attention_num_buckets": position.n_buckets,
        "relative_attention_max_distance": position.max_distance,
        "layer_norm_epsilon": block.norm.norm_eps,
        "dropout_rate": block.dropout,
        "is_encoder_decoder": decoder is not None,
    }


def _read_mlp(config: HfConfig) -> MlpSpec:
    default = "relu" if config.model_type == "t5" else "gated-gelu"
    said = config.value("feed_forward_proj", default)
    gate, dash, word = said.partition("-") if isinstance(said, str) else ("", "", "")
    if not dash:
        gate, word = "", gate
    if gate not in ("", "gated") or word not in ACTIVATIONS:
        config.unsupported.append(f"`feed_forward_proj` ({said!r:.80}) should be an activation, or one after `gated-`")
        word = "relu"
    word = "gelu_new" if said == "gated-gelu" else word
    activation: ActivationName = config.choice("dense_act_fn", ACTIVATIONS, word)
    gated = config.flag("is_gated_act", gate == "gated")
    return MlpSpec(d_ff=config.size("d_ff"), activation=activation, gated=gated, dropout=config.share("dropout_rate", 0.1))


def _read_head(config: HfConfig) -> tuple[bool, bool]:
    """Whether the head is the token table, and whether the hidden states are scaled for it; see the module's docstring."""
    tied = config.flag("tie_word_embeddings", True)
    scaled = config.flag("scale_decoder_outputs", tied) and config.model_type == "t5"
    if not config.stored or (tied and scaled):
        return tied, scaled
    return "lm_head.weight" not in config.stored, scaled


FAMILY = Family(
    name="t5",
    architectures=MODEL_TYPES,
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    aliases={"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv"},
    ignored_keys=IGNORED,
    ignored_tensors={
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "is of a first version; no model uses it",
    },
)
