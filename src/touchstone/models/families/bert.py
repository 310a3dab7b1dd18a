"""BERT, as Hugging Face keeps it.

| | the plain pre-norm decoder | here |
|---|---|---|
| attention | looks back | looks both ways |
| positions | rotary | a learned table, added to the embeddings |
| kinds of token | none | two, a vector of each added to the embeddings |
| norm | RMSNorm before each sublayer and after the last | LayerNorm after each sublayer, and on the embeddings |
| biases | none | on every product |
| feed-forward | gated | plain, gelu |
| masked language model | – | dense, activation, norm, then the token table and a bias |
| classifier | – | the pooler (dense, tanh, of the first token), then the scores |

The base class has the pooler too; a folder of it without one, which other tools write, gives hidden states. The biases of an untied head
stand twice in a file, and transformers reads the second. Files from before 2019 name a norm's tensors `gamma` and `beta`; they are read,
and written as `weight` and `bias`. What a file keeps beside the heads of the class that config.json names is left out, as transformers
leaves it out.
Source: Devlin et al. 2019; transformers `models/bert`.
"""

from collections.abc import Mapping
from typing import Any

from touchstone.models.families.family import ACTIVATION_WORDS, ACTIVATIONS, MAX_LAYERS, MAX_LENGTH, Family, HfConfig
from touchstone.models.heads import ClassifyHead, Head, MaskedLmHead, PoolHead, SpanHead, TagHead
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import Row, TiedAlias
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions

__all__ = [
    "FAMILY",
    "IGNORED",
    "WEIGHTS",
    "classes",
    "encoder_rows",
    "head_kind",
    "ignored_tensors",
    "pairs",
    "read_encoder",
    "to_hf_config",
    "to_spec",
    "write_encoder",
    "write_problem",
]

IGNORED = {
    **dict.fromkeys(
        ("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
        "is left from Google's own files, and no version reads it",
    ),
    **dict.fromkeys(("language", "name"), "says where the file came from"),
    **dict.fromkeys(
        ("sentence_transformers", "sbert_ce_default_activation_function"),
        "is what sentence-transformers does with the scores of a pair, after the model",
    ),
}

ONLY: dict[str, tuple[Any, str]] = {
    "is_decoder": (False, "the layers would look back only; a decoder is read from the families made as one"),
    "position_embedding_type": ("absolute", "positions that are distances are another model's"),
}

REFUSED = {
    "BertForPreTraining": "has a next-sentence head beside the masked language model; write BertForMaskedLM there to read that part alone",
    "BertLMHeadModel": "looks back only; a decoder is read from the families made as one",
}


def encoder_rows(prefix: str) -> tuple[Row, ...]:
    """The rows of the encoder itself, which BERT and RoBERTa name alike."""
    ours, theirs = "encoder.layers.{i}.", f"{prefix}encoder.layer.{{i}}."
    layer = {
        **{f"attn.{short}_proj": f"attention.self.{word}" for short, word in (("q", "query"), ("k", "key"), ("v", "value"))},
        "attn.o_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "mlp.up_proj": "intermediate.dense",
        "mlp.down_proj": "output.dense",
        "norm2": "output.LayerNorm",
    }
    return (
        Row("embed.weight", f"{prefix}embeddings.word_embeddings.weight"),
        Row("embed.token_types", f"{prefix}embeddings.token_type_embeddings.weight"),
        Row("encoder.positions.weight", f"{prefix}embeddings.position_embeddings.weight"),
        *pairs("encoder.input_norm", f"{prefix}embeddings.LayerNorm"),
        *(row for mine, other in layer.items() for row in pairs(ours + mine, theirs + other)),
        *pairs("pool_head.dense", f"{prefix}pooler.dense"),
        *pairs("tag_head.out", "classifier"),
        *pairs("span_head.out", "qa_outputs"),
    )


def pairs(ours: str, theirs: str) -> tuple[Row, Row]:
    """The rows of a module's weight and bias."""
    return Row(f"{ours}.weight", f"{theirs}.weight"), Row(f"{ours}.bias", f"{theirs}.bias")


_ROWS = (
    *encoder_rows("bert."),
    *pairs("classify_head.dense", "bert.pooler.dense"),
    *pairs("classify_head.out", "classifier"),
    *pairs("lm_head.dense", "cls.predictions.transform.dense"),
    *pairs("lm_head.norm", "cls.predictions.transform.LayerNorm"),
    Row("lm_head.scores.bias", "cls.predictions.bias"),
    Row("lm_head.scores.weight", "cls.predictions.decoder.weight"),
    Row("lm_head.scores.bias", "cls.predictions.decoder.bias", beside="lm_head.scores.weight"),
    Row("lm_head.scores.bias", "cls.predictions.decoder.bias", TiedAlias()),
    Row("embed.weight", "cls.predictions.decoder.weight", TiedAlias()),
)

_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

WEIGHTS = _ROWS + tuple(
    Row(row.ours, row.theirs.replace(new, old), TiedAlias()) for row in _ROWS for new, old in _OLD_NAMES.items() if row.theirs.endswith(new)
)


def classes(name: str) -> dict[str, str]:
    """The classes whose names begin so, and the kind of head of each."""
    kinds = {"MaskedLM": "masked-lm", "SequenceClassification": "classify", "TokenClassification": "tag", "QuestionAnswering": "span"}
    return {f"{name}For{task}": kind for task, kind in kinds.items()} | {f"{name}Model": "base"}


def ignored_tensors(prefix: str) -> Mapping[str, str]:
    """What files keep beside the model of their class."""
    return {
        rf"{prefix}embeddings\.(position_ids|token_type_ids)": "counts 0, 1, 2 …; old versions stored it",
        rf"{prefix}pooler\.dense\.(weight|bias)": "is the pooler, which a model of the class in config.json does not have",
    }


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a BERT config.json."""
    position = LearnedPositions(max_seq_len=config.size("max_position_embeddings", most=MAX_LENGTH))
    return read_encoder(config, position)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as BERT does."""
    return write_encoder(spec)


def read_encoder(
    config: HfConfig, position: LearnedPositions, *, drop_pooled: bool = False, lm_activation: ActivationName | None = None
) -> ModelSpec:
    """The spec of a config.json in BERT's words, once its positions are known.

    drop_pooled: a classifier drops out of the pooled state too. lm_activation: of the masked language model's head; None = the layers'.
    """
    d_model, n_heads = config.size("hidden_size"), config.size("num_attention_heads")
    norm = NormSpec(kind="layer", norm_eps=config.number("layer_norm_eps", 1e-12))
    dropout, activation = config.share("hidden_dropout_prob", 0.1), config.choice("hidden_act", ACTIVATIONS, "gelu")
    if d_model % n_heads:
        config.problems.append(f"`hidden_size` ({d_model}) must be a multiple of `num_attention_heads` ({n_heads})")
    attn = AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=max(d_model // n_heads, 1),
        qkv_bias=True,
        o_bias=True,
        dropout=config.share("attention_probs_dropout_prob", 0.1),
    )
    mlp = MlpSpec(d_ff=config.size("intermediate_size"), activation=activation, bias=True)
    block = BlockSpec(attn=attn, mlp=mlp, norm=norm, norm_place="post", dropout=dropout)
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model, n_token_types=config.size("type_vocab_size", 2))
    n_layers = config.size("num_hidden_layers", most=MAX_LAYERS)
    tied, on_scores = config.flag("tie_word_embeddings", True), config.share("classifier_dropout", dropout)
    lm_head = MaskedLmHead(tied=tied, activation=lm_activation or activation, norm=norm)
    head = _read_head(config, lm_head, on_scores, drop_pooled)
    config.finish(IGNORED, ONLY)
    stack = Stack(blocks=(block,) * n_layers, causal=False, position=position, input_norm=norm, dropout=dropout)
    return ModelSpec(embed=embed, encoder=stack, head=head)


def write_encoder(spec: ModelSpec) -> dict[str, Any] | None:
    """The config.json entries that say an encoder in BERT's words; None where it is plainly of another kind."""
    stack = spec.encoder
    if spec.decoder is not None or not isinstance(stack, Stack) or not isinstance(stack.position, LearnedPositions) or not stack.blocks:
        return None
    block = stack.blocks[0]
    if not isinstance(block.mlp, MlpSpec) or not spec.embed.n_token_types:
        return None
    on_scores = spec.head.dropout if isinstance(spec.head, ClassifyHead | TagHead) else block.dropout
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": len(stack.blocks),
        "num_attention_heads": block.attn.n_heads,
        "intermediate_size": block.mlp.d_ff,
        "hidden_act": ACTIVATION_WORDS[block.mlp.activation],
        "hidden_dropout_prob": block.dropout,
        "attention_probs_dropout_prob": block.attn.dropout,
        "max_position_embeddings": stack.position.max_seq_len + stack.position.offset,
        "type_vocab_size": spec.embed.n_token_types,
        "layer_norm_eps": block.norm.norm_eps,
        "tie_word_embeddings": spec.head.tied if isinstance(spec.head, MaskedLmHead) else True,
        "classifier_dropout": on_scores if on_scores != block.dropout else None,
        **write_problem(spec.head),
    }


def head_kind(config: HfConfig) -> str:
    """The kind of head of the class that config.json names; of a folder that names none, what its tensors say."""
    if config.value("architectures") is not None or not config.stored:
        return config.head
    return "masked-lm" if any(name.startswith(("cls.predictions.", "lm_head.", "vocab_")) for name in config.stored) else "base"


def write_problem(head: Head | None) -> dict[str, Any]:
    """The number of labels, and what the scores mean where that is not what one label or several mean; their names are the card's."""
    if not isinstance(head, ClassifyHead | TagHead):
        return {}
    words = {"single-label": "single_label_classification", "multi-label": "multi_label_classification", "regression": "regression"}
    implied = "regression" if head.n_labels == 1 else "single-label"
    said = {"problem_type": words[head.problem]} if isinstance(head, ClassifyHead) and head.problem != implied else {}
    return {"num_labels": head.n_labels, **said}


def _read_head(config: HfConfig, lm_head: MaskedLmHead, dropout: float, drop_pooled: bool) -> Head | None:
    kind = head_kind(config)
    if kind == "masked-lm":
        return lm_head
    if kind == "base":
        has_pooler = not config.stored or any(name.endswith("pooler.dense.weight") for name in config.stored)
        return PoolHead(pooling="first", activation="tanh") if has_pooler else None
    n_labels = config.n_labels()
    if kind == "span":
        if n_labels != 2:
            config.problems.append(f"a model that answers questions scores two ends, and config.json names {n_labels} labels")
        return SpanHead()
    if kind == "tag":
        return TagHead(n_labels=n_labels, dropout=dropout)
    problem = config.problem(n_labels)
    return ClassifyHead(n_labels=n_labels, pooling="first", activation="tanh", dropout=dropout, drop_pooled=drop_pooled, problem=problem)


FAMILY = Family(
    name="bert",
    architectures={"bert": classes("Bert")},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="bert.",
    refused_classes=REFUSED,
    ignored_keys=IGNORED,
    ignored_tensors={
        **ignored_tensors(r"bert\."),
        r"cls\.seq_relationship\.(weight|bias)": "is the next-sentence head, which a model of the class in config.json does not have",
    },
)
