"""Verbs that say how far a model can be believed: `calibrate`, `assay`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, DataPaths, Device, DryRun, Dtype, Lang, LangOption, ModelFolder, TextField, Weights

__all__ = ["assay", "calibrate"]


class MethodOption(StrEnum):
    """The ways to make confidence true."""

    temperature = "temperature"
    vector = "vector"
    platt = "platt"
    histogram = "histogram"
    isotonic = "isotonic"


class SuiteOption(StrEnum):
    """How much an assay measures."""

    quick = "quick"
    full = "full"


def calibrate(
    model: ModelFolder,
    data: DataPaths = [],  # noqa: B006 - typer copies it
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="NAME", help="A name to keep the calibration under; with it, a language model's data are questions."
        ),
    ] = None,
    method: Annotated[
        MethodOption | None, typer.Option("--method", metavar="NAME", help="temperature, vector, platt, histogram or isotonic; measured.")
    ] = None,
    text_field: TextField = "text",
    label_field: Annotated[str, typer.Option("--label-field", metavar="NAME", help="The field of the right label.")] = "label",
    second_field: Annotated[
        str | None, typer.Option("--second-field", metavar="NAME", help="The field of the second text, where a row has a pair.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B", help="Names of the columns of csv and tsv files without a header.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Make a model's confidence true: fit it on answers that the model has not learned from, and keep it with the model.

    A classifier takes rows with text and label. A language model takes text, for its next token; with --task NAME it takes jsonl rows of
    prompt, answers and answer, for its closed answers under that name. One half is fitted on, the other is measured on. From then on every
    answer carries the calibrated confidence, as long as weights and number type are these.

    \b
    Examples:
      touchstone calibrate runs/reviews --data held_out.tsv
      touchstone calibrate runs/mine --data other_texts/ --json
      touchstone calibrate runs/mine --data questions.jsonl --task reviews
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.calibrating import CalibrationRequest, calibrate_model
    from touchstone.flows.opening import Opening

    asked = CalibrationRequest(
        model,
        tuple(data),
        task=task,
        method=method.value if method else None,
        text_field=text_field,
        label_field=label_field,
        second_field=second_field,
        columns=tuple(columns.split(",")) if columns else None,
        opening=Opening(device, dtype, weights.value if weights else None),
    )
    return finish(terminal, calibrate_model(asked, terminal))


def assay(
    model: ModelFolder,
    data: DataPaths = [],  # noqa: B006 - typer copies it
    suite: Annotated[
        SuiteOption, typer.Option("--suite", help="quick: about a minute for a small model; full: all of it.")
    ] = SuiteOption.quick,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where assay.json and assay.html go; assay/NAME if not given.")
    ] = None,
    text_field: TextField = "text",
    label_field: Annotated[str, typer.Option("--label-field", metavar="NAME", help="The field of the right label.")] = "label",
    second_field: Annotated[
        str | None, typer.Option("--second-field", metavar="NAME", help="The field of the second text, where a row has a pair.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B", help="Names of the columns of csv and tsv files without a header.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    dry_run: DryRun = False,
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Say what a model can be trusted with: measure all that it can do, and write one report with a verdict.

    Predicting text beside compressors, closed answers beside guessing, labels beside the commonest one, whether its confidence is true,
    what it can be let answer alone, how much the wording of a prompt matters, speed, and what it has seen in training. Every --data path
    is a kind of text of its own; rows with labels are for classifiers, and for prompts. Without --data a run is measured on its own
    held-out text.

    \b
    Examples:
      touchstone assay runs/mine
      touchstone assay path/to/model --data news/ --data novels.txt --suite full
      touchstone assay runs/reviews --data held_out.tsv --lang zh --out reports/reviews
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.assay import AssayRequest, assay_model
    from touchstone.flows.assay_material import Fields
    from touchstone.flows.opening import Opening

    asked = AssayRequest(
        model,
        tuple(data),
        suite=suite.value,
        out=out,
        fields=Fields(text_field, label_field, second_field, tuple(columns.split(",")) if columns else None),
        opening=Opening(device, dtype, weights.value if weights else None),
    )
    return finish(terminal, assay_model(asked, terminal, dry_run=dry_run))
