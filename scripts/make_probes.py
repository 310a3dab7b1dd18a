"""Makes the probe sets of `src/touchstone/evaluate/probes` from what people wrote (`probe_tables.py`) and from rules.

Run it from the repository's root: `python scripts/make_probes.py`. The sets depend on nothing but these two files.
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import probe_tables as tables

FOLDER = Path(__file__).parents[1] / "src" / "touchstone" / "evaluate" / "probes"

Drawn = tuple[str, str, tuple[str, ...]]
"""Context, right answer, wrong answers."""


def main() -> None:
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    """The text of each set by its file name."""
    makers = {
        "agreement": (agreement_en, agreement_zh),
        "arithmetic": (arithmetic_en, arithmetic_zh),
        "brackets": (brackets_en, brackets_zh),
        "copying": (copying_en, copying_zh),
        "label": (label_en, label_zh),
    }
    return {
        f"{kind}.{language}.jsonl": _lines(kind, language, list(make(random.Random(f"{kind} {language}"))))
        for kind, pair in makers.items()
        for language, make in zip(("en", "zh"), pair, strict=True)
    }


def agreement_en(rng: random.Random) -> Iterator[Drawn]:
    for frames, joint in ((tables.ATTRACTORS, ""), (tables.CLAUSES, "that ")):
        for number, (one, many, by_one, by_many) in enumerate(frames):
            verbs = tables.VERBS[number % len(tables.VERBS)]
            for head, right in ((one, 0), (many, 1)):
                for between in (by_one, by_many):
                    yield f"The {head} {joint}{between}", f" {verbs[right]}", (f" {verbs[1 - right]}",)
    for context, one, many in tables.DEMONSTRATIVES:
        yield context, f" this {one}", (f" these {one}",)
        yield context, f" these {many}", (f" this {many}",)
    for context, right, wrong in tables.REFLEXIVES:
        yield context, f" {right}", (f" {wrong}",)


def agreement_zh(rng: random.Random) -> Iterator[Drawn]:
    for context, noun, right, wrong in tables.MEASURES:
        yield context, right + noun, (wrong + noun,)
    for context, right, wrong in tables.GRAMMAR:
        yield context, right, (wrong,)


def arithmetic_en(rng: random.Random) -> Iterator[Drawn]:
    for left, sign, right, value in _sums(rng, 150):
        wrong = _near(rng, value, lambda a, b: len(str(a)) == len(str(b)))
        yield f"{left} {sign} {right} =", f" {value}", tuple(f" {number}" for number in wrong)


def arithmetic_zh(rng: random.Random) -> Iterator[Drawn]:
    words = {"+": "加", "-": "减", "*": "乘以"}
    for left, sign, right, value in _sums(rng, 150):
        wrong = _near(rng, value, lambda a, b: len(chinese_number(a)) == len(chinese_number(b)))
        yield f"{chinese_number(left)}{words[sign]}{chinese_number(right)}等于", chinese_number(value), tuple(map(chinese_number, wrong))


def brackets_en(rng: random.Random) -> Iterator[Drawn]:
    yield from _brackets(rng, ["()", "[]", "{}", "<>"], 120, " ")


def brackets_zh(rng: random.Random) -> Iterator[Drawn]:
    yield from _brackets(rng, ["（）", "【】", "《》", "「」"], 120, "")


def copying_en(rng: random.Random) -> Iterator[Drawn]:
    for words, place in _lists(rng, tables.WORDS_EN, 120):
        again = "".join(f" {word}," for word in words[:place])
        yield f"{', '.join(words)}.{again}", f" {words[place]}", tuple(f" {word}" for word in words if word != words[place])


def copying_zh(rng: random.Random) -> Iterator[Drawn]:
    for words, place in _lists(rng, tables.WORDS_ZH, 120):
        again = "".join(f"{word}、" for word in words[:place])
        yield f"{'、'.join(words)}。{again}", words[place], tuple(word for word in words if word != words[place])


def label_en(rng: random.Random) -> Iterator[Drawn]:
    yield from _labels(tables.REVIEWS_EN, ("negative", "positive"), "Review: {}\nThis review is", " ")
    yield from _labels(tables.TOPICS_EN, tables.TOPIC_NAMES_EN, "Text: {}\nTopic:", " ")


def label_zh(rng: random.Random) -> Iterator[Drawn]:
    yield from _labels(tables.REVIEWS_ZH, ("负面", "正面"), "评论：{}\n情感：", "")
    yield from _labels(tables.TOPICS_ZH, tables.TOPIC_NAMES_ZH, "文本：{}\n主题：", "")


def chinese_number(value: int) -> str:
    """A number from 0 to 99 in words: 十二, 二十, 九十九."""
    digits = "零一二三四五六七八九"
    tens, ones = divmod(value, 10)
    if not tens:
        return digits[ones]
    return ("" if tens == 1 else digits[tens]) + "十" + (digits[ones] if ones else "")


def _lines(kind: str, language: str, drawn: Sequence[Drawn]) -> str:
    """The rows; the right answer takes each place equally often among those with as many answers."""
    rng = random.Random(f"places {kind} {language}")
    places = {}
    for n_answers in sorted({1 + len(wrong) for _, _, wrong in drawn}):
        n = sum(1 + len(wrong) == n_answers for _, _, wrong in drawn)
        places[n_answers] = [number % n_answers for number in range(n)]
        rng.shuffle(places[n_answers])
    rows = []
    for number, (context, right, wrong) in enumerate(drawn, 1):
        place = places[1 + len(wrong)].pop()
        others = rng.sample(wrong, len(wrong))
        answers = [*others[:place], right, *others[place:]]
        name = f"{kind}-{language}-{number:03d}"
        rows.append({"id": name, "kind": kind, "language": language, "context": context, "answers": answers, "right": place})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _sums(rng: random.Random, n: int) -> Iterator[tuple[int, str, int, int]]:
    """Different tasks whose result lies below 100, as many of each sign."""
    seen: set[tuple[int, str, int]] = set()
    while len(seen) < n:
        sign = "+-*"[len(seen) % 3]
        most = 9 if sign == "*" or len(seen) % 2 else 49
        left, right = rng.randint(1, most), rng.randint(1, most)
        if sign == "-" and left < right:
            left, right = right, left
        value = {"+": left + right, "-": left - right, "*": left * right}[sign]
        if (left, sign, right) not in seen:
            seen.add((left, sign, right))
            yield left, sign, right, value


def _near(rng: random.Random, value: int, fits: object) -> tuple[int, ...]:
    """Three wrong results, if there are as many within 10, written as long as the right one, so that none begins another."""
    assert callable(fits)
    alike = sorted((other for other in range(100) if other != value and fits(other, value)), key=lambda other: abs(other - value))
    near = [other for other in alike if abs(other - value) <= 10]
    return tuple(rng.sample(near if len(near) >= 3 else alike[:3], 3))  # the few that are written alike may lie further off


def _brackets(rng: random.Random, pairs: Sequence[str], n: int, space: str) -> Iterator[Drawn]:
    """Beginnings of well-nested texts with something open; the answers are all closing brackets."""
    seen: set[str] = set()
    while len(seen) < n:
        text: list[str] = []
        opened: list[str] = []
        for _ in range(rng.randint(1, 10)):
            if opened and rng.random() < 0.45:
                text.append(opened.pop()[1])
            else:
                opened.append(rng.choice(pairs))
                text.append(opened[-1][0])
        context = space.join(text)
        if opened and context not in seen:
            seen.add(context)
            yield context, space + opened[-1][1], tuple(space + pair[1] for pair in pairs if pair != opened[-1])


def _lists(rng: random.Random, words: Sequence[str], n: int) -> Iterator[tuple[list[str], int]]:
    """Lists of 3 to 6 words, and the place up to which they are said again."""
    for number in range(n):
        chosen = rng.sample(words, 3 + number % 4)
        yield chosen, rng.randrange(1, len(chosen))


def _labels(texts: Sequence[tuple[str, int]], names: Sequence[str], prompt: str, space: str) -> Iterator[Drawn]:
    for text, right in texts:
        yield prompt.format(text), space + names[right], tuple(space + name for name in names if name != names[right])


if __name__ == "__main__":
    main()
