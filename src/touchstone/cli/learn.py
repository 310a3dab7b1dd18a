"""The verb `train`: from a recipe or a file of settings, and text, to a model folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli import slips
from touchstone.cli.options import AsJson, DataPaths, Device, DryRun, Lang, LangOption
from touchstone.errors import ConfigError

__all__ = ["train"]


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe's name (see --list), or a .yaml file of settings.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as train.seed=7 or model.n_layers=4.")
    ] = None,
    data: DataPaths = [],  # noqa: B006 - typer copies it
    valid: Annotated[
        list[Path], typer.Option("--valid", metavar="PATH", help="Rows to choose by, such as a dev file, in place of a share of --data.")
    ] = [],  # noqa: B006
    test: Annotated[list[Path], typer.Option("--test", metavar="PATH", help="Rows to judge by, in place of a share of --data.")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="The run folder; runs/RECIPE if not given.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="N", help="Size the run by time: the steps that fit are measured once, at the start."),
    ] = None,
    device: Device = "auto",
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes with their size and time.")] = False,
    lang: LangOption = Lang.en,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Train a model on your own text. The same command goes on after an interruption.

    \b
    Examples:
      touchstone train --list
      touchstone train gpt-small --data my_texts/ --out runs/mine
      touchstone train gpt-small --data my_texts/ --minutes 20 --dry-run
      touchstone train classify-lstm --data train.tsv --valid dev.tsv
      touchstone train gpt-small --data a.txt --data b.jsonl train.seed=7 model.n_layers=4
      touchstone train runs/mine/config.yaml --out runs/again
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    if list_recipes:
        from touchstone.flows.wanted import show_recipes

        return finish(terminal, show_recipes(terminal))
    name, changes = _understood(recipe, overrides or [], data, out)
    from touchstone.flows.journey import Journey, travel

    journey = Journey(
        name,
        tuple(data),
        valid=tuple(valid),
        test=tuple(test),
        out=out,
        overrides=tuple(changes),
        minutes=minutes,
        device=device,
        command=tuple(sys.argv),
    )
    return finish(terminal, travel(journey, terminal, dry_run=dry_run))


def _understood(recipe: str | None, overrides: list[str], data: list[Path], out: Path | None) -> tuple[str, list[str]]:
    """The recipe and the overrides; a path where `--data PATH` belongs is answered with the right command."""
    options = [word for path in data for word in ("--data", str(path))] + (["--out", str(out)] if out else [])
    if recipe is None:
        raise ConfigError(f"`train` needs a recipe.{slips.did_you_mean(['train', 'gpt-small', *(options or ['--data', 'my_texts/'])])}")
    stray = [word for word in overrides if "=" not in word]
    is_data = slips.looks_like_path(recipe) and Path(recipe).suffix not in slips.SETTINGS
    if is_data:
        stray = [recipe, *stray]
    if stray:
        changes = [word for word in overrides if "=" in word]
        given = [word for path in stray for word in ("--data", path)]
        words = ["train", "gpt-small" if is_data else recipe, *options, *given, *changes]
        what = f"`{stray[0]}` is a path, not a recipe." if is_data else f"`{stray[0]}` is no KEY=VALUE."
        raise ConfigError(f"{what}{slips.did_you_mean(words)}")
    return recipe, overrides
