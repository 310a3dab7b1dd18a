"""The benchmarks by name: what each asks, of which kind of model, and where its files lie in a folder of data.

To add one: a function in the module of its kind, and a row here.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from touchstone.config import unknown_name
from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.suites import choosing, classes, entity_tags, passages, prediction, programs, sentences, writing_suites
from touchstone.evaluate.task import EvalTask
from touchstone.infer.language_model import LanguageModel

__all__ = ["SUITES", "Suite", "suite_task"]

_LANGUAGE_MODEL = "a language model"
_ANSWERS_OR_HEAD = {"head": "classify", "answers": "loglikelihood"}
_HEAD_OR_WRITING = {"head": "span", "writing": "generate"}
_SOURCE_OR_PROMPT = {"source": "source", "prompt": "generate"}


@dataclass(frozen=True)
class Suite:
    """One benchmark. needs: the kind of model, in words.

    files: where its arguments lie below a folder of data, such as {"path": "benchmarks/piqa.jsonl.gz"}; what may be missing is in
    `optional`. ways: of asking (`by`), each with the ability it needs, the preferred one first; empty = there is one way.
    """

    make: Callable[..., EvalTask]
    description: str
    language: str
    needs: str
    files: Mapping[str, str]
    optional: frozenset[str] = frozenset({"train"})
    ways: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def task(self, data: Path, *, model: LanguageModel | None = None, shots: int = 0, **options: Any) -> EvalTask:
        """The task over the files of a folder, or over the one file given.

        model: chooses the way of asking where there are several and `by` is not given. shots: examples with answers before each question.
        options: other arguments of the benchmark's function. Raises ConfigError for what it does not take, DataError for files that are
        not there.
        """
        if shots:
            options["shots"] = shots
        known = inspect.signature(self.make).parameters
        foreign = [name for name in options if name not in known]
        if foreign:
            settable = [name for name in known if name not in self.files]
            raise ConfigError(f"`{self.make.__name__}` takes no `{foreign[0]}`; it takes {', '.join(settable) or 'its file only'}.")
        if self.ways and "by" not in options and model is not None:
            options["by"] = self.way(model)
        return self.make(**{**self.fixed, **self._files(data), **options})

    def way(self, model: LanguageModel) -> str:
        """The first way of asking that the model is able to answer; the last one, to fail with its reason, if it is able to none."""
        able = set(model.can) | ({"source"} if _reads_sources(model) else set())
        return next((way for way, ability in self.ways.items() if ability in able), list(self.ways)[-1])

    def _files(self, data: Path) -> dict[str, Path]:
        if not self.files:
            return {}
        if data.is_file():
            others = [name for name in self.files if name != "path" and name not in self.optional]
            if others:
                raise ConfigError(f"{data}: this benchmark also reads {', '.join(others)}; give the folder that holds {self._listed()}.")
            return {"path": data}
        found, missing = {}, []
        for name, place in self.files.items():
            there = next((path for path in (data / place, data / Path(place).name) if path.exists()), None)
            if there is not None:
                found[name] = there
            elif name not in self.optional:
                missing.append(place)
        if missing:
            raise DataError(f"{data}: neither {' nor '.join(missing)} is there, nor the file's name alone; give the file, or its folder.")
        return found

    def _listed(self) -> str:
        return ", ".join(self.files.values())


def suite_task(
    name: str, data: Path | str | None = None, *, model: LanguageModel | None = None, shots: int = 0, **options: Any
) -> EvalTask:
    """A benchmark by its name; see `Suite.task`. data: None for one that brings its own. Raises UnknownName for no such name."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    suite = SUITES[name]
    if data is None and suite.files:
        raise ConfigError(f"`{name}` reads {suite._listed()}; give the file, or the folder they lie in.")
    return suite.task(Path(data) if data is not None else Path(), model=model, shots=shots, **options)


def _reads_sources(model: LanguageModel) -> bool:
    return getattr(model.spec, "encoder", None) is not None and getattr(model.spec, "decoder", None) is not None


def _text(make: Callable[..., EvalTask], description: str, path: str, train: str | None = None, language: str = "en", **more: Any) -> Suite:
    files = {"path": path, **({"train": train} if train else {}), **more.pop("files", {})}
    return Suite(make, description, language, _LANGUAGE_MODEL, files, **more)


def _choice(make: Callable[..., EvalTask], description: str, path: str, **more: Any) -> Suite:
    return Suite(make, description, more.pop("language", "en"), _LANGUAGE_MODEL, {"path": path, **more.pop("files", {})}, **more)


def _classes(make: Callable[..., EvalTask], description: str, path: str, train: str | None = None, language: str = "en") -> Suite:
    files = {"path": path, **({"train": train} if train else {})}
    return Suite(make, description, language, "a language model, or a classifier of its labels", files, ways=_ANSWERS_OR_HEAD)


def _passages(make: Callable[..., EvalTask], description: str, path: str, language: str) -> Suite:
    return Suite(make, description, language, "a model with a span head, or a language model", {"path": path}, ways=_HEAD_OR_WRITING)


def _tags(make: Callable[..., EvalTask], description: str, path: str, train: str | None, language: str = "en") -> Suite:
    files = {"path": path, **({"train": train} if train else {})}
    return Suite(make, description, language, "a tagger of its entities", files)


def _writing(make: Callable[..., EvalTask], description: str, path: str, language: str, **fixed: Any) -> Suite:
    needs = "an encoder-decoder, or a language model"
    return Suite(make, description, language, needs, {"path": path}, ways=_SOURCE_OR_PROMPT, fixed=fixed)


SUITES: Mapping[str, Suite] = {
    "wikitext-2": _text(prediction.wikitext2, "Wikipedia articles.", "lm_text/wikitext2/valid.txt"),
    "tinystories": _text(prediction.tinystories, "Children's stories.", "lm_text/tinystories/train.txt.gz"),
    "openwebtext": _text(
        prediction.openwebtext,
        "Web pages, kept as GPT-2's tokens.",
        "lm_text/openwebtext_gpt2/train.bin.gz",
        files={"vocabulary": "tokenizers/gpt2/encoder.json"},
    ),
    "tang-poems": _text(prediction.tang_poems, "Tang poems.", "lm_text/zh/tang_poems.jsonl.gz", language="zh"),
    "clue": _text(prediction.clue, "Chinese texts of several kinds.", "lm_text/zh/cluecorpussmall.txt.gz", language="zh"),
    "lambada": _choice(prediction.lambada, "The last word of a passage that needs the whole of it.", "benchmarks/lambada.jsonl.gz"),
    "hellaswag": _choice(choosing.hellaswag, "How a described scene goes on, one of four endings.", "benchmarks/hellaswag.jsonl.gz"),
    "arc-easy": _choice(choosing.arc_easy, "School science questions.", "benchmarks/arc_easy.jsonl.gz"),
    "piqa": _choice(choosing.piqa, "Which of two ways reaches a goal in the physical world.", "benchmarks/piqa.jsonl.gz"),
    "winogrande": _choice(choosing.winogrande, "Which of two names a sentence goes on about.", "benchmarks/winogrande.jsonl.gz"),
    "copa": _choice(choosing.copa, "Which of two sentences is the cause, or the effect.", "benchmarks/fewglue/COPA/train.jsonl"),
    "truthfulqa": _choice(choosing.truthfulqa, "Whether true answers are likelier than common errors.", "benchmarks/truthfulqa.csv.gz"),
    "probes": Suite(choosing.probes, "Small probes of what a young model learns.", "en, zh", _LANGUAGE_MODEL, {}),
    "probes-en": Suite(choosing.probes, "The English probes.", "en", _LANGUAGE_MODEL, {}, fixed={"language": "en"}),
    "probes-zh": Suite(choosing.probes, "The Chinese probes.", "zh", _LANGUAGE_MODEL, {}, fixed={"language": "zh"}),
    "cola": _classes(sentences.cola, "Whether a sentence is English.", "benchmarks/cola/val.tsv.gz", "benchmarks/cola/train.tsv.gz"),
    "rte": _classes(sentences.rte, "Whether a text entails a sentence.", "benchmarks/rte/train.jsonl.gz"),
    "sts-b": Suite(
        sentences.stsb,
        "How alike two sentences are.",
        "en",
        "an encoder, or a regression head",
        {"path": "benchmarks/stsb/sts-dev.csv.gz"},
        ways={"head": "classify", "vectors": "encode"},
    ),
    "sst-2": _classes(
        classes.sst2, "Whether a sentence on a film is positive.", "classification/sst2/dev.tsv", "classification/sst2/train.tsv"
    ),
    "trec": _classes(
        classes.trec, "What kind of thing a question asks for.", "classification/trec/dev.txt", "classification/trec/train.txt"
    ),
    "ag-news": _classes(
        classes.ag_news, "The section of a news item.", "classification/ag_news/dev.csv.gz", "classification/ag_news/train.csv.gz"
    ),
    "banking77": _classes(
        classes.banking77,
        "What a bank's customer wants, of 77 intents.",
        "classification/banking77/dev.csv.gz",
        "classification/banking77/train.csv.gz",
    ),
    "clinc150": _classes(
        classes.clinc150, "What a user wants, of 150 intents, or something out of scope.", "classification/clinc150/train_val.json.gz"
    ),
    "chnsenticorp": _classes(
        classes.chnsenticorp,
        "Whether a review of a hotel, book or laptop is positive.",
        "classification/zh_chnsenticorp/dev.tsv.gz",
        "classification/zh_chnsenticorp/train.tsv.gz",
        "zh",
    ),
    "xquad-en": _passages(passages.xquad_en, "Questions on English Wikipedia paragraphs.", "qa/xquad_en/train.json.gz", "en"),
    "xquad-zh": _passages(passages.xquad_zh, "The same questions and paragraphs in Chinese.", "qa/xquad_zh/train.json.gz", "zh"),
    "cmrc2018": _passages(passages.cmrc2018, "Questions on Chinese Wikipedia paragraphs.", "qa/cmrc2018/trial.json.gz", "zh"),
    "wnut17": _tags(entity_tags.wnut17, "Rare entities in social media.", "ner/wnut17/dev.conll.gz", "ner/wnut17/train.conll.gz"),
    "wikigold": _tags(entity_tags.wikigold, "Entities in Wikipedia.", "ner/wikigold/train.conll.gz", None),
    "bc5cdr": _tags(entity_tags.bc5cdr, "Chemicals and diseases in abstracts.", "ner/bc5cdr/devel.tsv.gz", "ner/bc5cdr/train.tsv.gz"),
    "sec-filings": _tags(entity_tags.sec_filings, "Entities in financial agreements.", "ner/sec_filings_fin/train_FIN5.conll.gz", None),
    "weibo": _tags(entity_tags.weibo, "Entities in Chinese messages.", "ner/zh_weibo/dev.conll.gz", "ner/zh_weibo/train.conll.gz", "zh"),
    "resumes": _tags(
        entity_tags.resumes, "Entities in Chinese resumes.", "ner/zh_resume/dev.char.bmes.gz", "ner/zh_resume/train.char.bmes.gz", "zh"
    ),
    "multi30k-de": _writing(writing_suites.multi30k, "Captions from English to German.", "translation/multi30k/val.en.gz", "en, de"),
    "multi30k-fr": _writing(
        writing_suites.multi30k, "Captions from English to French.", "translation/multi30k/val.en.gz", "en, fr", target="fr"
    ),
    "tatoeba-en-zh": _writing(
        writing_suites.tatoeba, "Short sentences from English to Chinese.", "translation/tatoeba_en_zh/train.tsv.gz", "en, zh"
    ),
    "dialogsum": _writing(writing_suites.dialogsum, "Summaries of everyday dialogues.", "summarisation/dialogsum/dev.jsonl.gz", "en"),
    "scitldr": _writing(writing_suites.scitldr, "One-sentence summaries of abstracts.", "summarisation/scitldr_a/dev.jsonl.gz", "en"),
    "csl-titles": _writing(
        writing_suites.csl_titles, "Titles of Chinese papers from their abstracts.", "summarisation/zh_csl_title/dev.tsv.gz", "zh"
    ),
    "humaneval": _choice(programs.humaneval, "Bodies of Python functions from their heads.", "benchmarks/humaneval.jsonl.gz"),
    "mbpp": _choice(programs.mbpp, "Short Python programs from a sentence and its tests.", "benchmarks/mbpp/train_val_prompt.jsonl.gz"),
}
"""All there are. Files that the common data sets call `train` are what a copy may hold; any file of the same form can be given."""
