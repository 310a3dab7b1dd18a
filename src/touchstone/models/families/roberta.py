"""RoBERTa and XLM-R, which are BERT but for a few places.

| | bert | here |
|---|---|---|
| positions | counted from the first row of the table | from row `pad_token_id` + 1: the rows before it belong to padding |
| kinds of token | two | one, and nothing tells texts apart but the separators |
| activation of the masked language model | `hidden_act` | gelu |
| classifier | the pooler's dense layer, dropout, scores | dropout, a dense layer of its own, dropout, scores |
| names of the heads | `cls.predictions`, `classifier` | `lm_head`, `classifier.dense`, `classifier.out_proj` |

Source: Liu et al. 2019; Conneau et al. 2020 (XLM-R); transformers `models/{roberta,xlm_roberta}`.
"""

from typing import Any

from touchstone.models.families.bert import IGNORED as IGNORED_BY_BERT
from touchstone.models.families.bert import classes, encoder_rows, ignored_tensors, pairs, read_encoder, write_encoder
from touchstone.models.families.family import MAX_LENGTH, Family, HfConfig
from touchstone.models.spec import ModelSpec, Stack
from touchstone.models.weights import Row, TiedAlias
from touchstone.nn.position import LearnedPositions

__all__ = ["FAMILY", "WEIGHTS", "to_hf_config", "to_spec"]

WEIGHTS = (
    *encoder_rows("roberta."),
    *pairs("classify_head.dense", "classifier.dense"),
    *pairs("classify_head.out", "classifier.out_proj"),
    *pairs("lm_head.dense", "lm_head.dense"),
    *pairs("lm_head.norm", "lm_head.layer_norm"),
    Row("lm_head.scores.bias", "lm_head.bias"),
    Row("lm_head.scores.weight", "lm_head.decoder.weight"),
    Row("lm_head.scores.bias", "lm_head.decoder.bias", beside="lm_head.scores.weight"),
    Row("lm_head.scores.bias", "lm_head.decoder.bias", TiedAlias()),
    Row("embed.weight", "lm_head.decoder.weight", TiedAlias()),
)


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a RoBERTa config.json."""
    n_rows, padding = config.size("max_position_embeddings", most=MAX_LENGTH), config.value("pad_token_id", 1)
    if type(padding) is not int or not 0 <= padding < n_rows - 1:
        config.problems.append(
            f"`pad_token_id` ({str(padding)[:40]}) must be a whole number below {n_rows - 1}: positions are counted from the row after it"
        )
        padding = 0
    position = LearnedPositions(max_seq_len=max(n_rows - padding - 1, 1), offset=padding + 1)
    return read_encoder(config, position, drop_pooled=True, lm_activation="gelu")


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as RoBERTa does."""
    written = write_encoder(spec)
    if written is None or not isinstance(spec.encoder, Stack) or not isinstance(spec.encoder.position, LearnedPositions):
        return None
    return {**written, "pad_token_id": spec.encoder.position.offset - 1} if spec.encoder.position.offset else None


FAMILY = Family(
    name="roberta",
    architectures={"roberta": classes("Roberta"), "xlm-roberta": classes("XLMRoberta")},
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    prefix="roberta.",
    refused_classes=dict.fromkeys(
        ("RobertaForCausalLM", "XLMRobertaForCausalLM"), "looks back only; a decoder is read from the families made as one"
    ),
    ignored_keys=IGNORED_BY_BERT,
    ignored_tensors=ignored_tensors(r"roberta\."),
)
