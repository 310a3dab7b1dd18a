"""Verbs that say how far a model can be believed: `calibrate`."""

from enum import StrEnum
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, DataPaths, Device, Dtype, Lang, LangOption, ModelFolder, TextField, Weights

__all__ = ["calibrate"]


class MethodOption(StrEnum):
    """The ways to make confidence true."""

    temperature = "temperature"
    vector = "vector"
    platt = "platt"
    histogram = "histogram"
    isotonic = "isotonic"


def calibrate(
    model: ModelFolder,
    data: DataPaths = [],  # noqa: B006 - typer copies it
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="A name to keep the calibration under.")] = None,
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

    A classifier takes rows with text and label; a language model takes text, for its next token. One half is fitted on, the other is
    measured on. From then on every answer carries the calibrated confidence, as long as weights and number type are these.

    \b
    Examples:
      touchstone calibrate runs/reviews --data held_out.tsv
      touchstone calibrate runs/mine --data other_texts/ --json
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
