"""Texts that a model writes from texts: translation (Multi30k, Tatoeba) and summaries (DialogSum, SciTLDR, titles of CSL).

An encoder-decoder reads the text alone (`by` source); a language model goes on from a prompt (`by` prompt), up to the end of the line.
The prompt of translation is the one lm-evaluation-harness 0.4.9 uses for WMT, with the languages' names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from touchstone.errors import ConfigError
from touchstone.evaluate.ask import GenerateRequest, Request
from touchstone.evaluate.baselines import lead, sentences_of
from touchstone.evaluate.figures import BLEU_COLUMNS, CHRF_COLUMNS, Metric
from touchstone.evaluate.scorers import overlap, translation
from touchstone.evaluate.suites.tables import Row, examples_of, rows_of
from touchstone.evaluate.task import BadRow, Baseline, EvalExample, EvalTask, Examples, Scores
from touchstone.infer.request import Sampling
from touchstone.text.stream import Notes, lines

__all__ = ["csl_titles", "dialogsum", "multi30k", "scitldr", "tatoeba"]

Method = Literal["source", "prompt"]

_NAMES = {"en": "English", "de": "German", "fr": "French", "zh": "Chinese"}


def multi30k(path: Path, *, target: str = "de", by: Method = "source", max_new_tokens: int = 80, num_beams: int = 1) -> EvalTask:
    """Captions from English; `path` is the English file, such as `val.en.gz`, the target's stands beside it (Elliott 2016)."""
    if target not in ("de", "fr"):
        raise ConfigError(f"`target` must be de or fr, not {target!r}.")
    other = path.with_name(path.name.replace(".en", f".{target}"))
    return _translation(
        f"multi30k-en-{target}",
        f"Captions of pictures from English to {_NAMES[target]}.",
        Examples(lambda: _parallel(path, other)),
        ("en", target),
        by,
        max_new_tokens,
        num_beams,
        "Elliott et al. 2016",
        (path, other),
    )


def tatoeba(path: Path, *, by: Method = "source", max_new_tokens: int = 80, num_beams: int = 1) -> EvalTask:
    """Short sentences from English to Chinese; lines of English, tab, Chinese. All translations of a sentence are its references."""
    return _translation(
        "tatoeba-en-zh",
        "Short sentences from English to Chinese.",
        Examples(lambda: _grouped(path)),
        ("en", "zh"),
        by,
        max_new_tokens,
        num_beams,
        "Tatoeba",
        (path,),
    )


def dialogsum(path: Path, *, by: Method = "source", max_new_tokens: int = 80, num_beams: int = 1) -> EvalTask:
    """Summaries of everyday dialogues; jsonl rows with dialogue and summary (Chen 2021)."""
    return _summaries(
        "dialogsum",
        "Summaries of everyday dialogues.",
        path,
        rows_of,
        ("dialogue", "summary"),
        "{text}\n\nSummary:",
        2,
        by,
        max_new_tokens,
        num_beams,
        "Chen et al. 2021",
    )


def scitldr(path: Path, *, by: Method = "source", max_new_tokens: int = 80, num_beams: int = 1) -> EvalTask:
    """One-sentence summaries of abstracts; jsonl rows with source and target, several targets a row (Cachola 2020)."""
    return _summaries(
        "scitldr",
        "One-sentence summaries of abstracts.",
        path,
        rows_of,
        ("source", "target"),
        "{text}\n\nTL;DR:",
        1,
        by,
        max_new_tokens,
        num_beams,
        "Cachola et al. 2020",
    )


def csl_titles(path: Path, *, by: Method = "source", max_new_tokens: int = 48, num_beams: int = 1) -> EvalTask:
    """Titles of Chinese papers from their abstracts; lines of task, abstract, title (Li 2022)."""
    return _summaries(
        "csl-titles",
        "Titles of Chinese papers from their abstracts.",
        path,
        lambda place: rows_of(place, ("task", "source", "target")),
        ("source", "target"),
        "{text}\n\n标题：",
        1,
        by,
        max_new_tokens,
        num_beams,
        "Li et al. 2022",
        language="zh",
    )


def _translation(
    name: str,
    description: str,
    examples: Iterable[EvalExample | BadRow],
    languages: tuple[str, str],
    by: Method,
    max_new_tokens: int,
    num_beams: int,
    source: str,
    data: Sequence[Path],
) -> EvalTask:
    first, second = (_NAMES[language] for language in languages)

    def score_of(example: EvalExample, text: str) -> Scores:
        return translation(example.fields["references"], text, language=languages[1])

    return _writing(
        name,
        description,
        examples,
        languages[1],
        f"{first} phrase: {{text}}\n{second} phrase:",
        by,
        max_new_tokens,
        num_beams,
        f"lm-evaluation-harness 0.4.9 wmt; {source}",
        data,
        score_of,
        (
            Metric(name="bleu", kind="bleu", columns=BLEU_COLUMNS, language=languages[1]),
            Metric(name="chrf", kind="chrf", columns=CHRF_COLUMNS),
        ),
        {"copy": lambda example: example.fields["text"]},
    )


def _summaries(
    name: str,
    description: str,
    path: Path,
    read: Callable[[Path], Iterable[Row | BadRow]],
    fields: tuple[str, str],
    prompt: str,
    n_lead: int,
    by: Method,
    max_new_tokens: int,
    num_beams: int,
    source: str,
    language: str = "en",
) -> EvalTask:
    def make(row: Row) -> EvalExample:
        parts = [" ".join(row.texts(field)) if isinstance(row.fields.get(field), list) else row.text(field) for field in fields[:1]]
        wanted = row.texts(fields[1]) if isinstance(row.fields.get(fields[1]), list) else [row.text(fields[1])]
        return EvalExample(row.name, row.name, {"text": parts[0], "references": wanted}, row.where)

    return _writing(
        name,
        description,
        examples_of(path, read, make),
        language,
        prompt,
        by,
        max_new_tokens,
        num_beams,
        source,
        (path,),
        lambda example, text: overlap(example.fields["references"], text),
        tuple(Metric(name=metric, kind="mean", columns=(metric,)) for metric in ("rouge_1", "rouge_2", "rouge_l")),
        {
            "lead": lambda example: lead(example.fields["text"], n_lead),
            "last": lambda example: sentences_of(example.fields["text"])[-1],
        },
    )


def _writing(
    name: str,
    description: str,
    examples: Iterable[EvalExample | BadRow],
    language: str,
    prompt: str,
    by: Method,
    max_new_tokens: int,
    num_beams: int,
    source: str,
    data: Sequence[Path],
    score_of: Callable[[EvalExample, str], Scores],
    metrics: tuple[Metric, ...],
    trivial: Mapping[str, Callable[[EvalExample], str]],
) -> EvalTask:
    if by not in ("source", "prompt"):
        raise ConfigError(f"`by` must be source or prompt, not {by!r}.")
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0, num_beams=num_beams)
    if by == "prompt":
        sampling = sampling.replace(stop=("\n",))
    template = "{text}" if by == "source" else prompt

    def requests(example: EvalExample) -> list[Request]:
        return [GenerateRequest(template.replace("{text}", example.fields["text"]), sampling)]

    def baseline(answer: Callable[[EvalExample], str]) -> Callable[[EvalExample], Scores]:
        return lambda example: score_of(example, answer(example))

    return EvalTask(
        name=name,
        description=description,
        language=language,
        examples=examples,
        requests=requests,
        score=lambda example, outputs: score_of(example, _text(outputs)),
        metrics=metrics,
        baselines=tuple(Baseline(key, baseline(answer)) for key, answer in trivial.items()),
        template=template,
        source=source,
        settings={"by": by, "max_new_tokens": max_new_tokens, "num_beams": num_beams},
        data=tuple(data),
    )


def _text(outputs: Sequence[Any]) -> str:
    return str(outputs[0][0].text).strip()


def _parallel(source: Path, target: Path) -> Iterator[EvalExample | BadRow]:
    for first, second in zip_longest(lines(source, Notes()), lines(target, Notes())):
        number = (first or second)[0]
        where = f"{source}:{number}"
        if first is None or second is None:
            short = source.name if first is None else target.name
            yield BadRow(where, "missing field", f"`{short}` has no such line")
        elif not first[1].strip() or not second[1].strip():
            yield BadRow(where, "empty text", "one side has no text")
        else:
            name = f"{source.name}:{number}"
            yield EvalExample(name, name, {"text": first[1], "references": [second[1]]}, where)


def _grouped(path: Path) -> Iterator[EvalExample | BadRow]:
    """Lines of one English sentence stand together; another group of the same sentence further on is an example of the same cluster."""
    held: list[Row] = []
    for row in rows_of(path, ("en", "zh")):
        if isinstance(row, BadRow):
            yield row
        elif not row.fields["en"].strip() or not row.fields["zh"].strip():
            yield BadRow(row.where, "empty text", "one side has no text")
        else:
            if held and held[0].fields["en"] != row.fields["en"]:
                yield _group(held)
                held = []
            held.append(row)
    if held:
        yield _group(held)


def _group(rows: Sequence[Row]) -> EvalExample:
    english = rows[0].fields["en"]
    references = list(dict.fromkeys(row.fields["zh"] for row in rows))
    return EvalExample(rows[0].name, english, {"text": english, "references": references}, rows[0].where)
