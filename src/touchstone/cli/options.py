"""Options that several verbs share, declared once. Nothing heavy is imported here: `--help` reads this file."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from touchstone.errors import ConfigError, DataError

__all__ = [
    "AsJson",
    "DataPaths",
    "Device",
    "Draft",
    "DryRun",
    "Dtype",
    "FrequencyPenalty",
    "Invariant",
    "Lang",
    "LangOption",
    "LogitBias",
    "MaxNewTokens",
    "MinNewTokens",
    "MinP",
    "ModelFolder",
    "PresencePenalty",
    "RepetitionPenalty",
    "Seed",
    "Stop",
    "Temperature",
    "TextField",
    "TopK",
    "TopP",
    "Weights",
    "WeightsName",
    "biases",
    "text_or_stdin",
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

MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", metavar="N", help="At most so many new tokens.")]
MinNewTokens = Annotated[int | None, typer.Option("--min-new-tokens", metavar="N", help="At least so many.")]
Temperature = Annotated[float | None, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token; 1 is plain.")]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="K", help="Draw from the K likeliest; 0 = off.")]
TopP = Annotated[float | None, typer.Option("--top-p", metavar="P", help="Draw from the likeliest that hold P together; 1 = off.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", metavar="P", help="Draw from those at least P times as likely as the likeliest; 0 = off.")
]
RepetitionPenalty = Annotated[float | None, typer.Option("--repetition-penalty", metavar="R", help="CTRL's; 1 = off.")]
PresencePenalty = Annotated[float | None, typer.Option("--presence-penalty", metavar="R", help="OpenAI's; 0 = off.")]
FrequencyPenalty = Annotated[float | None, typer.Option("--frequency-penalty", metavar="R", help="OpenAI's; 0 = off.")]
LogitBias = Annotated[
    list[str] | None, typer.Option("--logit-bias", metavar="ID=BIAS", help="Add BIAS to the logit of token ID; repeatable.")
]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; repeatable.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same text; drawn if not given.")]


def biases(entries: list[str] | None) -> dict[int, float] | None:
    """`ID=BIAS` entries as a mapping; None where there are none."""
    found: dict[int, float] = {}
    for entry in entries or ():
        token_id, _, bias = entry.partition("=")
        try:
            found[int(token_id)] = float(bias)
        except ValueError:
            raise ConfigError(f"`--logit-bias {entry}`: write ID=BIAS with a token's number, such as 42=-5.") from None
    return found or None


def text_or_stdin(argument: str | None, words: Callable[[str], str]) -> str:
    """The argument, or all of stdin for `-` and for none; words: the phrases of the user's language."""
    if argument is not None and argument != "-":
        return argument
    if sys.stdin.isatty():
        typer.echo(words("note.reading"), err=True)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"stdin: byte {error.start} is no UTF-8; give text in UTF-8.") from None
