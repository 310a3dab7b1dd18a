"""Options that several verbs share, declared once. Nothing heavy is imported here: `--help` reads this file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "DataPaths",
    "Device",
    "Draft",
    "DryRun",
    "Dtype",
    "Invariant",
    "Lang",
    "LangOption",
    "ModelFolder",
    "TextField",
    "Weights",
    "WeightsName",
]


class Lang(StrEnum):
    """The languages that the toolkit speaks."""

    en = "en"
    zh = "zh"


class WeightsName(StrEnum):
    """Forms of the weights other than the stored one."""

    int8 = "int8"


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
Weights = Annotated[
    WeightsName | None, typer.Option("--weights", metavar="NAME", help="int8: products in 8 bits, faster on a CPU; as stored if not given.")
]
Invariant = Annotated[
    bool, typer.Option("--invariant", help="The same bits whatever else runs: slower, on a CPU in float32 or with --weights int8.")
]
Draft = Annotated[
    str | None,
    typer.Option("--draft", metavar="MODEL", help="prompt-lookup, or a smaller model of the same tokens: guesses ahead, changes no token."),
]
