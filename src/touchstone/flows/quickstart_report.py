"""What the quickstart says at its end: a summary on the terminal, and report.html with every figure explained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from touchstone.bench.machine import MachineSpeed
from touchstone.flows.comparison import method_text
from touchstone.flows.findings import Findings
from touchstone.flows.net_training import TrainedNet
from touchstone.flows.run_record import RunRecord
from touchstone.flows.samples import Sample
from touchstone.flows.train_report import add_loss_curve, add_making
from touchstone.report.page import Page
from touchstone.report.plot import bars, reliability
from touchstone.report.terminal import Terminal
from touchstone.report.words import Words
from touchstone.stats import Interval
from touchstone.text.prepare import PreparedReport

__all__ = ["QuickstartReport", "next_commands", "tell_summary", "write_quickstart_report"]


@dataclass(frozen=True)
class QuickstartReport:
    """Everything the page shows; `document` is the machine-readable result."""

    decoder: TrainedNet
    record: RunRecord
    text: PreparedReport
    findings: Findings
    samples: Sequence[Sample]
    speed: MachineSpeed
    document: Mapping[str, Any]


def tell_summary(document: Mapping[str, Any], terminal: Terminal) -> None:
    """The table, the verdicts, the calibration, the completions and the commands to try next, from the plain document."""
    words = terminal.words
    models = document["models"]
    terminal.say()
    terminal.say(
        words(
            "quickstart.results",
            n=document["n_documents"],
            bytes=f"{document['n_bytes']:,}",
            method=method_text(document["window"], document["stride"], words),
        ),
        style="title",
    )
    rows = [(_name(key, words), _interval(model["bits_per_byte"])) for key, model in models.items()]
    terminal.table([words("quickstart.who"), words("quickstart.bits_per_byte")], rows)
    terminal.say()
    for difference in document["differences"]:
        terminal.say(_verdict(difference, words))
    terminal.say(_calibration(document, words))
    for completion in document["completions"]:
        terminal.say()
        terminal.say(completion["prompt"] + completion["text"], style="dim")
    terminal.say()
    terminal.say(words("quickstart.report", path=document["report"]))
    terminal.say(words("quickstart.model", path=document["model"]))
    terminal.say(words("quickstart.next"))
    for command in next_commands(document["folder"]):
        terminal.say(f"  {command}", style="command")


def next_commands(folder: str) -> list[str]:
    """Commands that work as they stand, but for the user's own folder in the last."""
    return [
        f'touchstone complete {folder} "for i in"',
        f'touchstone generate {folder} "def main(" --temperature 0.7 --max-new-tokens 60',
        "touchstone train gpt-small --data my_texts/ --out runs/mine",
    ]


def write_quickstart_report(report: QuickstartReport, words: Words) -> None:
    """Write the page into the run folder."""
    findings, document = report.findings, report.document
    page = Page(words("quickstart.page_title"), words.lang, subtitle=words("quickstart.page_subtitle"))
    _add_facts(page, report, words)
    _add_comparison(page, report, words)
    add_loss_curve(page, report.record, words)
    _add_calibration(page, findings, document, words)
    page.heading(words("quickstart.completions"))
    page.text(words("quickstart.completions_text"))
    for sample in report.samples:
        page.tokens(sample.coloured)
    page.heading(words("quickstart.held_out"), level=3)
    page.text(words("quickstart.held_out_text"))
    page.tokens(list(findings.held_out))
    page.heading(words("quickstart.meaning"))
    page.list([words(f"quickstart.meaning_{name}") for name in ("bits", "interval", "split", "window", "mixture", "compressors", "ece")])
    decoder = report.decoder
    add_making(page, words, config=decoder.config, chosen=decoder.chosen, text=report.text, spec=decoder.spec)
    page.heading(words("report.next"))
    page.code("\n".join([*next_commands(str(report.record.folder)), "touchstone quickstart --minutes 10 --out runs/longer"]))
    page.text(words("quickstart.next_text"))
    page.write(report.record.report)


def _add_facts(page: Page, report: QuickstartReport, words: Words) -> None:
    findings, outcome = report.findings, report.decoder.outcome
    decoder, mixture = findings.comparison.interval("decoder"), findings.comparison.interval("mixture")
    fraction = f"{100 * report.document['peak_fraction']:.0f} %"
    page.facts(
        [
            (words("quickstart.fact_decoder"), f"{decoder.value:.3f}", words("quickstart.fact_bits", interval=_bounds(decoder))),
            (words("quickstart.fact_mixture"), f"{mixture.value:.3f}", words("quickstart.fact_bits", interval=_bounds(mixture))),
            (words("report.parameters"), f"{report.decoder.spec.n_parameters():,}", ""),
            (words("report.trained_on"), f"{outcome.n_tokens:,}", words("report.tokens_in", time=words.duration(outcome.seconds))),
            (
                words("quickstart.fact_peak"),
                fraction,
                words("quickstart.fact_peak_under", gflops=f"{report.speed.matmul_flops_per_s / 1e9:.0f}"),
            ),
        ]
    )


def _add_comparison(page: Page, report: QuickstartReport, words: Words) -> None:
    comparison, document = report.findings.comparison, report.document
    page.heading(words("quickstart.comparison"))
    n_bytes = f"{document['n_bytes']:,}"
    page.text(
        words(
            "quickstart.comparison_text",
            n=document["n_documents"],
            bytes=n_bytes,
            method=method_text(document["window"], document["stride"], words),
        )
    )
    if report.findings.n_test_files_left_out:
        page.text(words("quickstart.left_out", n=report.findings.n_test_files_left_out))
    names = {entry.key: _name(entry.key, words) for entry in comparison.entries}
    intervals = {key: comparison.interval(key) for key in names}
    own = [names["decoder"], names["mixture"]]
    page.figure(bars(list(names.values()), list(intervals.values()), words, highlight=own), words("quickstart.bars_caption"))
    rows = [(names[key], interval, _facts_line(dict(document["models"][key]), words)) for key, interval in intervals.items()]
    page.table([words("quickstart.who"), words("quickstart.bits_per_byte"), words("quickstart.what")], rows, highlight=[0, 1])
    page.heading(words("quickstart.verdicts"), level=3)
    page.list([_verdict(difference, words) for difference in document["differences"]])
    weight = f"{report.findings.mixture.weight:.2f}"
    page.text(words("quickstart.mixture_text", weight=weight))
    for name, reason in report.findings.missing.items():
        page.note(words("quickstart.missing", name=name, reason=reason))


def _add_calibration(page: Page, findings: Findings, document: Mapping[str, Any], words: Words) -> None:
    page.heading(words("quickstart.calibration"))
    page.text(_calibration(document, words))
    curves = {words("quickstart.before"): findings.reliability_before, words("quickstart.after"): findings.reliability_after}
    page.figure(reliability(curves, words), words("quickstart.reliability_caption"))
    rows = [
        (
            words(f"quickstart.{when}"),
            f"{found.value:.4f}",
            found.interval or "-",
            f"{found.noise_floor.high:.4f}" if found.noise_floor else "-",
        )
        for when, found in (("before", findings.ece_before), ("after", findings.ece_after))
    ]
    headers = ("when", "ece", "interval", "floor")
    page.table(
        [words(f"quickstart.{header}") for header in headers],
        rows,
        caption=f"{findings.ece_before.estimator}, n = {findings.ece_before.n:,}",
    )


def _name(key: str, words: Words) -> str:
    if key in ("mixture", "decoder", "ngram", "lstm"):
        return words(f"quickstart.{key}_name")
    name, _, given = key.partition("_")
    return words("quickstart.compressor_given" if given else "quickstart.compressor_alone", name=name)


def _verdict(difference: Mapping[str, Any], words: Words) -> str:
    told = words(
        f"verdict.{difference['verdict']}_sentence",
        a=_name(difference["a"], words),
        b=_name(difference["b"], words),
        difference=_interval(difference, signed=True),
    )
    return told[0].upper() + told[1:]


def _calibration(document: Mapping[str, Any], words: Words) -> str:
    """What the fitted temperature did, in a sentence that claims no more than the intervals allow."""
    before, after, temperature = document["ece_before"], document["ece_after"], document["temperature"]["temperature"]
    floor = before["noise_floor"]["high"] if before["noise_floor"] else math.nan
    effect = "better" if after["value"] < before["value"] else "worse"
    if _overlap(before["interval"], after["interval"]):
        effect = "same"
    told = words(
        "quickstart.calibration_told",
        before=f"{before['value']:.4f}",
        after=f"{after['value']:.4f}",
        temperature=f"{temperature:.3f}",
        floor=f"{floor:.4f}",
    )
    return f"{told} {words(f'quickstart.calibration_{effect}')}"


def _overlap(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    if a is None or b is None or None in (a["low"], a["high"], b["low"], b["high"]):
        return True
    return bool(a["low"] <= b["high"] and b["low"] <= a["high"])


def _facts_line(model: dict[str, Any], words: Words) -> str:
    if "parameters" in model:
        return words(
            "quickstart.net_facts",
            parameters=f"{model['parameters']:,}",
            tokens=f"{model['n_tokens']:,}",
            flops=f"{model['training_flops']:.1e}",
            time=words.duration(model["seconds"]),
        )
    if "n_grams" in model:
        return words("quickstart.ngram", n=f"{model['n_grams']:,}", time=words.duration(model["seconds"]))
    if "setting" in model:
        given = words("quickstart.given_nothing")
        if model["given_bytes"]:
            given = words("quickstart.given", size=words.size(model["given_bytes"]))
        return words("quickstart.compressor_facts", level=model["setting"].partition(",")[0], given=given)
    return words("quickstart.mixture_facts")


def _bounds(interval: Interval) -> str:
    return str(interval).partition(" ")[2]


def _interval(data: Mapping[str, Any], *, signed: bool = False) -> str:
    low, high = (math.nan if data[key] is None else data[key] for key in ("low", "high"))
    text = str(Interval(data["value"], low, high, data["level"], data["n"], data["method"]))
    return f"+{text}" if signed and data["value"] > 0 else text
