"""What the figures of an assay allow to be said: stated rules, from plain data to findings, and from findings to phrases.

Each rule is a function of one part's data. A finding says for what a model may be used (`may`), for what it may not (`not`), or that the
figures leave it open (`open`); nothing is concluded from too few answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any, Literal

from touchstone.report.words import Words
from touchstone.stats import clopper_pearson

__all__ = [
    "FEW",
    "FEW_UNITS",
    "NEAR",
    "OVERLAP",
    "RULES",
    "SIGNIFICANT",
    "Finding",
    "answers_rule",
    "classes_rule",
    "confidence_rule",
    "contamination_rule",
    "joined",
    "judge",
    "language_rule",
    "promise_rule",
    "prompts_rule",
    "ranking_rule",
    "tell",
    "told_compressor",
    "told_name",
]

FEW_UNITS = 8
"""Documents below which bits per byte are too few to say anything of a domain: as many as an interval needs."""

FEW = 30
"""Answers below which nothing is said of their share right: the exact interval of a half is then wider than a third."""

NEAR = 0.02
"""A calibration error above its noise floor but no larger is real, and small enough to use the confidence as it is."""

SIGNIFICANT = 0.05
"""The p-value, corrected for the number of comparisons, from which a difference may be chance."""

OVERLAP = 0.05
"""The share of documents seen in the training text up to which figures on them are taken at their word."""

Use = Literal["may", "not", "open"]
Data = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict: by which rule, what came out, on what, and the figures that it rests on."""

    rule: str
    outcome: str
    use: Use
    about: str = ""
    figures: dict[str, float | int | str | list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(parts: Mapping[str, Data | None]) -> list[Finding]:
    """All findings, in the order of the parts; of one that was left out there is none.

    But where text was measured and the training text is not known, that is said: good figures may then be memory. Where it is known that
    they may be, nothing good that rests on them is vouched for: it is open.
    """
    found = [finding for name, rules in RULES.items() if (data := parts.get(name)) is not None for rule in rules for finding in rule(data)]
    if parts.get("contamination") is None and any(parts.get(name) is not None for name in ("language", "classes")):
        found.append(Finding("contamination", "unknown", "open"))
    seen = {finding.about for finding in found if (finding.rule, finding.outcome) == ("contamination", "seen")}
    if seen - {"classes"}:
        seen.add("next-token")  # measured on all domains together
    doubtful = [finding.use == "may" and (finding.about or finding.rule) in seen for finding in found]
    return [replace(finding, use="open") if is_doubtful else finding for finding, is_doubtful in zip(found, doubtful, strict=True)]


def language_rule(part: Data) -> list[Finding]:
    """Better than the best compressor, beyond chance: it may write and complete such text; a tie or worse: it knows nothing of it."""
    uses: dict[str, Use] = {"few": "open", "better": "may", "tie": "open", "worse": "not"}
    found = []
    for domain in part["domains"]:
        difference, best = domain["difference"], domain["models"][domain["best"]]["bits_per_byte"]["value"]
        figures = {"value": domain["models"]["model"]["bits_per_byte"]["value"], "best": best, "name": domain["best"], "n": difference["n"]}
        outcome = "few" if difference["low"] is None or difference["n"] < FEW_UNITS else difference["verdict"]
        found.append(Finding("language", outcome, uses[outcome], domain["name"], figures))
    return found


def answers_rule(part: Data) -> list[Finding]:
    """By kind and language: above chance where the whole exact interval is, at 95 % for all of them together (Bonferroni).

    With an interval of 95 % for each, one model in five that knows nothing would be told to know one of ten kinds.
    """
    above, unsure, few = [], [], []
    level = 1 - SIGNIFICANT / len(part["kinds"])
    for kind in part["kinds"]:
        name = f"{kind['kind']}-{kind['language']}"
        if kind["n"] < FEW:
            few.append(name)
        elif clopper_pearson(kind["n_right"], kind["n"], level).low > kind["chance"]:
            above.append(name)
        else:
            unsure.append(name)
    groups: tuple[tuple[str, Use, list[str]], ...] = (("above", "may", above), ("guessing", "not", unsure), ("few", "open", few))
    return [Finding("answers", outcome, use, figures={"kinds": names}) for outcome, use, names in groups if names]


def classes_rule(part: Data) -> list[Finding]:
    """Better than always giving the commonest label, where the whole interval of the accuracy is above that label's share."""
    use: Use
    accuracy, share = part["accuracy"], part["majority"]["share"]
    figures = {"value": accuracy["value"], "low": accuracy["low"], "high": accuracy["high"], "share": share, "n": part["n"]}
    if part["n"] < FEW:
        return [Finding("classes", "few", "open", figures=figures)]
    outcome, use = ("better", "may") if accuracy["low"] > share else ("worse", "not") if accuracy["high"] < share else ("tie", "not")
    return [Finding("classes", outcome, use, figures=figures)]


def confidence_rule(found: Data | None, about: str) -> list[Finding]:
    """Whether confidence is the share of right answers: an error within the noise floor is none.

    true: as the model says it. near: the error is real but small. fixable: true, or near it, once calibrated. off: not even then.
    stuck: the error is real, and no calibration was better than none. unfitted: the error is real, and there was too little to calibrate
    by. few: too few answers to say.
    """
    use: Use
    if found is None or found["ece_before"] is None:
        return []
    before, after = found["ece_before"], found["ece_after"]
    figures = {"before": before["value"], "floor": before["noise_floor"]["high"], "n": before["n"]}
    if before["n"] < FEW:
        outcome, use = "few", "open"
    elif _is_within_floor(before):
        outcome, use = "true", "may"
    elif before["value"] <= NEAR:
        outcome, use = "near", "may"
    elif after is None:
        outcome, use = "unfitted", "not"
    elif found.get("method") == "none":
        outcome, use = "stuck", "not"
    else:
        outcome, use = ("fixable", "open") if _is_within_floor(after) or after["value"] <= NEAR else ("off", "not")
        figures["after"] = after["value"]
    return [Finding("confidence", outcome, use, about, figures)]


def ranking_rule(found: Data, about: str) -> list[Finding]:
    """Whether right answers are surer than wrong ones: the whole interval of the AUROC above one half."""
    use: Use
    measured = found["auroc"]
    if measured is None or measured["n"] < FEW or measured["interval"] is None:
        return []
    outcome, use = ("knows", "may") if measured["interval"]["low"] > 0.5 else ("blind", "not")
    return [Finding("ranking", outcome, use, about, {"value": measured["value"]})]


def promise_rule(found: Data, about: str) -> list[Finding]:
    """Whether it can be let answer alone where it is sure, and whether that held on answers it was not made with."""
    promise = found["promise"]
    if promise is None:
        return [Finding("promise", "few", "open", about, {"n": found["n"]})]
    uses: dict[str, Use] = {"held": "may", "chance": "open", "unused": "open", "broken": "not", "impossible": "not"}
    figures = {"risk": promise["max_risk"], "sure": 1 - promise["delta"]}
    if promise["risk"] is not None:
        figures |= {"coverage": promise["coverage"], "found": promise["risk"]["value"]}
    return [Finding("promise", promise["outcome"], uses[promise["outcome"]], about, figures)]


def prompts_rule(part: Data) -> list[Finding]:
    """Whether the best and the worst way of asking differ by more than chance."""
    use: Use
    figures = {"low": part["min"], "median": part["median"], "high": part["max"], "n": part["n"], "ways": len(part["ways"])}
    if part["n"] < FEW:
        return [Finding("prompts", "few", "open", figures=figures)]
    outcome, use = ("depends", "not") if part["p_value"] < SIGNIFICANT else ("steady", "open")
    return [Finding("prompts", outcome, use, figures=figures)]


def contamination_rule(part: Data) -> list[Finding]:
    """Whether the texts of a domain were learned from: then the figures on it say little of new text.

    Of a text that is too short all that can be told is that it stands there whole; where most are, or few can be judged, nothing clears
    them.
    """
    use: Use
    found = []
    for group in part["groups"]:
        n, n_judged, n_seen = group["n"], group["n_judged"], group["n_seen"]
        if n_seen > OVERLAP * n:
            outcome, use = "seen", "not"
        elif n_judged < max(FEW_UNITS, n / 2) or n_seen > OVERLAP * n_judged:
            outcome, use = "short", "open"
        else:
            outcome, use = "clean", "may"
        figures = {"share": group["share"]["value"], "n": n}
        figures |= {"words": part["n_words"]} if outcome != "short" else {}
        figures |= {"judged": n_judged} if outcome != "seen" else {}
        found.append(Finding("contamination", outcome, use, group["name"], figures))
    return found


def tell(finding: Finding, words: Words) -> str:
    """The sentence of a finding."""
    figures = {name: _told_figure(finding.rule, name, value, words) for name, value in finding.figures.items()}
    about = {}
    if finding.about:
        name = told_name(finding.about, words)
        about = {"about": f" {name} " if words.lang == "zh" and name.startswith("`") else name}  # Chinese sets other scripts apart
    return words(f"assay.says_{finding.rule}_{finding.outcome}", **figures, **about).strip()


def told_name(name: str, words: Words) -> str:
    """What a domain or a kind of answer is called; paths as they are."""
    if name in ("own", "answers", "classes", "next-token", "probes-en", "probes-zh"):
        return words(f"assay.name_{name.replace('-', '_')}")
    return f"`{name}`"


def told_compressor(key: str, words: Words) -> str:
    """What a compressor of a domain is called."""
    name, _, given = key.partition("_")
    return words("assay.given", name=name) if given else name


def joined(names: Sequence[str], words: Words) -> str:
    """A list as the language writes it."""
    return reduce(lambda so_far, more: words("assay.joined", so_far=so_far, more=more), names)


def _told_figure(rule: str, name: str, value: Any, words: Words) -> str:
    if isinstance(value, list):
        kinds = [tuple(each.rsplit("-", 1)) for each in value]
        return joined(
            [words("assay.of_kind", kind=words(f"assay.kind_{k}"), language=words(f"assay.in_{lang}")) for k, lang in kinds], words
        )
    if isinstance(value, str):
        return told_compressor(value, words)
    if isinstance(value, int):
        return f"{value:,}"
    if (rule, name) in (("language", "value"), ("language", "best"), ("ranking", "value")):
        return f"{value:.3f}"
    digits = 1 if rule in ("confidence", "contamination") or name == "found" else 0
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def _is_within_floor(measured: Data) -> bool:
    return bool(measured["value"] <= measured["noise_floor"]["high"])


RULES: dict[str, Sequence[Callable[[Data], list[Finding]]]] = {
    "language": (language_rule, lambda part: confidence_rule(part["calibration"], "next-token")),
    "answers": (
        answers_rule,
        lambda part: confidence_rule(part["confidence"], "answers"),
        lambda part: ranking_rule(part["confidence"], "answers"),
        lambda part: promise_rule(part["confidence"], "answers"),
    ),
    "prompts": (prompts_rule,),
    "classes": (
        classes_rule,
        lambda part: confidence_rule(part["confidence"], "classes"),
        lambda part: ranking_rule(part["confidence"], "classes"),
        lambda part: promise_rule(part["confidence"], "classes"),
    ),
    "contamination": (contamination_rule,),
}
"""By part; in this order they are told."""
