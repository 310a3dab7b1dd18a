"""Named entities in sentences of tagged words: WNUT-17, Wikigold, BC5CDR, SEC filings, Weibo, resumes, and any column file.

The words are joined as text is written and tagged by the model; a word has the tag of its first character, as models are trained. F1 of
entities that are right in kind and both ends, and the share of right tags.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from touchstone.evaluate.ask import TagRequest
from touchstone.evaluate.figures import SPAN_COLUMNS, Metric
from touchstone.evaluate.scorers import tags
from touchstone.evaluate.task import Baseline, EvalExample, EvalTask, Examples, Scores
from touchstone.infer.labelling import Tagging
from touchstone.text.conll import TaggedWords, read_conll, scheme_of, spans_of, to_bio
from touchstone.text.tagged_rows import joined_words

__all__ = ["bc5cdr", "conll", "resumes", "sec_filings", "weibo", "wikigold", "wnut17"]


def wnut17(path: Path, *, train: Path | None = None) -> EvalTask:
    """WNUT-17: new and rare entities in social media (Derczynski 2017)."""
    return _task("wnut17", "Rare entities in social media.", path, train, "en", "Derczynski et al. 2017")


def wikigold(path: Path, *, train: Path | None = None) -> EvalTask:
    """Wikigold: people, places, organisations and others in Wikipedia (Balasuriya 2009)."""
    return _task("wikigold", "Entities in Wikipedia.", path, train, "en", "Balasuriya et al. 2009")


def bc5cdr(path: Path, *, train: Path | None = None) -> EvalTask:
    """BC5CDR: chemicals and diseases in abstracts (Li 2016)."""
    return _task("bc5cdr", "Chemicals and diseases in abstracts.", path, train, "en", "Li et al. 2016")


def sec_filings(path: Path, *, train: Path | None = None) -> EvalTask:
    """Financial agreements filed with the SEC (Salinas Alvarado 2015)."""
    return _task("sec-filings", "Entities in financial agreements.", path, train, "en", "Salinas Alvarado et al. 2015")


def weibo(path: Path, *, train: Path | None = None) -> EvalTask:
    """Weibo: named and nominal entities in Chinese messages; the file's characters end in their place in a word (Peng & Dredze 2015)."""
    return _task("weibo", "Entities in Chinese messages.", path, train, "zh", "Peng & Dredze 2015", numbered=True)


def resumes(path: Path, *, train: Path | None = None) -> EvalTask:
    """Chinese resumes, by character (Zhang & Yang 2018)."""
    return _task("resumes", "Entities in Chinese resumes.", path, train, "zh", "Zhang & Yang 2018")


def conll(path: Path, *, train: Path | None = None, language: str = "en") -> EvalTask:
    """Any column file of tagged words."""
    return _task("conll", "Entities in tagged sentences.", path, train, language, "given by path")


def _task(name: str, description: str, path: Path, train: Path | None, language: str, source: str, *, numbered: bool = False) -> EvalTask:
    def stream() -> Iterator[EvalExample]:
        for sentence in read_conll([path]):
            text, starts = joined_words(_words(sentence, numbered))
            fields = {"text": text, "starts": starts, "tags": list(sentence.tags)}
            name_of = f"{path.name}:{sentence.place.rpartition(':')[2]}"
            yield EvalExample(name_of, name_of, fields, sentence.place)

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        return tags(example.fields["tags"], word_tags(outputs[0], example.fields["starts"]))

    baselines = [Baseline("majority", lambda example: tags(example.fields["tags"], ["O"] * len(example.fields["tags"])))]
    if train is not None:
        known = functools.cache(lambda: _memory([(_words(each, numbered), each.tags) for each in read_conll([train])]))
        baselines.append(Baseline("memory", lambda example: tags(example.fields["tags"], _recalled(example, known()))))
    return EvalTask(
        name=name,
        description=description,
        language=language,
        examples=Examples(stream),
        requests=lambda example: [TagRequest(example.fields["text"])],
        score=score,
        metrics=(
            Metric(name="entity_f1", kind="span_f1", columns=SPAN_COLUMNS),
            Metric(name="tag_accuracy", kind="ratio", columns=("n_right_tags", "n_tags")),
        ),
        baselines=tuple(baselines),
        template="{words}",
        source=source,
        settings={"memory": train is not None},
        data=(path,),
    )


def word_tags(found: Tagging, starts: Sequence[int]) -> tuple[str, ...]:
    """The tag of each of the data's words, in BIO: that of the model's word which begins where it does, or `O`."""
    at = {word.start: word.label for word in found.words}
    given = [at.get(start, "O") for start in starts]
    scheme = scheme_of([[word.label for word in found.words]])
    return to_bio(given, scheme)[0] if scheme != "plain" else tuple(given)


def _words(sentence: TaggedWords, numbered: bool) -> list[str]:
    """The words; numbered: each ends in a digit that is no part of it."""
    return [re.sub(r"(?<=.)\d$", "", word) for word in sentence.words] if numbered else list(sentence.words)


def _memory(sentences: Sequence[tuple[Sequence[str], Sequence[str]]]) -> dict[tuple[str, ...], str]:
    """The entities of the training split with the kind that each has most often."""
    seen: dict[tuple[str, ...], Counter[str]] = {}
    for words, given in sentences:
        for first, behind, kind in spans_of(given):
            seen.setdefault(tuple(words[first:behind]), Counter())[kind] += 1
    return {words: max(sorted(kinds), key=lambda kind: kinds[kind]) for words, kinds in seen.items()}


def _recalled(example: EvalExample, known: dict[tuple[str, ...], str]) -> list[str]:
    """The longest known entities from left to right."""
    text, starts = example.fields["text"], [*example.fields["starts"], len(example.fields["text"]) + 1]
    words = [text[a:b].strip() for a, b in pairwise(starts)]
    longest = max(map(len, known), default=0)
    found: list[str] = []
    while len(found) < len(words):
        place = len(found)
        n = next((n for n in range(min(longest, len(words) - place), 0, -1) if tuple(words[place : place + n]) in known), 0)
        kind = known.get(tuple(words[place : place + n]))
        found += ["O"] if kind is None else [f"B-{kind}", *[f"I-{kind}"] * (n - 1)]
    return found
