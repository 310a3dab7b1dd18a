"""The first verbs of a newcomer: `quickstart`, which needs nothing, and `doctor`, which checks the machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, DryRun, Lang, LangOption

__all__ = ["doctor", "quickstart"]


def quickstart(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The run folder.")] = Path("runs/quickstart"),
    minutes: Annotated[float, typer.Option("--minutes", metavar="N", help="Minutes of training; the rest is scaled with it.")] = 3.0,
    corpus: Annotated[
        str, typer.Option("--corpus", metavar="NAME", help="A named corpus; python is the source of Python's own library.")
    ] = "python",
    lang: LangOption = Lang.en,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Train, measure and calibrate a small model with no data of your own, in minutes.

    Takes the source of Python's standard library as its text, trains a tokenizer and a small decoder, compares it on held-out files with
    a 5-gram, an LSTM and compressors, and leaves a model folder and a report. The same command goes on after an interruption.

    \b
    Examples:
      touchstone quickstart
      touchstone quickstart --minutes 10 --out runs/longer
      touchstone quickstart --lang zh
      touchstone quickstart --dry-run
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.quickstart import QuickstartRequest, run_quickstart

    asked = QuickstartRequest(out, minutes=minutes, corpus=corpus, command=tuple(sys.argv))
    return finish(terminal, run_quickstart(asked, terminal, dry_run=dry_run))


def doctor(lang: LangOption = Lang.en, as_json: AsJson = False) -> int:
    """Check this machine, and prove on a tiny model that training here resumes and accumulates exactly.

    \b
    Examples:
      touchstone doctor
      touchstone doctor --json
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.doctor import examine

    return finish(terminal, examine(terminal))
