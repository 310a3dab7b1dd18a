"""DistilBERT, as Hugging Face keeps it.

| | bert | here |
|---|---|---|
| kinds of token | two | none |
| pooler | in the base class | none |
| dropout | on what each sublayer adds | on what the feed-forward adds |
| norm's guard | `layer_norm_eps` | 1e-12 |
| classifier | dense, tanh | dense (`pre_classifier`), relu |
| question answering | no dropout | `qa_dropout` |

`sinusoidal_pos_embds` says how the table of positions was started; the table itself is in the file, and is read from there.
Source: Sanh et al. 2019; transformers `models/distilbert`.
"""

from typing import Any

from touchstone.models.families.bert import classes, head_kind, pairs, write_problem
from touchstone.models.families.family import ACTIVATION_WORDS, ACTIVATIONS, MAX_LAYERS, MAX_LENGTH, Family, HfConfig
from touchstone.models.heads import ClassifyHead, Head, MaskedLmHead, SpanHead, TagHead
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import Row, TiedAlias
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions

__all__ = ["FAMILY", "WEIGHTS", "to_hf_config", "to_spec"]

NORM = NormSpec(kind="layer", norm_eps=1e-12)

IGNORED = {
    "sinusoidal_pos_embds": "says how the table of positions was started, and the table is in the file",
    "tie_weights_": "is an old name of tie_word_embeddings that no version reads",
}

_OURS, _THEIRS = "encoder.layers.{i}.", "distilbert.transformer.layer.{i}."

WEIGHTS = (
    Row("embed.weight", "distilbert.embeddings.word_embeddings.weight"),
    Row("encoder.positions.weight", "distilbert.embeddings.position_embeddings.weight"),
    *pairs("encoder.input_norm", "distilbert.embeddings.LayerNorm"),
    *(row for short in "qkv" for row in pairs(f"{_OURS}attn.{short}_proj", f"{_THEIRS}attention.{short}_lin")),
    *pairs(f"{_OURS}attn.o_proj", f"{_THEIRS}attention.out_lin"),
    *pairs(f"{_OURS}norm1", f"{_THEIRS}sa_layer_norm"),
    *pairs(f"{_OURS}mlp.up_proj", f"{_THEIRS}ffn.lin1"),
    *pairs(f"{_OURS}mlp.down_proj", f"{_THEIRS}ffn.lin2"),
    *pairs(f"{_OURS}norm2", f"{_THEIRS}output_layer_norm"),
    *pairs("classify_head.dense", "pre_classifier"),
    *pairs("classify_head.out", "classifier"),
    *pairs("tag_head.out", "classifier"),
    *pairs("span_head.out", "qa_outputs"),
    *pairs("lm_head.dense", "vocab_transform"),
    *pairs("lm_head.norm", "vocab_layer_norm"),
    *pairs("lm_head.scores", "vocab_projector"),
    Row("embed.weight", "vocab_projector.weight", TiedAlias()),
)


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a DistilBERT config.json."""
    d_model, n_heads = config.size("dim"), config.size("n_heads")
    if d_model % n_heads:
        config.problems.append(f"`dim` ({d_model}) must be a multiple of `n_heads` ({n_heads})")
    dropout = config.share("dropout", 0.1)
    activation = config.choice("activation", ACTIVATIONS, "gelu")
    attn = AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=max(d_model // n_heads, 1),
        qkv_bias=True,
        o_bias=True,
        dropout=config.share("attention_dropout", 0.1),
    )
    mlp = MlpSpec(d_ff=config.size("hidden_dim"), activation=activation, bias=True)
    block = BlockSpec(attn=attn, mlp=mlp, norm=NORM, norm_place="post", dropout=dropout, attn_dropout=0.0)
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model)
    position = LearnedPositions(max_seq_len=config.size("max_position_embeddings", most=MAX_LENGTH))
    n_layers = config.size("n_layers", most=MAX_LAYERS)
    head = _read_head(config, activation, dropout)
    config.finish(IGNORED)
    stack = Stack(blocks=(block,) * n_layers, causal=False, position=position, input_norm=NORM, dropout=dropout)
    return ModelSpec(embed=embed, encoder=stack, head=head)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as DistilBERT does."""
    stack = spec.encoder
    if spec.decoder is not None or not isinstance(stack, Stack) or not isinstance(stack.position, LearnedPositions) or not stack.blocks:
        return None
    block, head = stack.blocks[0], spec.head
    if not isinstance(block.mlp, MlpSpec) or spec.embed.n_token_types:
        return None
    return {
        "vocab_size": spec.vocab_size,
        "dim": spec.d_model,
        "n_layers": len(stack.blocks),
        "n_heads": block.attn.n_heads,
        "hidden_dim": block.mlp.d_ff,
        "activation": ACTIVATION_WORDS[block.mlp.activation],
        "dropout": block.dropout,
        "attention_dropout": block.attn.dropout,
        "max_position_embeddings": stack.position.max_seq_len,
        "sinusoidal_pos_embds": False,
        "tie_word_embeddings": head.tied if isinstance(head, MaskedLmHead) else True,
        "seq_classif_dropout": head.dropout if isinstance(head, ClassifyHead) else 0.2,
        "qa_dropout": head.dropout if isinstance(head, SpanHead) else 0.1,
        **write_problem(head),
    }


def _read_head(config: HfConfig, activation: ActivationName, dropout: float) -> Head | None:
    on_classes, on_ends = config.share("seq_classif_dropout", 0.2), config.share("qa_dropout", 0.1)
    tied = config.flag("tie_word_embeddings", True)
    kind = head_kind(config)
    if kind == "masked-lm":
        return MaskedLmHead(tied=tied, activation=activation, norm=NORM)
    if kind == "base":
        return None
    n_labels = config.n_labels()
    if kind == "span":
        if n_labels != 2:
            config.problems.append(f"a model that answers questions scores two ends, and config.json names {n_labels} labels")
        return SpanHead(dropout=on_ends)
    if kind == "tag":
        return TagHead(n_labels=n_labels, dropout=dropout)
    problem = config.problem(n_labels)
    return ClassifyHead(n_labels=n_labels, pooling="first", activation="relu", dropout=on_classes, problem=problem)


FAMILY = Family(
    name="distilbert",
    architectures={"distilbert": classes("DistilBert")},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="distilbert.",
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    ignored_keys=IGNORED,
    ignored_tensors={r"distilbert\.embeddings\.position_ids": "counts 0, 1, 2 …; old versions stored it"},
)
