"""What an assay tells: the verdict on the terminal, and assay.html with every figure, its error bar, its baseline and what it means.

Both are made from the plain document alone, in one language; names of methods and errors, which are English, stay in assay.json.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone.flows.assay_verdict import FEW, FEW_UNITS, NEAR, OVERLAP, SIGNIFICANT, Finding, joined, tell, told_compressor, told_name
from touchstone.flows.comparison import method_text
from touchstone.flows.measuring import ECE_BINS, said_of
from touchstone.report.page import Page
from touchstone.report.plot import Reliability, bars, reliability, risk_coverage
from touchstone.report.terminal import Terminal
from touchstone.report.words import Words
from touchstone.stats import Interval

__all__ = ["figure_text", "tell_assay", "tell_plan", "write_page"]

Data = Mapping[str, Any]

_USES = ("may", "not", "open")


def tell_assay(document: Data, findings: Sequence[Finding], terminal: Terminal) -> None:
    """The verdict, and what was left out."""
    words = terminal.words
    terminal.say()
    terminal.say(words("assay.verdict_of", model=document["model"]), style="title")
    for use in _USES:
        if told := [tell(finding, words) for finding in findings if finding.use == use]:
            terminal.say()
            terminal.say(words(f"assay.use_{use}"), style="good" if use == "may" else "plain")
            for sentence in told:
                terminal.say(f"  · {_bare(sentence)}")
    _tell_left_out(document, terminal)
    for sentence in said_of(document["not_read"], words):
        terminal.warn(sentence)


def tell_plan(plan: Data, terminal: Terminal) -> None:
    """What would be measured; nothing is written."""
    words = terminal.words
    rows = [(words(f"assay.part_{name}"), _told_amount(amount, words)) for name, amount in plan["amounts"].items()]
    terminal.table([words("assay.part"), words("assay.amount")], rows)
    _tell_left_out(plan, terminal)
    terminal.say()
    if plan["seconds"] is not None:
        terminal.say(words("assay.takes", time=words.duration(plan["seconds"])))
    terminal.say(words("plan.nothing"))


def write_page(path: Path, document: Data, findings: Sequence[Finding], words: Words) -> None:
    """Write assay.html."""
    name = Path(document["model"]).name or document["model"]
    page = Page(words("assay.title", model=name), words.lang, subtitle=words("assay.subtitle"))
    _add_facts(page, document, words)
    _add_verdict(page, findings, words)
    for part, add in _SECTIONS.items():
        if (data := document["parts"][part]) is not None:
            page.heading(words(f"assay.part_{part}"))
            add(page, data, words)
    _add_left_out(page, document, words)
    page.heading(words("assay.rules"))
    page.text(words("assay.rules_text"))
    limits = {"few": FEW, "units": FEW_UNITS, "near": f"{NEAR:g}", "overlap": f"{100 * OVERLAP:g}", "p": f"{SIGNIFICANT:g}"}
    page.list(
        [
            words("assay.rule_language", units=limits["units"]),
            words("assay.rule_right", few=limits["few"]),
            words("assay.rule_confidence", near=limits["near"]),
            words("assay.rule_promise"),
            words("assay.rule_prompts", p=limits["p"]),
            words("assay.rule_contamination", overlap=limits["overlap"], units=limits["units"]),
        ]
    )
    page.write(path)


def figure_text(found: Data | None, digits: int = 3, *, percent: bool = False, signed: bool = False) -> str:
    """A figure with its interval, "0.512 [0.480, 0.545]" or "51.2 % [48.0, 54.5]"; the value alone where no interval exists."""
    if found is None:
        return "-"
    bounds = found.get("interval", found) or {}
    scale, digits = (100.0, max(0, digits - 2)) if percent else (1.0, digits)
    sign = "+" if signed and found["value"] > 0 else ""
    value = f"{sign}{scale * found['value']:.{digits}f}{' %' if percent else ''}"
    if bounds.get("low") is None or bounds.get("high") is None:
        return value
    return f"{value} [{scale * bounds['low']:.{digits}f}, {scale * bounds['high']:.{digits}f}]"


def _told_amount(amount: Mapping[str, int], words: Words) -> str:
    return joined([words(f"assay.n_{what}", n=f"{n:,}") for what, n in amount.items()], words) if amount else "-"


def _tell_left_out(document: Data, terminal: Terminal) -> None:
    words = terminal.words
    if document["left_out"]:
        terminal.say()
        terminal.say(words("assay.left_out"), style="dim")
        for sentence in _left_out(document, words):
            terminal.say(f"  · {_bare(sentence)}", style="dim")


def _left_out(document: Data, words: Words) -> list[str]:
    return [
        words("assay.left_out_part", part=words(f"assay.part_{part}"), reason=words(f"assay.why_{reason}"))
        for part, reason in document["left_out"].items()
    ]


def _bare(text: str) -> str:
    """Without the marks of code that a page shows."""
    return text.replace("`", "")


def _add_facts(page: Page, document: Data, words: Words) -> None:
    parts = document["parts"]
    facts: list[tuple[str, object, str]] = []
    if (identity := parts["identity"]) is not None and identity["parameters"] is not None:
        facts.append((words("assay.parameters"), f"{identity['parameters']:,}", str(identity["model_type"])))
    if (language := parts["language"]) is not None:
        domain = language["domains"][0]
        own, best = (domain["models"][key]["bits_per_byte"] for key in ("model", domain["best"]))
        facts.append(
            (
                words("assay.bits_per_byte"),
                f"{own['value']:.3f}",
                words("assay.best_other", name=told_compressor(domain["best"], words), value=f"{best['value']:.3f}"),
            )
        )
    for part in ("answers", "classes"):
        if (data := parts[part]) is not None and (promise := data["confidence"]["promise"]) is not None:
            under = words("assay.promised_under", risk=f"{100 * promise['max_risk']:g}", about=told_name(part, words))
            facts.append((words("assay.promised"), f"{100 * promise['coverage']:.0f} %", under))
    if (classes := parts["classes"]) is not None:
        under = words("assay.majority_under", value=f"{100 * classes['majority']['share']:.1f}")
        facts.append((words("assay.accuracy"), f"{100 * classes['accuracy']['value']:.1f} %", under))
    if (speed := parts["speed"]) is not None:
        facts.append((words("assay.reading"), f"{speed['reading_tokens_per_s']:,.0f}", words("assay.tokens_per_s")))
    page.facts(facts)


def _add_verdict(page: Page, findings: Sequence[Finding], words: Words) -> None:
    page.heading(words("assay.verdict"))
    for use in _USES:
        if told := [tell(finding, words) for finding in findings if finding.use == use]:
            page.heading(words(f"assay.use_{use}"), level=3)
            page.list(told)


def _add_identity(page: Page, data: Data, words: Words) -> None:
    lineage = data["lineage"]
    rows = [
        ("family", f"{data['family']} ({data['model_type']})"),
        ("can", ", ".join(f"`{ability}`" for ability in data["can"])),
        ("parameters", _count(data["parameters"])),
        ("n_grams", _count(data["n_grams"])),
        ("context", _count(data["context"])),
        ("vocabulary", _count(data["vocabulary"])),
        ("tokenizer", _count(data["tokenizer"])),
        ("labels", ", ".join(data["labels"][:20]) if data["labels"] else None),
        ("numeric_scheme", f"{data['numeric_scheme']}, {data['device']}"),
        ("threads", str(data["n_threads"])),
        ("weights_hash", data["weights_hash"][:16]),
        ("data_hash", lineage["data_hash"][:16] if lineage["data_hash"] else None),
        ("parent", lineage["parent"][:16] if lineage["parent"] else None),
    ]
    page.table([words("assay.what"), words("assay.value")], [(words(f"assay.{name}"), value) for name, value in rows if value])
    per_token = [(told_name(row["on"], words), _number(row["value"], 2), f"{row['n_tokens']:,}") for row in data["bytes_per_token"]]
    if per_token:
        page.table([words("assay.text"), words("assay.bytes_per_token"), words("assay.tokens")], per_token)


def _add_language(page: Page, data: Data, words: Words) -> None:
    page.text(words("assay.language_text", method=method_text(data["window"], data["stride"], words)))
    for domain in data["domains"]:
        page.heading(told_name(domain["name"], words), level=3)
        names = {key: words("assay.this_model") if key == "model" else told_compressor(key, words) for key in domain["models"]}
        intervals = [_interval(domain["models"][key]["bits_per_byte"]) for key in names]
        caption = words(
            "assay.domain_caption", n=f"{domain['n_documents']:,}", bytes=f"{domain['n_bytes']:,}", left_out=f"{domain['n_left_out']:,}"
        )
        note = words("plot.lower_better", level=f"{100 * intervals[0].level:g}")
        page.figure(bars(list(names.values()), intervals, words, highlight=[names["model"]], note=note), caption)
        differences = {difference["b"]: difference for difference in domain["differences"]}
        rows = []
        for key, name in names.items():
            difference = differences.get(key)
            verdict = "-" if difference is None else words(f"verdict.{difference['verdict']}")
            rows.append((name, figure_text(domain["models"][key]["bits_per_byte"]), figure_text(difference, signed=True), verdict))
        headers = ("who", "bits_per_byte", "difference", "compared")
        page.table([words(f"assay.{header}") for header in headers], rows, highlight=[0])
        page.text(words(f"assay.unit_{domain['unit']}", n=f"{domain['difference']['n']:,}"))
    if (calibration := data["calibration"]) is not None:
        page.heading(words("assay.next_token"), level=3)
        if calibration["temperature"] is not None:
            page.text(words("assay.temperature", value=f"{calibration['temperature']:.3f}"))
        _add_calibration(page, calibration, words)
    for name in data["missing_compressors"]:
        page.note(words("assay.missing_compressor", name=name))


def _add_answers(page: Page, data: Data, words: Words) -> None:
    page.text(words("assay.answers_text", n=f"{data['n']:,}"))
    rows = [
        (
            words(f"assay.kind_{kind['kind']}"),
            words(f"assay.in_{kind['language']}"),
            figure_text(kind["accuracy"], percent=True),
            f"{100 * kind['chance']:.1f} %",
            f"{kind['n']:,}",
        )
        for kind in data["kinds"]
    ]
    page.table([words(f"assay.{header}") for header in ("kind", "language", "accuracy", "chance", "n")], rows)
    _add_notes(page, data, words)
    _add_confidence(page, data["confidence"], words)


def _add_prompts(page: Page, data: Data, words: Words) -> None:
    page.text(words("assay.prompts_text", n=f"{data['n']:,}", ways=len(data["ways"]), on=words(f"assay.on_{data['on']}")))
    rows = [
        (words(f"assay.axis_{axis}"), *(f"{100 * three[name]:.1f} %" for name in ("min", "median", "max")))
        for axis, three in {"all": data, **data["by_axis"]}.items()
    ]
    page.table([words(f"assay.{header}") for header in ("changed", "least", "median", "most")], rows, highlight=[0])
    ways = {words(f"assay.way_{way['axis']}", n=way["number"]): _interval(way["accuracy"]) for way in data["ways"]}
    note = words("assay.ways_note", chance=f"{100 * data['chance']:.0f}")
    page.figure(bars(list(ways), list(ways.values()), words, note=note), words("assay.ways_caption"))
    page.text(words("assay.same_text", same=f"{100 * data['n_same'] / data['n']:.0f}", p=_p_value(data["p_value"])))
    _add_notes(page, data, words)


def _add_classes(page: Page, data: Data, words: Words) -> None:
    majority = data["majority"]
    page.text(
        words(
            "assay.classes_text",
            n=f"{data['n']:,}",
            accuracy=figure_text(data["accuracy"], percent=True),
            label=majority["label"],
            share=f"{100 * majority['share']:.1f}",
            left_out=f"{data['n_left_out']:,}",
        )
    )
    rows = [
        (
            row["label"],
            f"{row['n']:,}",
            f"{row['n_given']:,}",
            figure_text(row["recall"], percent=True),
            figure_text(row["precision"], percent=True),
        )
        for row in data["classes"]
    ]
    page.table([words(f"assay.{header}") for header in ("label", "n_has", "n_given", "recall", "precision")], rows)
    _add_notes(page, data, words)
    _add_confidence(page, data["confidence"], words)


def _add_speed(page: Page, data: Data, words: Words) -> None:
    page.text(words("assay.speed_text", rounds=data["rounds"], cpu=", ".join([data["cpu"], *data["cuda"]]), threads=data["n_threads"]))
    rows = [
        (words("assay.reading_row"), f"{data['reading_tokens_per_s']:,.0f}"),
        (words("assay.writing_row"), "-" if data["writing_tokens_per_s"] is None else f"{data['writing_tokens_per_s']:,.1f}"),
        (words("assay.weights_row"), words.size(data["weights_bytes"])),
        (words("assay.resident_row"), words.size(data["resident_bytes"])),
    ]
    page.table([words("assay.what"), words("assay.value")], rows)


def _add_contamination(page: Page, data: Data, words: Words) -> None:
    page.text(words("assay.contamination_text", n=data["n_words"]))
    rows = [
        (told_name(group["name"], words), figure_text(group["share"], percent=True), f"{group['n_judged']:,}", f"{group['n']:,}")
        for group in data["groups"]
    ]
    page.table([words(f"assay.{header}") for header in ("text", "overlap", "judged", "documents")], rows)


def _add_confidence(page: Page, data: Data, words: Words) -> None:
    """Calibration, ranking and promise of answers that are right or wrong."""
    page.heading(words("assay.confidence"), level=3)
    if data["method"] == "none":
        page.text(words("assay.nothing_better", n=f"{data['n_fitted']:,}"))
    elif data["method"] is not None:
        page.text(words("assay.fitted", method=words(f"calibrate.{data['method']}"), n=f"{data['n_fitted']:,}"))
    _add_calibration(page, data, words)
    page.text(words("assay.ranking", aurc=figure_text(data["aurc"]), auroc=figure_text(data["auroc"])))
    curve, promise = data["risk_coverage"], data["promise"]
    svg = risk_coverage(
        {words("assay.this_model"): (curve["coverage"], curve["risk"])}, words, max_risk=promise["max_risk"] if promise else None
    )
    page.figure(svg, words("assay.risk_coverage_caption"))
    if promise is None:
        return
    rows = [
        (words("assay.threshold"), _number(promise["threshold"], 4)),
        (words("assay.coverage_fitted"), f"{100 * promise['coverage_fitted']:.1f} %"),
        (words("assay.coverage"), f"{100 * promise['coverage']:.1f} %"),
        (words("assay.risk"), figure_text(promise["risk"], percent=True)),
        (words("assay.outcome"), words(f"assay.outcome_{promise['outcome']}")),
    ]
    caption = words("assay.promise_caption", risk=f"{100 * promise['max_risk']:g}", sure=f"{100 * (1 - promise['delta']):g}")
    page.table([words("assay.promise"), words("assay.value")], rows, caption=caption)


def _add_calibration(page: Page, data: Data, words: Words) -> None:
    shown = ("before",) if data.get("method") == "none" or data["ece_after"] is None else ("before", "after")
    curves = {words(f"assay.{when}"): _curve(data["curves"][when]) for when in shown}
    page.figure(reliability(curves, words), words("assay.reliability_caption"))
    rows = [
        (words(f"assay.{when}"), figure_text(found, 4), figure_text(found["noise_floor"], 4), f"{found['n']:,}")
        for when in shown
        for found in (data[f"ece_{when}"],)
    ]
    page.table([words(f"assay.{header}") for header in ("when", "ece", "floor", "n")], rows)
    if data["ece_after"] is None:
        page.note(words("assay.not_fitted"))


def _add_notes(page: Page, data: Data, words: Words) -> None:
    for name in ("n_refused", "n_cut", "n_copies"):
        if data.get(name):
            page.note(words(f"assay.{name}", n=f"{data[name]:,}"))


def _add_left_out(page: Page, document: Data, words: Words) -> None:
    not_read = said_of(document["not_read"], words)
    if not document["left_out"] and not document["failed"] and not not_read:
        return
    page.heading(words("assay.left_out"))
    failed = [words("assay.failed", part=words(f"assay.part_{part}")) for part in document["failed"]]
    page.list([*_left_out(document, words), *failed, *not_read])


def _curve(data: Data) -> Reliability:
    """With bins that hold nothing, which widen no bar."""
    n_empty = ECE_BINS - len(data["count"])
    return Reliability(*([*data[name], *[0] * n_empty] for name in ("confidence", "accuracy", "count")))


def _interval(data: Data) -> Interval:
    low, high = (math.nan if data[key] is None else data[key] for key in ("low", "high"))
    return Interval(data["value"], low, high, data["level"], data["n"], data["method"])


def _count(n: int | None) -> str | None:
    return None if n is None else f"{n:,}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


_SECTIONS: dict[str, Callable[[Page, Data, Words], None]] = {
    "language": _add_language,
    "answers": _add_answers,
    "classes": _add_classes,
    "prompts": _add_prompts,
    "contamination": _add_contamination,
    "speed": _add_speed,
    "identity": _add_identity,
}
"""By part, in the order of the page: what can be trusted first, what the model is last."""
