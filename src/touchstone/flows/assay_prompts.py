"""How much a model's answers hang on the wording of a prompt: one classification, asked in many ways.

From one plain way - the first template, the first label words, no examples - one thing is changed at a time: the template, the words of
the labels, or the order of four examples put before the question. Every way is asked the same questions; the examples are none of them.
Accuracy differs between ways by chance, too, so the best and the worst are compared on the same questions by McNemar's exact test,
its p-value times the number of pairs of ways (Bonferroni).
Sources: Lu et al. 2022 (the order of examples); Zhao et al. 2021 (label words); Sclar et al. 2024 (formats).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchstone.errors import DataError
from touchstone.evaluate.probes import load_probes
from touchstone.files import sha256_bytes
from touchstone.flows.assay_parts import Subject, ask
from touchstone.flows.comparison import interval_dict
from touchstone.stats import clopper_pearson, mcnemar_exact
from touchstone.text.labelled import LabelledText
from touchstone.text.token_kinds import is_unspaced

__all__ = ["Item", "Prompts", "Way", "probe_items", "row_items", "spread", "ways_of"]

N_SHOTS = 4
_ORDERS = 4
_MOST_LABELS = 20  # beyond, a question costs too many answers


@dataclass(frozen=True)
class Wording:
    """The ways to ask for one set of labels. words: by label, what is answered, with the space before it where the script has one."""

    templates: tuple[str, ...]
    words: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Item:
    """A text with its label, to be asked for by a wording."""

    id: str
    text: str
    label: str
    wording: Wording


@dataclass(frozen=True)
class Way:
    """axis: what is changed from the plain way (plain, template, words, order); number: which of these, from 1."""

    axis: str
    number: int
    template: int = 0
    words: int = 0
    order: int | None = None


class Prompts:
    """The spread of accuracy over ways to ask: on given labelled rows, else on our label probes."""

    name = "prompts"

    def lacks(self, subject: Subject) -> str | None:
        if "loglikelihood" not in subject.model.can:
            return "no_loglikelihood"
        if subject.model.tokenizer is None:
            return "no_tokenizer"
        n_labels = len({row.label for row in subject.material.labelled})
        if n_labels > _MOST_LABELS:
            return "many_labels"
        return "one_label" if n_labels == 1 else None

    def amount(self, subject: Subject) -> dict[str, int]:
        items = _items(subject)
        _, questions = _divided(items, subject.bounds.n_prompted)
        return {"questions": len(questions), "ways": len(ways_of(items))}

    def measure(self, subject: Subject) -> dict[str, Any]:
        items = _items(subject)
        shots, questions = _divided(items, subject.bounds.n_prompted)
        ways = ways_of(items)
        right: list[list[bool | None]] = []
        n_cut = 0
        for way in ways:
            found = ask(subject.model, [_question(way, item, shots) for item in questions])
            n_cut += sum(answers is not None and answers.n_truncated > 0 for answers in found)
            right.append(
                [
                    None if answers is None else answers.best == _labels(item).index(item.label)
                    for item, answers in zip(questions, found, strict=True)
                ]
            )
        asked = [place for place in range(len(questions)) if all(of_way[place] is not None for of_way in right)]
        if not asked:
            raise DataError("The model can tell the label words of no question apart: its tokenizer spells them alike.")
        table = np.array([[bool(of_way[place]) for place in asked] for of_way in right])
        return {
            "on": "rows" if subject.material.labelled else "probes",
            "n_refused": len(questions) - len(asked),
            "n_cut": n_cut,
            "chance": float(np.mean([1 / len(_labels(questions[place])) for place in asked])),
            **spread(ways, table),
        }


def spread(ways: Sequence[Way], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Plain data of which questions each way gets right: (W, N).

    n_same: questions that all ways get right, or all wrong. p_value: that the best and the worst way are equally good.
    """
    n = right.shape[1]
    shares = right.mean(axis=1)
    best, worst = right[int(shares.argmax())], right[int(shares.argmin())]
    pairs = len(ways) * (len(ways) - 1) // 2
    p_value = mcnemar_exact(int((best & ~worst).sum()), int((worst & ~best).sum()))
    axes = [axis for axis in ("template", "words", "order") if any(way.axis == axis for way in ways)]
    by_axis = {axis: [share for way, share in zip(ways, shares.tolist(), strict=True) if way.axis in _beside(axis)] for axis in axes}
    return {
        "n": n,
        "ways": [
            {"axis": way.axis, "number": way.number, "accuracy": interval_dict(clopper_pearson(int(row.sum()), n))}
            for way, row in zip(ways, right, strict=True)
        ],
        **_three(shares.tolist()),
        "by_axis": {axis: _three(values) for axis, values in by_axis.items()},
        "n_same": int((right.all(axis=0) | ~right.any(axis=0)).sum()),
        "p_value": min(1.0, p_value * max(1, pairs)),
    }


def ways_of(items: Sequence[Item]) -> list[Way]:
    """The plain way, and one change at a time; no more than every wording has."""
    n_templates, n_words = (min(len(getattr(item.wording, name)) for item in items) for name in ("templates", "words"))
    return [
        Way("plain", 1),
        *(Way("template", number, template=number) for number in range(1, n_templates)),
        *(Way("words", number, words=number) for number in range(1, n_words)),
        *(Way("order", number + 1, order=number) for number in range(_ORDERS)),
    ]


def probe_items() -> list[Item]:
    """Our label probes: reviews and topics, in English and in Chinese."""
    found = []
    for probe in load_probes("label"):
        labels = frozenset(answer.strip() for answer in probe.answers)
        first = probe.context.partition("\n")[0]
        text = first.partition("：" if probe.language == "zh" else ": ")[2]
        found.append(Item(probe.id, text, probe.answers[probe.right].strip(), _PROBE_WORDINGS[labels]))
    return found


def row_items(rows: Sequence[LabelledText]) -> list[Item]:
    """Given rows; the labels' own names are the words, written in several ways."""
    labels = tuple(dict.fromkeys(sorted(row.label for row in rows)))
    is_chinese = sum(is_unspaced(row.text[:1]) for row in rows) > len(rows) / 2
    templates = _ROW_TEMPLATES_ZH if is_chinese else _ROW_TEMPLATES
    space = "" if is_chinese else " "
    spellings = [{label: space + spell(label) for label in labels} for spell in _SPELLINGS]
    words = [each for place, each in enumerate(spellings) if len(set(each.values())) == len(labels) and each not in spellings[:place]]
    wording = Wording(templates, tuple(words))
    return [Item(row.place, row.text if row.second is None else f"{row.text}\n{row.second}", row.label, wording) for row in rows]


def _items(subject: Subject) -> list[Item]:
    return row_items(subject.material.labelled) if subject.material.labelled else probe_items()


def _divided(items: Sequence[Item], n: int) -> tuple[dict[int, list[Item]], list[Item]]:
    """Examples by wording, and at most n questions: both those whose names hash first, an example of every label as far as they go."""
    ranked = sorted(items, key=lambda item: sha256_bytes(item.id.encode()))
    shots: dict[int, list[Item]] = {}
    for item in _by_turns(ranked):
        mine = shots.setdefault(id(item.wording), [])
        if len(mine) < N_SHOTS:
            mine.append(item)
    taken = {item.id for mine in shots.values() for item in mine}
    return shots, [item for item in ranked if item.id not in taken][:n]


def _by_turns(items: Sequence[Item]) -> Iterator[Item]:
    """The labels of a wording take turns."""
    seen: dict[tuple[int, str], int] = {}
    turns = []
    for place, item in enumerate(items):
        key = (id(item.wording), item.label)
        seen[key] = seen.get(key, -1) + 1
        turns.append((seen[key], place, item))
    return (item for _, _, item in sorted(turns, key=lambda turn: turn[:2]))


def _question(way: Way, item: Item, shots: Mapping[int, Sequence[Item]]) -> tuple[str, list[str]]:
    words = item.wording.words[way.words]
    template = item.wording.templates[way.template]
    before = [] if way.order is None else _ordered(shots[id(item.wording)], way.order)
    shown = [template.replace("{text}", shot.text) + words[shot.label] for shot in before]
    context = "\n\n".join([*shown, template.replace("{text}", item.text)])
    return context, [words[label] for label in _labels(item)]


def _ordered(shots: Sequence[Item], order: int) -> list[Item]:
    """As drawn, turned round, or by a hash of the order's number."""
    if order < 2:
        return list(shots if order == 0 else reversed(shots))
    return sorted(shots, key=lambda item: sha256_bytes(f"{order} {item.id}".encode()))


def _labels(item: Item) -> list[str]:
    return list(item.wording.words[0])


def _beside(axis: str) -> tuple[str, ...]:
    """The ways that differ in one thing alone; orders are compared with each other, not with asking without examples."""
    return (axis,) if axis == "order" else ("plain", axis)


def _three(values: Sequence[float]) -> dict[str, float]:
    return {"min": float(min(values)), "median": float(np.median(values)), "max": float(max(values))}


_SPELLINGS = (str, str.lower, str.upper, str.capitalize, lambda label: f'"{label}"')

_ROW_TEMPLATES = (
    "Text: {text}\nLabel:",
    "{text}\nLabel:",
    "Text: {text}\nThe label of this text is",
    "Question: Which label fits this text?\nText: {text}\nAnswer:",
)
_ROW_TEMPLATES_ZH = (
    "文本：{text}\n标签：",
    "{text}\n标签：",
    "文本：{text}\n这段文本的标签是",
    "问题：下面的文本属于哪一类？\n文本：{text}\n回答：",
)


def _plain(*labels: str) -> dict[str, str]:
    return {label: f" {label}" for label in labels}


def _same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


_PROBE_WORDINGS: dict[frozenset[str], Wording] = {
    frozenset(wording.words[0]): wording
    for wording in (
        Wording(
            (
                "Review: {text}\nThis review is",
                "{text}\nThe opinion above is",
                "Review: {text}\nSentiment:",
                "Question: Is this review positive or negative?\nReview: {text}\nAnswer:",
            ),
            (_plain("positive", "negative"), {"positive": " good", "negative": " bad"}, {"positive": " Positive", "negative": " Negative"}),
        ),
        Wording(
            (
                "Text: {text}\nTopic:",
                "{text}\nThis text is about",
                "Article: {text}\nCategory:",
                "Question: What is this text about?\nText: {text}\nAnswer:",
            ),
            (
                _plain("music", "food", "sport", "weather"),
                {"music": " songs", "food": " cooking", "sport": " games", "weather": " climate"},
                {"music": " Music", "food": " Food", "sport": " Sport", "weather": " Weather"},
            ),
        ),
        Wording(
            (
                "评论：{text}\n情感：",
                "{text}\n以上评论是",
                "评论：{text}\n态度：",
                "问题：下面的评论是正面还是负面？\n评论：{text}\n回答：",
            ),
            (_same("正面", "负面"), {"正面": "好评", "负面": "差评"}, {"正面": "积极", "负面": "消极"}),
        ),
        Wording(
            (
                "文本：{text}\n主题：",
                "{text}\n这段话的主题是",
                "文章：{text}\n类别：",
                "问题：下面这段话讲的是什么？\n文本：{text}\n回答：",
            ),
            (
                _same("音乐", "美食", "天气", "体育"),
                {"音乐": "歌曲", "美食": "饮食", "天气": "气象", "体育": "运动"},
                {"音乐": "乐曲", "美食": "烹饪", "天气": "气候", "体育": "赛事"},
            ),
        ),
    )
}
