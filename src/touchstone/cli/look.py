"""Verbs that look before the work starts: `inspect` a model, run or text, `prepare` text ahead of a training."""

from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, DataPaths, DryRun, Lang, LangOption, TextField

__all__ = ["inspect", "prepare"]


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, a run folder, or a text file or folder of them.")],
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=0, max=100, help="How many documents of a text to show.")] = 3,
    text_field: TextField = "text",
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Say what something is: a model's parts and sizes, a run's state, or what was found in a text.

    \b
    Examples:
      touchstone inspect runs/quickstart
      touchstone inspect my_texts/ --rows 5
      touchstone inspect reviews.jsonl --text-field body
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.inspection import inspect_path

    return finish(terminal, inspect_path(path, terminal, n_rows=rows, text_field=text_field))


def prepare(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as data.valid_fraction=0.1.")
    ] = None,
    data: DataPaths = [],  # noqa: B006 - typer copies it
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="The recipe whose data and tokenizer settings are used.")
    ] = "gpt-small",
    lang: LangOption = Lang.en,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Read, split and tokenize text once, ahead of the training that will use it.

    `train` does the same by itself and finds what is prepared by the hash of its content; this verb shows what comes out.

    \b
    Examples:
      touchstone prepare --data my_texts/
      touchstone prepare --data my_texts/ --recipe gpt-small tokenizer.vocab_size=8192
      touchstone prepare --data big.jsonl.gz --dry-run
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.preparation import prepare_ahead

    return finish(terminal, prepare_ahead(recipe, tuple(data), tuple(settings or ()), terminal, dry_run=dry_run))
