"""Options that several verbs share, declared once. Nothing heavy is imported here: `--help` reads this file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "DataPaths", "Device", "DryRun", "Dtype", "Lang", "LangOption", "ModelFolder", "TextField"]


class Lang(StrEnum):
    """The languages that the toolkit speaks."""

    en = "en"
    zh = "zh"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
LangOption = Annotated[Lang, typer.Option("--lang", help="Language of what is shown: en or zh.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, its size, memory and time; write nothing.")]
DataPaths = Annotated[
    list[Path],
    typer.Option("--data", metavar="PATH", help="A text file or a folder of them (txt, md, py, html, jsonl, csv, parquet …); repeatable."),
]
TextField = Annotated[str, typer.Option("--text-field", metavar="NAME", help="The field or column that holds the text of a row.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder or a run folder.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float64.")]
