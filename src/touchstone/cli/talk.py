"""The verb `chat`."""

import contextlib
import os
import sys
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, Device, Draft, Dtype, Invariant, Lang, LangOption, Weights

__all__ = ["chat"]


def chat(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, a run folder, or the address of a server: http://host:port.")
    ],
    message: Annotated[
        str | None,
        typer.Argument(metavar="[MESSAGE]", help="Ask this and end; - reads it from stdin, as does stdin that is no terminal."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="What the model is told before the conversation.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Which of a server's models.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="An answer has at most so many tokens.")
    ] = None,
    min_new_tokens: Annotated[int | None, typer.Option("--min-new-tokens", metavar="N", help="At least so many.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="0 = always the likeliest token; 1 = the model's distribution.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", metavar="N", help="Draw from the N likeliest; 0 = off.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", metavar="P", help="Draw from the likeliest that hold P; 1 = off.")] = None,
    min_p: Annotated[
        float | None, typer.Option("--min-p", metavar="P", help="Draw from those at least P times as likely as the likeliest; 0 = off.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option("--repetition-penalty", metavar="R", help="CTRL's; 1 = off.")] = None,
    presence_penalty: Annotated[float | None, typer.Option("--presence-penalty", metavar="R", help="OpenAI's; 0 = off.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option("--frequency-penalty", metavar="R", help="OpenAI's; 0 = off.")] = None,
    logit_bias: Annotated[
        list[str] | None, typer.Option("--logit-bias", metavar="ID=BIAS", help="Add BIAS to the logit of token ID; repeatable.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; repeatable.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same answer; /retry goes to the next one.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    invariant: Invariant = False,
    draft: Draft = None,
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Talk with a model that has a chat template, here or behind an address.

    A server's key is read from TOUCHSTONE_API_KEY. While you talk, /help lists the commands.

    \b
    Examples:
      touchstone chat models/qwen
      touchstone chat http://127.0.0.1:8000 --system "Answer in one sentence."
      touchstone chat models/qwen "What is a touchstone?" --json
      cat question.txt | touchstone chat models/qwen
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.chatting import ask_once, converse, find_voice
    from touchstone.flows.opening import Opening

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
        "logit_bias": _biases(logit_bias),
        "stop": tuple(stop) if stop else None,
        "seed": seed,
    }
    opening = Opening(device, dtype, weights.value if weights else None, invariant, draft)
    voice = find_voice(model, sampling, name=name, opening=opening, environment=os.environ)
    try:
        if message is not None or as_json or not sys.stdin.isatty():
            return finish(terminal, ask_once(voice, _text(message), terminal, system=system))
        with contextlib.suppress(ImportError):  # lines can then be edited, and earlier ones brought back
            import readline  # noqa: F401
        return finish(terminal, converse(voice, terminal, input, system=system))
    finally:
        voice.close()


def _text(message: str | None) -> str:
    """The argument, or all of stdin for `-` and for none."""
    if message is not None and message != "-":
        return message
    if sys.stdin.isatty():
        typer.echo("Reading from the terminal; end with Ctrl-D.", err=True)
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _biases(entries: list[str] | None) -> dict[int, float] | None:
    if not entries:
        return None
    from touchstone.flows.writing import biases  # here: it brings torch, which talking to a server needs not

    return biases(entries)
