"""The verb `assay`: one command turns a model folder into a report of what the model can be trusted with.

Every part that model and data allow is measured; one that they do not allow is named with its reason, one that failed with its error. The
verdict follows from the figures by the rules of `assay_verdict`. Written are `assay.json`, with every figure, and `assay.html`, one page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from touchstone.errors import RunFolderError, TouchstoneError
from touchstone.evaluate.probes import load_probes
from touchstone.files import check_writable, write_json
from touchstone.flows.assay_language import Language
from touchstone.flows.assay_material import SUITES, Fields, find_material
from touchstone.flows.assay_parts import Answers, Classes, Contamination, Identity, Part, Subject
from touchstone.flows.assay_prompts import Prompts
from touchstone.flows.assay_report import tell_assay, tell_plan, write_page
from touchstone.flows.assay_speed import Speed, reading_speed
from touchstone.flows.assay_verdict import judge
from touchstone.flows.measuring import not_read
from touchstone.flows.net_training import today
from touchstone.flows.opening import Opening
from touchstone.report.terminal import Terminal

__all__ = ["FORMAT", "PARTS", "AssayRequest", "assay_model", "measure_parts"]

FORMAT = 1
"""Of `assay.json`; a later layout gets a later number."""

PARTS: tuple[Part, ...] = (Identity(), Language(), Answers(), Prompts(), Classes(), Speed(), Contamination())
"""In the order in which they are measured and told."""


@dataclass(frozen=True)
class AssayRequest:
    """What to assay, on what, and where to write; out: None = `assay/NAME` in the current folder."""

    folder: Path
    data: tuple[Path, ...] = ()
    suite: Literal["quick", "full"] = "quick"
    out: Path | None = None
    fields: Fields = field(default_factory=Fields)
    opening: Opening = field(default_factory=Opening)

    @property
    def place(self) -> Path:
        if self.out is not None:
            return self.out
        given = self.folder.resolve() if self.folder.is_dir() else self.folder
        return Path("assay") / (given.parent.name if given.name == "model" else given.name)


def assay_model(asked: AssayRequest, terminal: Terminal, *, dry_run: bool = False) -> dict[str, Any]:
    """Measure, judge, write and tell; with `dry_run`, tell what would be measured.

    Raises what opening the model or reading the data raises. A part that fails afterwards is told, the others go on, and the status of the
    document is then "problem".
    """
    words = terminal.words
    with terminal.progress(words("assay.opening")):
        model = asked.opening.load(asked.folder)
        material = find_material(asked.folder, model, asked.data, asked.fields, SUITES[asked.suite])
    if not dry_run:
        check_writable(asked.place)
    subject = Subject(asked.folder, model, material, SUITES[asked.suite])
    head = {"format": FORMAT, "model": str(asked.folder), "suite": asked.suite, "data": [str(path) for path in asked.data], "date": today()}
    if dry_run:
        plan = _plan(subject)
        tell_plan(plan, terminal)
        return {"status": "dry-run", **head, **plan}
    parts, left_out, failed = measure_parts(subject, terminal)
    findings = judge(parts)
    document = {
        "status": "problem" if failed else "ok",
        **head,
        "parts": parts,
        "left_out": left_out,
        "failed": failed,
        "not_read": not_read(material.report),
        "verdict": [finding.to_dict() for finding in findings],
        "json": str(asked.place / "assay.json"),
        "report": str(asked.place / "assay.html"),
    }
    tell_assay(document, findings, terminal)
    try:
        write_json(asked.place / "assay.json", document)
        write_page(asked.place / "assay.html", document, findings, words)
    except OSError as reason:
        raise RunFolderError(
            f"{asked.place}: the report cannot be written: {reason.strerror or reason}; make room, or choose another folder with `--out`."
        ) from None
    terminal.say()
    terminal.say(words("assay.written", report=document["report"], json=document["json"]))
    return document


def measure_parts(
    subject: Subject, terminal: Terminal, parts: Sequence[Part] = PARTS
) -> tuple[dict[str, dict[str, Any] | None], dict[str, str], dict[str, str]]:
    """The figures by part, None where there are none; the reasons of those left out, and the errors of those that failed."""
    words = terminal.words
    measured: dict[str, dict[str, Any] | None] = {}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    for part in parts:
        measured[part.name] = None
        if reason := part.lacks(subject):
            left_out[part.name] = reason
            continue
        try:
            with terminal.progress(words(f"assay.part_{part.name}")):
                measured[part.name] = part.measure(subject)
        except TouchstoneError as error:
            failed[part.name] = str(error)
            terminal.error(f"{words(f'assay.part_{part.name}')}: {error}")
    return measured, left_out, failed


def _plan(subject: Subject) -> dict[str, Any]:
    """Of each part how much it would read, or why it would not; the time follows from the model's measured reading speed."""
    amounts: dict[str, Mapping[str, int]] = {}
    left_out: dict[str, str] = {}
    for part in PARTS:
        reason = part.lacks(subject)
        if reason is None:
            amounts[part.name] = part.amount(subject)
        else:
            left_out[part.name] = reason
    return {"amounts": amounts, "left_out": left_out, "seconds": _seconds(subject, amounts)}


def _seconds(subject: Subject, amounts: Mapping[str, Mapping[str, int]]) -> float | None:
    """What reading takes; None for a model that reads no text."""
    model = subject.model
    if model.tokenizer is None or Speed().lacks(subject) is not None:
        return None
    probes = [probe.context for probe in load_probes()]
    per_byte = sum(map(len, model.tokenizer.encode_batch(probes))) / sum(len(text.encode()) for text in probes)
    per_question = sum(len(text.encode()) for text in probes) / len(probes) * per_byte
    n_tokens = 3 * amounts["language"]["bytes"] * per_byte if "language" in amounts else 0.0  # overlapping windows, and half again to fit
    n_tokens += amounts["answers"]["questions"] * per_question if "answers" in amounts else 0.0
    if "prompts" in amounts:
        n_tokens += amounts["prompts"]["questions"] * amounts["prompts"]["ways"] * 3 * per_question  # with examples in some
    n_tokens += sum(len(row.text.encode()) for row in subject.material.labelled) * per_byte if "classes" in amounts else 0.0
    return n_tokens / reading_speed(model, subject.clock, rounds=1)
