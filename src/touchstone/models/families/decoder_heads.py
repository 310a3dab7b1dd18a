"""The heads that transformers puts on its decoders, alike for all types: their classes, their config keys, and how they read a text.

| class | head | reads |
|---|---|---|
| …ForCausalLM | scores over the vocabulary | every token |
| …ForSequenceClassification | scores over the labels, without bias | the last token that is no padding |
| …ForTokenClassification | scores over the labels, after dropout | every token |
| …ForQuestionAnswering | that the answer begins here, and that it ends here | every token |
| …Model | none; the tied head where `tie_word_embeddings` is true, for its tensors are all there | |

transformers tells padding by the token's id; here the mask does, so a text that ends in the token used for padding is read to its end.
Source: transformers `modeling_layers.py` (Generic…), `models/gpt2`.
"""

from typing import Any

from touchstone.models.families.family import HfConfig
from touchstone.models.heads import ClassifyHead, Head, LmHead, SpanHead, TagHead

__all__ = ["decoder_classes", "read_head", "write_head"]

_SUFFIXES = {"ForCausalLM": "lm", "Model": "base", "ForSequenceClassification": "classify", "ForTokenClassification": "tag"}
_SUFFIXES |= {"ForQuestionAnswering": "span"}

_PROBLEMS = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


def decoder_classes(name: str, *, lm: str | None = None) -> dict[str, str]:
    """The classes of a type whose names begin so, each with its kind of head; lm: the language model's where it ends in another way."""
    classes = {f"{name}{suffix}": head for suffix, head in _SUFFIXES.items()}
    return {lm if lm is not None and head == "lm" else known: head for known, head in classes.items()}


def read_head(config: HfConfig, *, tied: bool, tag_bias: str | None = None) -> Head | None:
    """The head of the class that the folder is of.

    tied: `tie_word_embeddings` where it is not given. tag_bias: the key that says whether a tagger has biases; None = it has.
    """
    tied = config.flag("tie_word_embeddings", tied)
    dropout = config.share("classifier_dropout", config.share("hidden_dropout", 0.1))
    biased = config.flag(tag_bias, True) if tag_bias is not None else True
    if config.head == "classify":
        n_labels = config.n_labels()
        return ClassifyHead(n_labels=n_labels, pooling="last", bias=False, problem=config.problem(n_labels))
    if config.head == "tag":
        return TagHead(n_labels=config.n_labels(), bias=biased, dropout=dropout)
    if config.head == "span":
        return SpanHead()
    return None if config.head == "base" and not tied else LmHead(tied=tied)


def write_head(head: Head | None, *, tag_bias: str | None = None) -> dict[str, Any]:
    """The keys that say it, beside the class."""
    written: dict[str, Any] = {"tie_word_embeddings": isinstance(head, LmHead) and head.tied}
    if isinstance(head, ClassifyHead):
        written["problem_type"] = _PROBLEMS[head.problem]
    if isinstance(head, TagHead):
        written["classifier_dropout"] = head.dropout
    if isinstance(head, TagHead) and tag_bias is not None:
        written[tag_bias] = head.bias
    if isinstance(head, ClassifyHead | TagHead):
        names = [f"LABEL_{number}" for number in range(head.n_labels)]
        written["id2label"] = {str(number): name for number, name in enumerate(names)}
        written["label2id"] = {name: number for number, name in enumerate(names)}
    return written
