"""What a run of any objective but the causal one learns from and is judged by: examples of three sides, and the figures of the last.

Text is made into corrupted windows, rows into examples with answers; from there on training and judging are the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from torch import nn

from touchstone.errors import ConfigError
from touchstone.evaluate.answering import Commonest, score_answers
from touchstone.evaluate.labels import macro_f1, span_f1
from touchstone.evaluate.span_answers import find_answers
from touchstone.flows.answer_data import AnswerData, answer_data, needs_answers
from touchstone.flows.preparation import prepare_text
from touchstone.report.terminal import Terminal
from touchstone.stats import Interval
from touchstone.text.answers import AnsweredRows, Fit, PairRows, class_rows, pair_rows
from touchstone.text.conll import tag_names
from touchstone.text.corrupted import MaskedWindows, Masking, RestoredWindows, restored_by_denoising, restored_by_spans
from touchstone.text.denoise import Noises
from touchstone.text.frame import Frame
from touchstone.text.labelled import TextPair, label_names
from touchstone.text.prepare import Prepared
from touchstone.text.shards import TokenShards
from touchstone.text.span_windows import span_rows, span_windows
from touchstone.text.tagged_rows import tag_rows
from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Tokenizer
from touchstone.train.label_objectives import Tag
from touchstone.train.objective import Answering
from touchstone.train.objective_config import ClassifyConfig, DenoisingConfig, MaskedLmConfig, SpanConfig, SpanCorruptionConfig, TagConfig
from touchstone.train.run_config import RunConfig
from touchstone.train.step import Source

__all__ = ["Figure", "Lesson", "make_lesson"]

VALIDATION_EXAMPLES = 256
"""Of the validation side that are answered while training: some seconds, and an accuracy to three hundredths."""

TEST_EXAMPLES = 2000
"""Of the test side that are answered at the end, at most: an accuracy to a hundredth."""


N_WRITTEN = 3
"""Held-out sources that a model writes out while it learns: enough to see it learn."""


@dataclass(frozen=True)
class Figure:
    """One measured figure of the test side: its name, with the phrase `lesson.NAME`, and the same of the commonest answer."""

    name: str
    value: Interval
    baseline: float | None = None


@dataclass(frozen=True)
class Lesson:
    """What one network learns from and is judged by. labels: names of the answers, where they have names.

    generation: what generation_config.json says of a model that writes. fit: what did not fit the context.
    """

    objective: Answering
    tokenizer: Tokenizer
    source: Source
    valid: Source | None
    test: Source | None
    data_hash: str
    n_rows: dict[str, int]
    labels: tuple[str, ...] | None = None
    generation: dict[str, Any] | None = None
    fit: Fit = field(default_factory=Fit)
    more: Callable[[nn.Module], list[Figure]] | None = None  # figures beside loss and accuracy, of the test side
    pairs: tuple[TextPair, ...] = ()  # held-out pairs whose sources are written out while training

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Loss and accuracy on the validation side, while training."""
        assert self.valid is not None
        score = score_answers(net, self.objective, self.valid, n_examples=VALIDATION_EXAMPLES)
        return {"loss": score.loss, "accuracy": float((score.predicted == score.expected).mean())}

    def judge(self, net: nn.Module) -> list[Figure]:
        """The figures of the test side; none where nothing was held out."""
        if self.test is None:
            return []
        score = score_answers(net, self.objective, self.test, n_examples=TEST_EXAMPLES)
        commonest = Commonest(self.source)
        figures = [Figure("accuracy", score.accuracy(), commonest.accuracy(score)), Figure("nll", score.nll(), commonest.nll(score))]
        if self.objective.settings()["kind"] == "classify":
            always = np.full_like(score.expected, commonest.answer)
            figures.append(
                Figure("macro_f1", macro_f1(score.predicted, score.expected), macro_f1(always, score.expected, n_resamples=1).value)
            )
        return [*figures, *(self.more(net) if self.more is not None else [])]


def make_lesson(config: RunConfig, terminal: Terminal) -> Lesson:
    """Read and prepare what a configuration names, and say what was found and what did not fit."""
    lesson = (
        _of_answers(config, answer_data(config, terminal)) if needs_answers(config) else _of_text(config, prepare_text(config, terminal))
    )
    if lesson.labels is not None:
        shown = ", ".join(lesson.labels[:8]) + (", …" if len(lesson.labels) > 8 else "")
        terminal.say(terminal.words("lesson.labels", n=len(lesson.labels), names=shown))
    for what, times in lesson.fit.n.items():
        terminal.warn(terminal.words("lesson.noted", n=f"{times:,}", what=what))
    return lesson


def _of_text(config: RunConfig, prepared: Prepared) -> Lesson:
    tokenizer = prepared.tokenizer
    kinds, frame = TokenKinds.of(tokenizer), Frame.of(tokenizer)
    shards = {"train": prepared.train, "valid": prepared.valid, "test": prepared.test}
    sources = {side: _windows(config, part, tokenizer, kinds, frame) for side, part in shards.items() if part.n_tokens}
    return Lesson(
        objective=cast(Answering, config.objective.build()),
        tokenizer=tokenizer,
        source=sources["train"],
        valid=sources.get("valid"),
        test=sources.get("test"),
        data_hash=prepared.report.documents_hash,
        n_rows={side: source.n_examples for side, source in sources.items()},
        generation=None if isinstance(config.objective, MaskedLmConfig) else _generation(tokenizer, frame),
    )


def _windows(
    config: RunConfig, shards: TokenShards, tokenizer: Tokenizer, kinds: TokenKinds, frame: Frame
) -> MaskedWindows | RestoredWindows:
    asked, pad_id = config.objective, _needed(tokenizer, "pad")
    if isinstance(asked, MaskedLmConfig):
        return MaskedWindows(
            shards,
            config.context,
            kinds=kinds,
            frame=frame,
            mask_id=_needed(tokenizer, "mask"),
            pad_id=pad_id,
            masking=Masking(asked.share, asked.whole_words),
            isolate_documents=config.isolate_documents,
        )
    start_id = _start(tokenizer, frame)
    if isinstance(asked, SpanCorruptionConfig):
        return restored_by_spans(
            shards,
            config.context,
            kinds=kinds,
            frame=frame,
            sentinel_ids=_sentinels(tokenizer),
            start_id=start_id,
            pad_id=pad_id,
            density=asked.density,
            mean_span=asked.mean_span,
        )
    assert isinstance(asked, DenoisingConfig)
    noises = Noises(**asked.model_dump(exclude={"kind", "label_smoothing"}))
    return restored_by_denoising(
        shards,
        config.context,
        kinds=kinds,
        frame=frame,
        mask_id=_needed(tokenizer, "mask"),
        start_id=start_id,
        pad_id=pad_id,
        noises=noises,
    )


def _of_answers(config: RunConfig, data: AnswerData) -> Lesson:
    tokenizer, sides, fit = data.tokenizer, data.sides, Fit()
    frame = Frame.of(tokenizer)
    common: dict[str, Any] = {"frame": frame, "pad_id": _needed(tokenizer, "pad"), "context": config.context, "fit": fit}
    rows = {"train": sides.train, "valid": sides.valid, "test": sides.test}
    labels: tuple[str, ...] | None = None
    more: Callable[[nn.Module], list[Figure]] | None = None
    sources: dict[str, AnsweredRows | PairRows]
    if isinstance(config.objective, ClassifyConfig):
        labels = label_names([row.label for side in rows.values() for row in side])
        sources = {side: class_rows(part, labels, tokenizer, **common) for side, part in rows.items() if part}
    elif isinstance(config.objective, TagConfig):
        labels = tag_names([row for side in rows.values() for row in side])
        sources = {side: tag_rows(part, labels, tokenizer, **common) for side, part in rows.items() if part}
        more = _span_figures(cast(AnsweredRows, sources.get("test")), labels)
    elif isinstance(config.objective, SpanConfig):
        stretches = {
            side: span_windows(part, tokenizer, frame=frame, context=config.context, stride=config.objective.stride, fit=fit)
            for side, part in rows.items()
            if part
        }
        sources = {side: span_rows(windows, frame=frame, pad_id=_needed(tokenizer, "pad")) for side, windows in stretches.items()}
        if sides.test:
            more = _answer_figures(cast(AnsweredRows, sources["test"]), stretches["test"], sides.test)
    else:
        start_id = _start(tokenizer, frame)
        sources = {side: pair_rows(part, tokenizer, start_id=start_id, **common) for side, part in rows.items() if part}
    return Lesson(
        objective=cast(Answering, config.objective.build()),
        tokenizer=tokenizer,
        source=sources["train"],
        valid=sources.get("valid"),
        test=sources.get("test"),
        data_hash=sides.rows_hash,
        n_rows=sides.sizes,
        labels=labels,
        generation=_generation(tokenizer, frame) if config.objective.kind == "seq2seq" else None,
        fit=fit,
        more=more,
        pairs=tuple(pair for pair in (sides.valid or sides.test)[:N_WRITTEN] if isinstance(pair, TextPair)),
    )


def _span_figures(test: AnsweredRows | None, tags: Sequence[str]) -> Callable[[nn.Module], list[Figure]] | None:
    """F1 of whole spans, for tags that are spans."""
    if test is None or not any(tag.startswith("B-") for tag in tags):
        return None

    def figures(net: nn.Module) -> list[Figure]:
        score = score_answers(net, Tag(), test)
        borders = np.flatnonzero(np.diff(score.rows)) + 1
        found, there = ([[tags[n] for n in row] for row in np.split(part, borders)] for part in (score.predicted, score.expected))
        return [Figure("span_f1", span_f1(found, there), 0.0)]  # the commonest tag begins no span

    return figures


def _answer_figures(test: AnsweredRows, windows: Sequence[Any], questions: Sequence[Any]) -> Callable[[nn.Module], list[Figure]]:
    """Exact match and F1 of the answers' words; always saying that there is no answer is right where there is none."""
    n_without = sum(not question.answers for question in questions) / len(questions)

    def figures(net: nn.Module) -> list[Figure]:
        found = find_answers(net.eval(), test, windows, questions)
        return [Figure("exact_match", found.exact_match(), n_without), Figure("answer_f1", found.f1(), n_without)]

    return figures


def _needed(tokenizer: Tokenizer, role: str) -> int:
    found: int | None = getattr(tokenizer, f"{role}_id")
    if found is None:
        usual = {"pad": "<pad>", "mask": "<mask>", "eos": "</s>"}[role]
        raise ConfigError(f"this objective needs a token for {role}: put one such as `{usual}` among `tokenizer.specials`.")
    if role == "pad" and found == tokenizer.eos_id:
        raise ConfigError("padding must not be the end of a text, or no end would be learned: have a token of its own such as `<pad>`.")
    return found


def _start(tokenizer: Tokenizer, frame: Frame) -> int:
    """What a decoder reads first: the end mark where texts begin with a mark of their own (BART), else padding (T5, Marian)."""
    return _needed(tokenizer, "eos") if frame.before else _needed(tokenizer, "pad")


def _sentinels(tokenizer: Tokenizer) -> np.ndarray:
    """The ids of `<extra_id_0>`, `<extra_id_1>` …, as many as there are in a row."""
    found: list[int] = []
    while len(ids := tokenizer.encode(f"<extra_id_{len(found)}>", allow_special=True)) == 1 and ids[0] in tokenizer.special_ids:
        found.append(ids[0])
    return np.array(found, dtype=np.int64)


def _generation(tokenizer: Tokenizer, frame: Frame) -> dict[str, Any]:
    """Where a text that is written begins and ends; a target without an end mark would teach a model never to stop."""
    eos_id, pad_id = _needed(tokenizer, "eos"), _needed(tokenizer, "pad")
    if frame.after[-1:] != (eos_id,):
        raise ConfigError("targets need an end mark, which this tokenizer does not put: have `</s>` among `tokenizer.specials`.")
    bos = {} if tokenizer.bos_id is None else {"bos_token_id": tokenizer.bos_id}
    return {**bos, "eos_token_id": eos_id, "pad_token_id": pad_id, "decoder_start_token_id": _start(tokenizer, frame)}
