"""GPT-2, as Hugging Face keeps it.

| | the plain pre-norm decoder | here |
|---|---|---|
| positions | rotary | a learned table, added to the embeddings |
| norm | RMSNorm | LayerNorm with bias |
| query, key, value | three products | one, `c_attn`, fused |
| weights on disk | (out, in) | (in, out): Conv1D stores them transposed |
| biases | none | on every product |
| feed-forward | gated | plain, tanh-gelu |
| head | own | tied to the token table |
| scores | q.k / sqrt(d_head) | the same; two switches remove the factor or divide by the layer number |

Source: Radford et al. 2019; transformers `models/gpt2`.
"""

from typing import Any

from touchstone.models.families.decoder_heads import decoder_classes, read_head, write_head
from touchstone.models.families.family import ACTIVATION_WORDS, ACTIVATIONS, MAX_LAYERS, MAX_LENGTH, Family, HfConfig
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import Fuse, Row, TiedAlias, Transpose
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions

__all__ = ["FAMILY", "WEIGHTS", "to_hf_config", "to_spec"]

MODEL_TYPES = {"gpt2": decoder_classes("GPT2", lm="GPT2LMHeadModel")}

IGNORED = {
    **dict.fromkeys(
        ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
        "belongs to the double-heads model's summary head",
    ),
    "reorder_and_upcast_attn": "orders the same product differently, for half-precision training",
    "n_ctx": "is an old name of n_positions that no version reads",
    **dict.fromkeys(("n_special", "predict_special_tokens"), "is left from the first port of GPT, and no version reads it"),
}

_LAYER = "decoder.layers.{i}."
_THEIRS = "transformer.h.{i}."
_QKV = tuple(f"{_LAYER}attn.{part}_proj" for part in "qkv")

WEIGHTS = (
    Row("embed.weight", "transformer.wte.weight"),
    Row("decoder.positions.weight", "transformer.wpe.weight"),
    Row(f"{_LAYER}norm1.weight", f"{_THEIRS}ln_1.weight"),
    Row(f"{_LAYER}norm1.bias", f"{_THEIRS}ln_1.bias"),
    Row(tuple(f"{name}.weight" for name in _QKV), f"{_THEIRS}attn.c_attn.weight", Fuse(transposed=True)),
    Row(tuple(f"{name}.bias" for name in _QKV), f"{_THEIRS}attn.c_attn.bias", Fuse()),
    Row(f"{_LAYER}attn.o_proj.weight", f"{_THEIRS}attn.c_proj.weight", Transpose()),
    Row(f"{_LAYER}attn.o_proj.bias", f"{_THEIRS}attn.c_proj.bias"),
    Row(f"{_LAYER}norm2.weight", f"{_THEIRS}ln_2.weight"),
    Row(f"{_LAYER}norm2.bias", f"{_THEIRS}ln_2.bias"),
    Row(f"{_LAYER}mlp.up_proj.weight", f"{_THEIRS}mlp.c_fc.weight", Transpose()),
    Row(f"{_LAYER}mlp.up_proj.bias", f"{_THEIRS}mlp.c_fc.bias"),
    Row(f"{_LAYER}mlp.down_proj.weight", f"{_THEIRS}mlp.c_proj.weight", Transpose()),
    Row(f"{_LAYER}mlp.down_proj.bias", f"{_THEIRS}mlp.c_proj.bias"),
    Row("decoder.final_norm.weight", "transformer.ln_f.weight"),
    Row("decoder.final_norm.bias", "transformer.ln_f.bias"),
    Row("lm_head.weight", "lm_head.weight"),
    Row("embed.weight", "lm_head.weight", TiedAlias()),
    Row("classify_head.out.weight", "score.weight"),
    Row("tag_head.out.weight", "classifier.weight"),
    Row("tag_head.out.bias", "classifier.bias"),
    Row("span_head.out.weight", "qa_outputs.weight"),
    Row("span_head.out.bias", "qa_outputs.bias"),
)


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a GPT-2 config.json."""
    d_model, n_heads = config.size("n_embd"), config.size("n_head")
    n_layers = config.size("n_layer", most=MAX_LAYERS)
    position = LearnedPositions(max_seq_len=config.size("n_positions", most=MAX_LENGTH))
    norm = NormSpec(kind="layer", norm_eps=config.number("layer_norm_epsilon", 1e-5))
    activation = config.choice("activation_function", ACTIVATIONS, "gelu_new")
    d_ff = config.size("n_inner", 4 * d_model)
    on_weights, on_sublayers = config.share("attn_pdrop", 0.1), config.share("resid_pdrop", 0.1)
    on_embeddings = config.share("embd_pdrop", 0.1)
    scaled, by_layer = config.flag("scale_attn_weights", True), config.flag("scale_attn_by_inverse_layer_idx", False)
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model)
    head = read_head(config, tied=True)
    if d_model % n_heads:
        config.problems.append(f"`n_embd` ({d_model}) must be a multiple of `n_head` ({n_heads})")
    config.finish(IGNORED)
    scales = _scales(d_model // n_heads, n_layers, scaled=scaled, by_layer=by_layer)
    blocks = tuple(
        BlockSpec(
            attn=AttentionSpec(
                n_heads=n_heads,
                n_kv_heads=n_heads,
                d_head=d_model // n_heads,
                qkv_bias=True,
                o_bias=True,
                scale=scale,
                dropout=on_weights,
            ),
            mlp=MlpSpec(d_ff=d_ff, activation=activation, gated=False, bias=True),
            norm=norm,
            dropout=on_sublayers,
        )
        for scale in scales
    )
    stack = Stack(blocks=blocks, causal=True, position=position, dropout=on_embeddings, final_norm=norm)
    return ModelSpec(embed=embed, decoder=stack, head=head)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as GPT-2 does."""
    stack = spec.decoder
    if not isinstance(stack, Stack) or not isinstance(stack.position, LearnedPositions):
        return None
    block, mlp = stack.blocks[0], stack.blocks[0].mlp
    if not isinstance(mlp, MlpSpec):
        return None
    scales = [each.attn.scale for each in stack.blocks]
    switches = {
        (scaled, by_layer): _scales(block.attn.d_head, len(scales), scaled=scaled, by_layer=by_layer)
        for scaled in (True, False)
        for by_layer in (False, True)
    }
    scaled, by_layer = next((switch for switch, made in switches.items() if made == scales), (True, False))
    return {
        "vocab_size": spec.vocab_size,
        "n_positions": stack.position.max_seq_len,
        "n_embd": spec.d_model,
        "n_layer": len(stack.blocks),
        "n_head": block.attn.n_heads,
        "n_inner": None if mlp.d_ff == 4 * spec.d_model else mlp.d_ff,
        "activation_function": "gelu_new" if mlp.activation == "gelu_tanh" else ACTIVATION_WORDS[mlp.activation],
        "layer_norm_epsilon": block.norm.norm_eps,
        "attn_pdrop": block.attn.dropout,
        "resid_pdrop": block.dropout,
        "embd_pdrop": stack.dropout,
        "scale_attn_weights": scaled,
        "scale_attn_by_inverse_layer_idx": by_layer,
        **write_head(spec.head),
    }


def _scales(d_head: int, n_layers: int, *, scaled: bool, by_layer: bool) -> list[float | None]:
    """The factor on q.k in each layer; None is the usual d_head^-0.5."""
    if scaled and not by_layer:
        return [None] * n_layers
    whole = d_head**-0.5 if scaled else 1.0
    return [whole / (layer + 1 if by_layer else 1) for layer in range(n_layers)]


FAMILY = Family(
    name="gpt2",
    architectures=MODEL_TYPES,
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="transformer.",
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    ignored_keys=IGNORED,
    ignored_tensors={
        r"transformer\.h\.\d+\.attn\.(bias|masked_bias)": "is the causal mask that old versions stored; it holds nothing trained"
    },
)
