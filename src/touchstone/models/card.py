"""The card: what a program reads of a model beside its weights, kept as `touchstone.json` in the model folder.

Lineage, labels, calibration records and scores; and the Hugging Face config.json that the model was read with, so that it is written
back as it was. A folder without a card is a normal one. `readme` tells the same to people, as Hugging Face shows it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from touchstone.config import Config
from touchstone.errors import ConfigError

__all__ = ["CARD_NAME", "Calibration", "Card", "Lineage", "Score", "SentencePooling", "few_records", "readme"]

CARD_NAME = "touchstone.json"

_MOST_RECORDS = 1024  # of one kind; a hostile card has millions, and every wrong one would be an error to report

_USES = {  # the kind of head -> the task it is listed under, and transformers' class that opens it
    "lm": ("text-generation", "AutoModelForCausalLM"),
    "seq2seq": ("text2text-generation", "AutoModelForSeq2SeqLM"),
    "masked-lm": ("fill-mask", "AutoModelForMaskedLM"),
    "classify": ("text-classification", "AutoModelForSequenceClassification"),
    "tag": ("token-classification", "AutoModelForTokenClassification"),
    "span": ("question-answering", "AutoModelForQuestionAnswering"),
    "base": ("feature-extraction", "AutoModel"),
}

Bounds = Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]  # low and high


class Lineage(Config):
    """Where the weights came from, as hashes and settings that can be compared."""

    data_hash: str | None = None  # content hash of the training text
    tokenizer_hash: str | None = None
    parent: str | None = None  # hash of the weights that the training started from; None = from scratch
    config: dict[str, Any] = Field(default_factory=dict)  # the resolved configuration of the run
    software: dict[str, str] = Field(default_factory=dict)  # name -> version


class Score(Config):
    """One measured figure, with what it takes to believe it."""

    name: str  # "bits per byte"
    value: float
    interval: Bounds | None = None
    level: float = 0.95  # of the interval
    n: int = Field(ge=0)  # what was counted: documents, items
    method: str  # how the interval was made
    on: str  # what was measured: the name of the text or task
    on_hash: str | None = None
    baselines: dict[str, float] = Field(default_factory=dict)  # the same figure of other models on the same text
    date: str | None = None


class Calibration(Config):
    """A fitted correction of confidences, and exactly what it is valid for."""

    target: Literal["next-token", "answer-set", "class", "sequence"]
    task: str | None = None
    labels_hash: str | None = None
    prompt_hash: str | None = None
    method: str  # "temperature"
    params: dict[str, Any]
    statistic: dict[str, float]  # the error before and after, and its noise floor
    weights_hash: str
    numeric_scheme: str  # "float32"
    n: int = Field(ge=0)
    interval: Bounds | None = None
    confidences: tuple[Annotated[int, Field(ge=0)], ...] | None = None  # how many of those measured on fell in each bin of calibrate.drift
    date: str


class SentencePooling(Config):
    """How the hidden states of a text become one vector."""

    mode: Literal["first", "last", "mean", "max"]  # of the tokens that count
    normalise: bool = False  # to length one
    max_seq_len: int | None = Field(None, gt=0)  # tokens read of a text, if fewer than the model could
    prompts: dict[str, str] = Field(default_factory=dict)  # what stands before a text, by the name of its use ("query")
    default_prompt: str | None = None  # the name of the one that stands before every text; None = none does
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None  # how vectors are meant to be compared

    @model_validator(mode="after")
    def _fits(self) -> "SentencePooling":
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise ValueError(
                f"`default_prompt` ({self.default_prompt}) must be one of `prompts`: {', '.join(self.prompts) or 'there are none'}."
            )
        return self


class Card(Config):
    """Everything in touchstone.json."""

    format: Literal[1] = 1  # a later layout gets a later number
    name: str | None = None
    about: str | None = None  # a sentence or two for the reader
    language: tuple[str, ...] = ()  # ISO 639 codes of the text
    license: str | None = None
    lineage: Lineage = Lineage()
    labels: tuple[str, ...] | None = None  # answer names of a classifying or tagging head, by index
    calibration: tuple[Calibration, ...] = ()
    scores: tuple[Score, ...] = ()
    hf_config: dict[str, Any] | None = None  # config.json as it was read; on disk only where the folder's own cannot hold it
    pooling: SentencePooling | None = None  # None = no vectors are asked of it; on disk it is modules.json and what that names
    chat_template: str | None = None  # chat_template.jinja as it was read; on disk it is that file
    spec: dict[str, Any] | None = None  # the spec where config.json cannot say all of it (dropout); None = it can


def few_records(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A card's plain data as it is; ConfigError where it has more records of one kind than are read.

    Asked before the data is parsed: a validator of the fields would be given Python's lists, which a strict tuple refuses.
    """
    for name in ("calibration", "scores"):
        records = data.get(name)
        if isinstance(records, list) and len(records) > _MOST_RECORDS:
            raise ConfigError(f"`{name}`: at most {_MOST_RECORDS} records are read, these are {len(records)}.")
    return data


def readme(card: Card, facts: Mapping[str, str], *, opens_in_transformers: bool, use: str = "lm") -> str:
    """README.md: YAML front matter and what the card knows, in Markdown.

    facts: rows of the first table, such as the number of parameters. use: the kind of head; "seq2seq" and "base" beside those.
    """
    front: dict[str, Any] = {"library_name": "transformers" if opens_in_transformers else "touchstone", "tags": ["touchstone"]}
    if opens_in_transformers:
        front["pipeline_tag"] = _USES[use][0]
        if card.pooling is not None:
            front |= {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    if card.language:
        front["language"] = list(card.language)
    if card.license:
        front["license"] = card.license
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", f"# {_cell(card.name or 'A language model')}"]
    if card.about:
        parts.append(card.about)
    parts.append(_table(("", ""), [(f"**{name}**", value) for name, value in facts.items()]))
    parts.append("## Use\n\n" + _usage(opens_in_transformers, use, card.pooling is not None))
    if card.scores:
        rows = [(score.name, _figure(score), score.on, str(score.n), score.method) for score in card.scores]
        parts.append("## Scores\n\n" + _table(("measure", "value", "on", "n", "interval by"), rows))
    if card.calibration:
        records = [(r.target, r.method, ", ".join(f"{k} {v}" for k, v in r.params.items()), str(r.n), r.date) for r in card.calibration]
        parts.append("## Calibration\n\n" + _table(("target", "method", "parameters", "n", "date"), records))
    origin = {"training text": card.lineage.data_hash, "tokenizer": card.lineage.tokenizer_hash, "parent weights": card.lineage.parent}
    if known := [(f"**{name}**", f"sha256 `{digest}`") for name, digest in origin.items() if digest]:
        parts.append("## Lineage\n\n" + _table(("", ""), known))
    return "\n\n".join(parts) + "\n"


def _usage(opens_in_transformers: bool, use: str, makes_vectors: bool) -> str:
    ours = 'import touchstone\n\nmodel = touchstone.load("path/to/this/folder")'
    if not opens_in_transformers:
        return f"No class of `transformers` computes this function, so the folder opens in Touchstone only:\n\n```python\n{ours}\n```"
    if makes_vectors:
        library, opened = "sentence_transformers", 'SentenceTransformer("path/to/this/folder")'
    else:
        library, opened = "transformers", f'{_USES[use][1]}.from_pretrained("path/to/this/folder")'
    theirs = f"from {library} import {re.split(r'[.(]', opened)[0]}\n\nmodel = {opened}"
    return f"```python\n{ours}\n```\n\nor, with `{library.replace('_', '-')}`:\n\n```python\n{theirs}\n```"


def _figure(score: Score) -> str:
    interval = f" [{score.interval[0]:.4g}, {score.interval[1]:.4g}] at {score.level:.0%}" if score.interval else ""
    others = "".join(f"; {name} {value:.4g}" for name, value in score.baselines.items())
    return f"{score.value:.4g}{interval}{others}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
