"""BART, mBART and Marian: the original Transformer's layers over one token table, as Hugging Face keeps them.

| | the plain pre-norm block | bart | mbart | marian |
|---|---|---|---|---|
| positions | rotary | a learned table, two rows before the first | the same | sines, then cosines: computed, not stored |
| norm | RMSNorm before each part | LayerNorm after each part | LayerNorm before, and one after the last | LayerNorm after each part |
| norm of the embeddings | none | LayerNorm | LayerNorm | none |
| embeddings times sqrt(d_model) | no | `scale_embedding` | `scale_embedding` | `scale_embedding` |
| biases | none | on every product | the same | the same |
| feed-forward | gated | plain | plain | plain |
| head | own | the token table, and a bias a token | the same | the same |

`final_logits_bias` is the head's bias; here it is trained, and transformers keeps it as it is. A file without it has none. mBART's
target begins with the language's token, which is moved there from the end of the text.
transformers gives padding on the left positions of its own; here the first token that counts is at position 0 on either side.
Encoders and decoders with vocabularies, or tables, of their own are refused.
Source: Lewis et al. 2020; Liu et al. 2020 (mBART); Junczys-Dowmunt et al. 2018 (Marian); transformers `models/{bart,mbart,marian}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from touchstone.models.families.family import ACTIVATION_WORDS, ACTIVATIONS, MAX_LAYERS, MAX_LENGTH, Family, HfConfig
from touchstone.models.heads import LmHead
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import AsRow, Row, TiedAlias
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions, SinusoidalPositions

__all__ = ["FAMILY", "TYPES", "WEIGHTS", "to_hf_config", "to_spec"]


@dataclass(frozen=True)
class BartType:
    """A column of the table above, and the older keys that say it again."""

    classes: dict[str, str]
    learned: bool
    norm_first: bool
    norm_embeddings: bool

    def only(self) -> dict[str, tuple[Any, str]]:
        """What the keys of older files must say."""
        return {
            "static_position_embeddings": (not self.learned, "is another kind of positions than this type's"),
            "normalize_before": (self.norm_first, "is another place of the norms than this type's"),
            "add_final_layer_norm": (self.norm_first, "is another norm after the last layer than this type's"),
            "normalize_embedding": (self.norm_embeddings, "is another norm of the embeddings than this type's"),
        }


TYPES: Mapping[str, BartType] = {
    "bart": BartType({"BartForConditionalGeneration": "lm", "BartModel": "base"}, learned=True, norm_first=False, norm_embeddings=True),
    "mbart": BartType({"MBartForConditionalGeneration": "lm", "MBartModel": "base"}, learned=True, norm_first=True, norm_embeddings=True),
    "marian": BartType({"MarianMTModel": "lm", "MarianModel": "base"}, learned=False, norm_first=False, norm_embeddings=False),
}

OFFSET = 2  # rows of the position table before the first position

NORM = NormSpec(kind="layer", norm_eps=1e-5)
"""torch's default guard; no config says another."""

ONLY: dict[str, tuple[Any, str]] = {
    "is_encoder_decoder": (True, "one side alone is not read"),
    "tie_word_embeddings": (True, "encoder, decoder and head with tables of their own are not in the spec"),
    "share_encoder_decoder_embeddings": (True, "encoder and decoder with tables of their own are not in the spec"),
    "encoder_layerdrop": (0.0, "layers left out at random are not built"),
    "decoder_layerdrop": (0.0, "layers left out at random are not built"),
    "extra_pos_embeddings": (OFFSET, "is the number of rows before the first position"),
}

IGNORED = {
    **dict.fromkeys(("classifier_dropout", "classif_dropout"), "belongs to a classifier's head"),
    **dict.fromkeys(("init_std", "save_step"), "is for starting or running a training"),
    "unk_token_id": "belongs to the tokenizer",
    "add_bias_logits": "is read by no version; the head's bias is the tensor `final_logits_bias`",
    "force_bos_token_to_be_generated": "is an old generation setting; forced_bos_token_id is its successor",
}

_E, _D = "encoder.layers.{i}.", "decoder.layers.{i}."
_BOTH = ("weight", "bias")


def _layer_rows(ours: str, modules: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(Row(f"{ours}{own}.{kind}", f"model.{ours}{their}.{kind}") for own, their in modules.items() for kind in _BOTH)


def _attention(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{part}_proj": f"{theirs}.{'out' if part == 'o' else part}_proj" for part in "qkvo"}


_SHARED = {
    **_attention("attn", "self_attn"),
    "norm1": "self_attn_layer_norm",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
    "norm2": "final_layer_norm",
}

WEIGHTS = (
    Row("embed.weight", "model.shared.weight"),
    *(Row("embed.weight", f"model.{side}.embed_tokens.weight", TiedAlias()) for side in ("encoder", "decoder")),
    *(Row(f"{side}.positions.weight", f"model.{side}.embed_positions.weight") for side in ("encoder", "decoder")),
    *(Row(f"{side}.input_norm.{kind}", f"model.{side}.layernorm_embedding.{kind}") for side in ("encoder", "decoder") for kind in _BOTH),
    *(Row(f"{side}.final_norm.{kind}", f"model.{side}.layer_norm.{kind}") for side in ("encoder", "decoder") for kind in _BOTH),
    *_layer_rows(_E, _SHARED),
    *_layer_rows(_D, {**_SHARED, **_attention("cross_attn", "encoder_attn"), "norm_cross": "encoder_attn_layer_norm"}),
    Row("lm_head.bias", "final_logits_bias", AsRow()),
    Row("embed.weight", "lm_head.weight", TiedAlias()),
)

Side = Literal["encoder", "decoder"]


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a config.json of one of these types."""
    kind, d_model, vocab_size = TYPES[config.model_type], config.size("d_model"), config.size("vocab_size")
    n_positions = config.size("max_position_embeddings", 1024, most=MAX_LENGTH)
    stacks = {side: _read_stack(config, kind, side, d_model, n_positions) for side in ("encoder", "decoder")}
    scaled = config.flag("scale_embedding", False)
    if (of_decoder := config.value("decoder_vocab_size")) not in (None, vocab_size):
        config.unsupported.append(f"`decoder_vocab_size` ({of_decoder!r:.20}): a decoder with a vocabulary of its own is not in the spec")
    config.finish(IGNORED, {**ONLY, **kind.only()})
    embed = EmbedSpec(vocab_size=vocab_size, d_model=d_model, scale=d_model**0.5 if scaled else 1.0)
    biased = not config.stored or "final_logits_bias" in config.stored
    return ModelSpec(embed=embed, **stacks, head=LmHead(tied=True, bias=biased) if config.head == "lm" else None)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as this type does."""
    kind, encoder, decoder = TYPES[model_type], spec.encoder, spec.decoder
    if not isinstance(encoder, Stack) or not isinstance(decoder, Stack) or not encoder.blocks:
        return None
    if not isinstance(position := decoder.position, LearnedPositions if kind.learned else SinusoidalPositions):
        return None
    block, mlps = decoder.blocks[0], {"encoder": encoder.blocks[0].mlp, "decoder": decoder.blocks[0].mlp}
    plain = {side: mlp for side, mlp in mlps.items() if isinstance(mlp, MlpSpec)}
    if len(plain) < len(mlps):
        return None  # experts
    written: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "d_model": spec.d_model,
        "max_position_embeddings": position.max_seq_len,
        "activation_function": _word(plain["decoder"].activation),
        "dropout": block.dropout,
        "attention_dropout": block.attn.dropout,
        "activation_dropout": plain["decoder"].dropout,
        "scale_embedding": spec.embed.scale != 1.0,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
    }
    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        written[f"{side}_layers"] = len(stack.blocks)
        written[f"{side}_attention_heads"] = stack.blocks[0].attn.n_heads
        written[f"{side}_ffn_dim"] = plain[side].d_ff
        written[f"{side}_layerdrop"] = 0.0
    if not kind.learned:
        written |= {"decoder_vocab_size": spec.vocab_size, "share_encoder_decoder_embeddings": True}
    return written


def _read_stack(config: HfConfig, kind: BartType, side: Side, d_model: int, n_positions: int) -> Stack:
    n_heads = config.size(f"{side}_attention_heads", 16)
    if d_model % n_heads:
        config.problems.append(f"`d_model` ({d_model}) must be a multiple of `{side}_attention_heads` ({n_heads})")
    dropout = config.share("dropout", 0.1)
    attn = AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=max(d_model // n_heads, 1),
        qkv_bias=True,
        o_bias=True,
        dropout=config.share("attention_dropout"),
    )
    mlp = MlpSpec(
        d_ff=config.size(f"{side}_ffn_dim", 4096),
        activation=config.choice("activation_function", ACTIVATIONS, "gelu"),
        bias=True,
        dropout=config.share("activation_dropout"),
    )
    block = BlockSpec(
        attn=attn,
        cross=attn if side == "decoder" else None,
        mlp=mlp,
        norm=NORM,
        norm_place="pre" if kind.norm_first else "post",
        dropout=dropout,
    )
    learned = LearnedPositions(max_seq_len=n_positions, offset=OFFSET)
    return Stack(
        blocks=(block,) * config.size(f"{side}_layers", 12, most=MAX_LAYERS),
        causal=side == "decoder",
        position=learned if kind.learned else SinusoidalPositions(max_seq_len=n_positions, layout="halves"),
        input_norm=NORM if kind.norm_embeddings else None,
        dropout=dropout,
        final_norm=NORM if kind.norm_first else None,
    )


def _word(activation: ActivationName) -> str:
    return "gelu_new" if activation == "gelu_tanh" else ACTIVATION_WORDS[activation]


FAMILY = Family(
    name="bart",
    architectures={name: kind.classes for name, kind in TYPES.items()},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="model.",
    aliases={"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads", "num_hidden_layers": "encoder_layers"},
    ignored_keys=IGNORED,
    ignored_tensors={
        r"model\.(encoder|decoder)\.embed_positions\.weight": "is a table of sines and cosines, which is computed",
        r"model\.(encoder|decoder)\.version": "numbers the format of an old file",
    },
)
