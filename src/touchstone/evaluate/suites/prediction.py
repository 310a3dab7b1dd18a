"""Predicting text: WikiText-2, LAMBADA, TinyStories, OpenWebText, Tang poems, CLUE, and any text of the user's.

Bits per byte compare models whatever their tokenizers; word perplexity is that of lm-evaluation-harness 0.4.9, for Chinese by character.
Beside them what bytes cost that are only counted: `unigram`, which learns the text's own bytes as it goes and needs no training text, and
`n-gram`, five bytes with Kneser-Ney smoothing, where a training split is given.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.ask import LoglikelihoodRequest, RollingRequest
from touchstone.evaluate.baselines import adaptive_byte_nats, byte_ngram
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.suites.tables import Row, Unusable, examples_of, json_of, rows_of
from touchstone.evaluate.task import BadRow, Baseline, EvalExample, EvalTask, Examples, Scores
from touchstone.text.read import read_documents
from touchstone.text.stream import Notes, byte_chunks, lines

__all__ = ["clue", "lambada", "openwebtext", "plain_text", "tang_poems", "tinystories", "wikitext2"]

Texts = Iterator[tuple[str, str] | BadRow]
"""A text and its `file:line`."""

_HARNESS = "lm-evaluation-harness 0.4.9"


def wikitext2(path: Path, *, train: Path | None = None, stride: int | None = None) -> EvalTask:
    """WikiText-2, tokenised form, an article a text, put back into written form as the harness does (Merity 2016).

    Bytes and words are those of the tokenised article, as in the harness. stride: of `LanguageModel.rolling`; None = disjoint windows.
    """
    return _text_task(
        "wikitext-2",
        "Wikipedia articles.",
        path,
        _articles,
        train,
        stride,
        source=f"{_HARNESS} wikitext; Merity et al. 2016",
        form=_written,
    )


def tinystories(path: Path, *, train: Path | None = None, stride: int | None = None) -> EvalTask:
    """TinyStories, parted by `<|endoftext|>`, or by empty lines in a file without it (Eldan & Li 2023)."""
    return _text_task("tinystories", "Children's stories.", path, _stories, train, stride, source="Eldan & Li 2023")


def tang_poems(path: Path, *, train: Path | None = None, stride: int | None = None) -> EvalTask:
    """Tang poems, traditional script; jsonl rows with title and paragraphs."""
    return _text_task("tang-poems", "Tang poems.", path, _poems, train, stride, source="chinese-poetry", language="zh")


def clue(path: Path, *, train: Path | None = None, stride: int | None = None) -> EvalTask:
    """CLUECorpusSmall: Chinese news, web texts, Wikipedia and comments, a line a text (Xu 2020)."""
    return _text_task("clue", "Chinese texts of several kinds.", path, _lines, train, stride, source="Xu et al. 2020", language="zh")


def plain_text(path: Path, *, train: Path | None = None, stride: int | None = None, language: str = "en") -> EvalTask:
    """Any text files that `touchstone evaluate --data` reads."""
    return _text_task("text", "Texts.", path, _documents, train, stride, source="given by path", language=language)


def openwebtext(path: Path, *, vocabulary: Path, stride: int | None = None) -> EvalTask:
    """OpenWebText as GPT-2's token ids in 16 bits, as nanoGPT writes them; every model reads the text that they stand for.

    vocabulary: GPT-2's, a json file of tokens with their numbers (`encoder.json`, `vocab.json`).
    """
    return _text_task(
        "openwebtext", "Web pages.", path, lambda place: _decoded(place, vocabulary), None, stride, source="Gokaslan & Cohen 2019"
    )


def lambada(path: Path) -> EvalTask:
    """The last word of a passage that needs the whole of it; jsonl rows with text (Paperno 2016; OpenAI's form).

    accuracy: the word's tokens are the likeliest, one by one. perplexity: of the whole word. Baselines: `copy`, a word of the passage at
    random; `copy name`, one of its capitalised words (both in the paper); `unigram` for the perplexity, bytes as they are counted.
    """

    def make(row: Row) -> EvalExample:
        before, _, last = row.text("text").rpartition(" ")
        if not before.strip() or not last.strip():
            raise Unusable("empty text", "`text` has no last word behind a space")
        return EvalExample(row.name, row.name, {"context": before, "last": last}, row.where)

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        return {"accuracy": float(outputs[0].is_greedy), "nats": -outputs[0].logprob, "n": 1.0}

    def copied(example: EvalExample, only_names: bool) -> Scores:
        words = Counter(word for word in re.findall(r"\w+", example.fields["context"]) if word[0].isupper() or not only_names)
        return {"accuracy": words[example.fields["last"]] / max(1, words.total())}

    def counted(example: EvalExample) -> Scores:
        return {"nats": adaptive_byte_nats(f" {example.fields['last']}", example.fields["context"]), "n": 1.0}

    return EvalTask(
        name="lambada",
        description="The last word of a passage that needs the whole of it.",
        language="en",
        examples=examples_of(path, rows_of, make),
        requests=lambda example: [LoglikelihoodRequest(example.fields["context"], f" {example.fields['last']}")],
        score=score,
        metrics=(
            Metric(name="accuracy", kind="share", columns=("accuracy",)),
            Metric(name="perplexity", kind="exp_ratio", columns=("nats", "n"), higher_is_better=False),
        ),
        baselines=(
            Baseline("copy", lambda example: copied(example, False), metrics=("accuracy",)),
            Baseline("copy name", lambda example: copied(example, True), metrics=("accuracy",)),
            Baseline("unigram", counted, metrics=("perplexity",)),
        ),
        template="{text without its last word} {last word}",
        source=f"{_HARNESS} lambada_openai; Paperno et al. 2016",
        data=(path,),
    )


def _text_task(
    name: str,
    description: str,
    path: Path,
    read: Callable[[Path], Texts],
    train: Path | None,
    stride: int | None,
    *,
    source: str,
    language: str = "en",
    form: Callable[[str], str] = str,
) -> EvalTask:
    """form: what is made of a text before it is read; its bytes and words are counted as it was."""
    unit = "word" if language == "en" else "character"

    def stream() -> Iterator[EvalExample | BadRow]:
        for found in read(path):
            if isinstance(found, BadRow):
                yield found
                continue
            text, where = found
            name_of = where.replace(str(path.parent), "", 1).lstrip("/")
            if text.strip():
                yield EvalExample(name_of, name_of, {"text": text}, where)
            else:
                yield BadRow(where, "empty text", "a text without any character but white space")

    def scores_of(example: EvalExample, nats: float) -> Scores:
        text = example.fields["text"]
        n_units = len(re.split(r"\s+", text)) if unit == "word" else sum(not char.isspace() for char in text)
        return {"nats": nats, "bits": nats / math.log(2), "bytes": float(len(text.encode())), "units": float(n_units)}

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        return scores_of(example, -outputs[0].logprob)

    baselines = [Baseline("unigram", lambda example: scores_of(example, adaptive_byte_nats(example.fields["text"])))]
    if train is not None:
        learned = functools.cache(lambda: byte_ngram(found[0] for found in read(train) if not isinstance(found, BadRow)))
        baselines.append(Baseline("n-gram", lambda example: scores_of(example, learned().nats(example.fields["text"]))))
    return EvalTask(
        name=name,
        description=description,
        language=language,
        examples=Examples(stream),
        requests=lambda example: [RollingRequest(form(example.fields["text"]), stride)],
        score=score,
        metrics=(
            Metric(name="bits_per_byte", kind="ratio", columns=("bits", "bytes"), higher_is_better=False),
            Metric(name=f"{unit}_perplexity", kind="exp_ratio", columns=("nats", "units"), higher_is_better=False),
        ),
        baselines=tuple(baselines),
        template="{text}",
        source=source,
        settings={"stride": stride, "n_gram": train is not None},
        data=(path,),
    )


def _articles(path: Path) -> Texts:
    """The articles of a file of WikiText: each begins at a heading ` = Title = `."""
    held: list[str] = []
    start = 1
    for number, line in lines(path, Notes()):
        if _HEADING.fullmatch(line) and held:
            if "".join(held).strip():
                yield "\n".join(held) + "\n", f"{path}:{start}"
            held, start = [], number
        held.append(line)
    if held:
        yield "\n".join(held) + "\n", f"{path}:{start}"


_HEADING = re.compile(r" = [^=].*[^=] = ?")

# What WikiText's tokens are put back into, in this order; the harness's list, so that its figures can be compared.
_WRITTEN = (
    (r"s '", "s'"),
    (r"/' [0-9]/", "/'[0-9]/"),
    *((f" @{mark}@ ".replace(".", r"\."), mark) for mark in "-,."),
    *((f" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)


def _written(text: str) -> str:
    for pattern, written in _WRITTEN:
        text = re.sub(pattern, written, text)
    return text


def _stories(path: Path) -> Texts:
    has_marks = any(_END in line for _, line in lines(path, Notes()))  # without them, an empty line ends a story
    held: list[str] = []
    start = 1
    for number, line in lines(path, Notes()):
        ends = _END in line if has_marks else not line.strip()
        if held and ends:
            yield "\n".join(held), f"{path}:{start}"
            held = []
        if not ends and (held or line.strip()):
            start = start if held else number
            held.append(line)
    if held:
        yield "\n".join(held), f"{path}:{start}"


def _poems(path: Path) -> Texts:
    for row in rows_of(path):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield "\n".join([row.text("title"), *row.texts("paragraphs")]), row.where
        except Unusable as error:
            yield BadRow(row.where, error.kind, error.reason)


def _lines(path: Path) -> Texts:
    return ((line, f"{path}:{number}") for number, line in lines(path, Notes()) if line.strip())


def _documents(path: Path) -> Texts:
    return ((document.text, document.place) for document in read_documents([path]))


def _decoded(path: Path, vocabulary: Path) -> Texts:
    data = b"".join(byte_chunks(path))
    if len(data) % 2:
        raise DataError(f"{path}: {len(data)} bytes are no 16-bit numbers.")
    ids, pieces = np.frombuffer(data, dtype="<u2").astype(np.int64), _pieces(vocabulary)
    if int(ids.max(initial=0)) >= len(pieces):
        raise ConfigError(f"{vocabulary}: has {len(pieces)} tokens, and {path.name} ids up to {int(ids.max())}; give GPT-2's vocabulary.")
    ends = np.flatnonzero(ids == pieces.index(None))
    for number, part in enumerate(np.split(ids, ends)):
        text = b"".join(piece for id in part.tolist() if (piece := pieces[id]) is not None).decode("utf-8", errors="replace")
        if text:
            yield text, f"{path}:{number + 1}"


def _pieces(vocabulary: Path) -> list[bytes | None]:
    """The bytes of each token of a byte-level vocabulary; None for the one that ends a text.

    GPT-2 writes a byte as the character of its number where that can be seen, and the others as characters from 256 up, in their order.
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    bytes_of = {chr(byte): byte for byte in seen}
    bytes_of |= {chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in set(seen))}
    ids = json_of(vocabulary)
    if not isinstance(ids, dict) or _END not in ids or sorted(ids.values()) != list(range(len(ids))):
        raise ConfigError(f"{vocabulary}: not GPT-2's vocabulary: tokens with numbers from 0 up, `{_END}` among them.")
    pieces: list[bytes | None] = [None] * len(ids)
    for token, id in ids.items():
        pieces[id] = None if token == _END else bytes(bytes_of[char] for char in token)
    return pieces


_END = "<|endoftext|>"
