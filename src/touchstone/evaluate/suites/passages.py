"""Questions whose answer stands in a passage: XQuAD in English and Chinese, CMRC 2018, and any file in SQuAD's format.

By a span head, or written by a language model after the prompt of lm-evaluation-harness 0.4.9 (`xquad_en`, `xquad_zh`), up to the end of
the line. Questions on one passage are a cluster.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from touchstone.errors import ConfigError
from touchstone.evaluate.ask import GenerateRequest, Request, SpanRequest
from touchstone.evaluate.baselines import lead, sentence_like
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.scorers import chinese_answer, text_answer
from touchstone.evaluate.suites.tables import json_of
from touchstone.evaluate.task import BadRow, Baseline, EvalExample, EvalTask, Examples, Scores
from touchstone.infer.request import Sampling

__all__ = ["cmrc2018", "squad", "xquad_en", "xquad_zh"]

_PROMPTS = {"en": "Context: {context}\n\nQuestion: {question}\n\nAnswer:", "zh": "语境: {context}\n\n问题: {question}\n\n回答:"}
Method = Literal["head", "writing"]


def xquad_en(path: Path, *, by: Method = "head", max_new_tokens: int = 32) -> EvalTask:
    """XQuAD in English: questions on Wikipedia paragraphs, SQuAD's format and rules (Artetxe 2020)."""
    return _task("xquad-en", "Questions on English Wikipedia paragraphs.", path, "en", by, max_new_tokens, "Artetxe et al. 2020")


def xquad_zh(path: Path, *, by: Method = "head", max_new_tokens: int = 32) -> EvalTask:
    """XQuAD in Chinese, the same paragraphs translated; SQuAD's rules, each Han character a word (Artetxe 2020)."""
    return _task("xquad-zh", "Questions on translated Wikipedia paragraphs.", path, "zh", by, max_new_tokens, "Artetxe et al. 2020")


def cmrc2018(path: Path, *, by: Method = "head", max_new_tokens: int = 32) -> EvalTask:
    """CMRC 2018: questions on Chinese Wikipedia paragraphs, by its own rules (Cui 2019)."""
    return _task(
        "cmrc2018", "Questions on Chinese Wikipedia paragraphs.", path, "zh", by, max_new_tokens, "Cui et al. 2019", chinese_answer
    )


def squad(path: Path, *, by: Method = "head", max_new_tokens: int = 32) -> EvalTask:
    """Any file of SQuAD's format, version 1.1 (Rajpurkar 2016)."""
    return _task("squad", "Questions on passages.", path, "en", by, max_new_tokens, "Rajpurkar et al. 2016")


def _task(
    name: str,
    description: str,
    path: Path,
    language: str,
    by: Method,
    max_new_tokens: int,
    source: str,
    rules: Any = text_answer,
) -> EvalTask:
    if by not in ("head", "writing"):
        raise ConfigError(f"`by` must be head or writing, not {by!r}.")
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0, stop=("\n",))
    prompt = _PROMPTS[language]

    def requests(example: EvalExample) -> list[Request]:
        question, context = example.fields["question"], example.fields["context"]
        if by == "head":
            return [SpanRequest(question, context)]
        return [GenerateRequest(prompt.replace("{question}", question).replace("{context}", context), sampling)]

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        answer = outputs[0].text if by == "head" else outputs[0][0].text
        return dict(rules(example.fields["answers"], answer.strip()))

    def first(example: EvalExample) -> Scores:
        return dict(rules(example.fields["answers"], lead(example.fields["context"])))

    def likest(example: EvalExample) -> Scores:
        return dict(rules(example.fields["answers"], sentence_like(example.fields["question"], example.fields["context"])))

    return EvalTask(
        name=name,
        description=description,
        language=language,
        examples=Examples(lambda: _questions(path)),
        requests=requests,
        score=score,
        metrics=(Metric(name="f1", kind="mean", columns=("f1",)), Metric(name="exact_match", kind="share", columns=("exact_match",))),
        baselines=(Baseline("lead", first), Baseline("likest sentence", likest)),
        template="{question} [SEP] {context}" if by == "head" else prompt,
        source=f"{source}; lm-evaluation-harness 0.4.9 xquad_{language}" if by == "writing" else source,
        settings={"by": by, **({"max_new_tokens": max_new_tokens} if by == "writing" else {})},
        data=(path,),
    )


def _questions(path: Path) -> Iterator[EvalExample | BadRow]:
    """The questions of a file of SQuAD's format; what is missing in one place is a bad row, and the others are read on."""
    for article, at in _inside(json_of(path), "data", str(path)):
        for paragraph, place in _inside(article, "paragraphs", at):
            for asked, where in _inside(paragraph, "qas", place):
                yield asked if isinstance(asked, BadRow) else _question(asked, paragraph, path, place, where)


def _inside(data: Any, name: str, where: str) -> Iterator[tuple[Any, str]]:
    """The items of a list in a mapping, each with its place; one BadRow where there is no such list."""
    if isinstance(data, BadRow):
        yield data, where
    elif isinstance(data, dict) and isinstance(data.get(name), list):
        yield from ((item, f"{where}{'.' if '[' in where else ':'}{name}[{number}]") for number, item in enumerate(data[name]))
    else:
        yield BadRow(where, "missing field", f"no list `{name}`; SQuAD's format is data, paragraphs, qas, answers"), where


def _question(asked: Any, paragraph: Any, path: Path, place: str, where: str) -> EvalExample | BadRow:
    context = paragraph.get("context")
    if not isinstance(asked, dict) or not isinstance(asked.get("question"), str) or not isinstance(context, str):
        return BadRow(where, "missing field", "a question needs `question`, and its paragraph `context`, both text")
    if not asked["question"].strip() or not context.strip():
        return BadRow(where, "empty text", "`question` or `context` is empty")
    given = asked.get("answers")
    answers = [answer.get("text") for answer in given if isinstance(answer, dict)] if isinstance(given, list) else []
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        return BadRow(where, "missing field", "`answers` has no text")
    fields = {"question": asked["question"], "context": context, "answers": list(dict.fromkeys(answers))}
    name, source = (text.replace(str(path), path.name, 1) for text in (where, place))
    return EvalExample(name, source, fields, where)
