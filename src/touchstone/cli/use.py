"""Verbs that use a model: `evaluate`, `generate`, `complete`."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from touchstone.cli import slips
from touchstone.cli.options import (
    AsJson,
    DataPaths,
    Device,
    Draft,
    Dtype,
    FrequencyPenalty,
    Invariant,
    Lang,
    LangOption,
    LogitBias,
    MaxNewTokens,
    MinNewTokens,
    MinP,
    ModelFolder,
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TextField,
    TopK,
    TopP,
    Weights,
    biases,
    text_or_stdin,
)
from touchstone.errors import ConfigError, printable

__all__ = ["BadRows", "complete", "evaluate", "generate"]

TEXT_FIELD, MAX_BYTES = "text", 2_000_000
"""Of a measurement of text, where nothing else is asked for."""


class BadRows(StrEnum):
    """What becomes of a benchmark's rows that cannot be used."""

    COUNT = "count"
    CUT = "cut"
    STRICT = "strict"


def evaluate(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="A model folder or a run folder.")] = None,
    data: DataPaths = [],  # noqa: B006 - typer copies it
    text_field: TextField = TEXT_FIELD,
    stride: Annotated[
        int | None,
        typer.Option("--stride", metavar="N", min=1, help="New tokens of each overlapping window; half the context if not given."),
    ] = None,
    max_bytes: Annotated[
        int,
        typer.Option(
            "--max-bytes", metavar="N", min=1, help="Score at most so much text, whole documents chosen by a hash of their names."
        ),
    ] = MAX_BYTES,
    suite: Annotated[list[str], typer.Option("--suite", metavar="NAME", help="A benchmark, see --list; repeatable.")] = [],  # noqa: B006
    suite_data: Annotated[
        Path | None,
        typer.Option("--suite-data", metavar="PATH", help="The benchmark's file, or a folder that holds the files of all (--list)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Ask at most N examples, chosen by a hash of their names.")
    ] = None,
    shots: Annotated[int, typer.Option("--shots", metavar="N", min=0, help="Examples with their answers before each question.")] = 0,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="FOLDER", help="Keep answers and figures there; the same command goes on after a stop."),
    ] = None,
    bad_rows: Annotated[
        BadRows, typer.Option("--bad-rows", help="Rows that cannot be used: count them, cut those over the context, or stop (strict).")
    ] = BadRows.COUNT,
    list_suites: Annotated[bool, typer.Option("--list", help="List the benchmarks, what they need and where their files lie.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Measure how well a model predicts text: bits per byte with an interval by document, perplexity, calibration.

    Without --data, a run folder is measured on the test documents that its training kept out. Compressors stand beside it.
    With --suite, benchmarks: every figure with its standard error, and with what a trivial answer scores.

    \b
    Examples:
      touchstone evaluate runs/mine
      touchstone evaluate runs/mine --data other_texts/
      touchstone evaluate runs/mine --data held_out.jsonl --json
      touchstone evaluate --list
      touchstone evaluate runs/mine --suite piqa --suite copa --suite-data data/ --limit 500 --results results/
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    if list_suites:
        from touchstone.flows.suite_measuring import show_suites

        return finish(terminal, show_suites(terminal))
    if model is None:
        raise ConfigError(f"`evaluate` needs a model.{slips.did_you_mean(['evaluate', 'runs/mine'])}")
    if suite:
        of_text = {"--data": data, "--stride": stride, "--text-field": text_field != TEXT_FIELD, "--max-bytes": max_bytes != MAX_BYTES}
        _refuse(of_text, "to a measurement without `--suite`; its file is `--suite-data`.")
        from touchstone.flows.suite_measuring import measure_suites

        policy: Any = bad_rows.value
        found = measure_suites(
            model,
            suite,
            terminal,
            data=suite_data,
            limit=limit,
            shots=shots,
            results=results,
            policy=policy,
            device=device,
            dtype=dtype,
        )
        return finish(terminal, found)
    of_suite = {
        "--suite-data": suite_data,
        "--limit": limit,
        "--shots": shots,
        "--results": results,
        "--bad-rows": bad_rows != BadRows.COUNT,
    }
    _refuse(of_suite, "to `--suite NAME`; see `touchstone evaluate --list` for the names.")
    from touchstone.flows.measuring import measure_model

    found = measure_model(
        model, tuple(data), terminal, text_field=text_field, stride=stride, max_bytes=max_bytes, device=device, dtype=dtype
    )
    return finish(terminal, found)


def _refuse(options: Mapping[str, Any], belong_where: str) -> None:
    """Raise ConfigError for options that would change nothing, by whether they were given."""
    if stray := [f"`{name}`" for name, given in options.items() if given]:
        raise ConfigError(f"{' and '.join(stray)} belong{'s' * (len(stray) == 1)} {belong_where}")


def generate(
    model: ModelFolder,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One or more texts to continue; - reads one from stdin.")],
    max_new_tokens: MaxNewTokens = None,
    min_new_tokens: MinNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    logit_bias: LogitBias = None,
    stop: Stop = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end token.")] = False,
    seed: Seed = None,
    n: Annotated[int | None, typer.Option("--n", metavar="N", help="Completions of each prompt.")] = None,
    top_logprobs: Annotated[
        int | None, typer.Option("--top-logprobs", metavar="N", help="With --json: the N likeliest at each step.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option("--num-beams", metavar="N", help="Search with so many beams; 1 = none.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option("--json-schema", metavar="FILE", help="Write JSON that this schema accepts, and nothing else.")
    ] = None,
    regex: Annotated[str | None, typer.Option("--regex", metavar="PATTERN", help="Write text that this pattern matches whole.")] = None,
    grammar: Annotated[Path | None, typer.Option("--grammar", metavar="FILE", help="Write text of this Lark grammar.")] = None,
    choice: Annotated[list[str] | None, typer.Option("--choice", metavar="TEXT", help="Write one of these; repeatable.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show text as it comes.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    invariant: Invariant = False,
    draft: Draft = None,
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Continue texts.

    \b
    Examples:
      touchstone generate runs/quickstart "def main("
      touchstone generate runs/mine "Once upon a time" --max-new-tokens 80 --temperature 0.8 --seed 1
      touchstone generate runs/mine "First" "Second" --n 2 --json
      cat prompt.txt | touchstone generate runs/mine - --stream
      touchstone generate runs/mine "Is it good? " --choice yes --choice no --weights int8
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.opening import Opening
    from touchstone.flows.writing import Form, write

    sampling = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "logit_bias": biases(logit_bias),
        "stop": tuple(stop) if stop else None,
        "ignore_eos": ignore_eos or None,
        "seed": seed,
        "n": n,
        "top_logprobs": top_logprobs,
        "num_beams": num_beams,
    }
    form = Form(_content(json_schema), regex, _content(grammar), tuple(choice or ()))
    texts = [text_or_stdin(prompt, terminal.words) for prompt in prompts]
    opening = Opening(device, dtype, weights.value if weights else None, invariant, draft)
    written = write(model, texts, sampling, terminal, stream=stream, form=None if form == Form() else form, opening=opening)
    return finish(terminal, written)


def complete(
    model: ModelFolder,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text to complete; from stdin if not given.")] = None,
    alternatives: Annotated[int, typer.Option("--alternatives", metavar="N", min=1, max=64, help="How many continuations to show.")] = 3,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest continuation.")] = 24,
    lines: Annotated[int, typer.Option("--lines", metavar="N", min=1, help="Lines to complete; a continuation ends with the last.")] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Show the likeliest ways to go on, each with its probability, as an editor would offer them.

    \b
    Examples:
      touchstone complete runs/quickstart "for i in"
      touchstone complete runs/quickstart < half_a_file.py
      touchstone complete runs/mine "Dear " --alternatives 5 --json
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.opening import Opening
    from touchstone.flows.writing import offer

    given = text_or_stdin(text, terminal.words)
    opening = Opening(device, dtype, weights.value if weights else None)
    offered = offer(model, given, terminal, n_alternatives=alternatives, max_new_tokens=max_new_tokens, n_lines=lines, opening=opening)
    return finish(terminal, offered)


def _content(path: Path | None) -> str | None:
    """The text of a file; None where none is named."""
    if path is None:
        return None
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{printable(str(path))}: byte {error.start} is no UTF-8; give text in UTF-8.") from None
    except OSError as error:
        told = f"`{printable(str(path))}` cannot be opened: {error.strerror}. `--grammar` and `--json-schema` take the name of a file."
        raise ConfigError(told) from None
