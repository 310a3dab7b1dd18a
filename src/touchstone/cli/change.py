"""Verbs that make another form of a model: `convert`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, Lang, LangOption

__all__ = ["Origin", "StoredType", "convert"]


class Origin(StrEnum):
    """Tools whose files are read."""

    llama2c = "llama2c"


class StoredType(StrEnum):
    """Types that weights can be stored in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model folder, a run folder, or with --from another tool's file.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The model folder to write; must not exist or be empty.")],
    origin: Annotated[Origin | None, typer.Option("--from", metavar="TOOL", help="The tool that wrote SRC: llama2c.")] = None,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", metavar="FILE", help="With --from: the tokenizer's file.")] = None,
    dtype: Annotated[
        StoredType | None,
        typer.Option("--dtype", metavar="NAME", help="Store weights in float32, bfloat16 or float16; as they are if not given."),
    ] = None,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", metavar="SIZE", help="Begin a new weight file at this size.")] = "5GB",
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Make a model folder of another folder or of a llama2.c checkpoint, and check that it computes the same.

    The new folder is opened again and its logits on three prompts are compared with the source's before it is put in its place.

    \b
    Examples:
      touchstone convert runs/mine mine-bf16/ --dtype bfloat16
      touchstone convert path/to/huggingface_folder copy/ --max-shard-size 500MB
      touchstone convert stories15M.bin stories15M/ --from llama2c --tokenizer tokenizer.bin
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.conversion import ConversionRequest, bytes_of, convert_model

    asked = ConversionRequest(
        source,
        target,
        origin=origin.value if origin else None,
        tokenizer=tokenizer,
        dtype=dtype.value if dtype else None,
        max_shard_bytes=bytes_of(max_shard_size),
    )
    return finish(terminal, convert_model(asked, terminal))
