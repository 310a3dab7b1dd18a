"""The verb `chat`."""

import contextlib
import os
import sys
from typing import Annotated

import typer

from touchstone.cli.options import (
    AsJson,
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
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    Weights,
    biases,
    text_or_stdin,
)

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
    seed: Seed = None,
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
        "logit_bias": biases(logit_bias),
        "stop": tuple(stop) if stop else None,
        "seed": seed,
    }
    opening = Opening(device, dtype, weights.value if weights else None, invariant, draft)
    voice = find_voice(model, sampling, name=name, opening=opening, environment=os.environ)
    try:
        if message is not None or as_json or not sys.stdin.isatty():
            return finish(terminal, ask_once(voice, text_or_stdin(message, terminal.words), terminal, system=system))
        with contextlib.suppress(ImportError):  # lines can then be edited, and earlier ones brought back
            import readline  # noqa: F401
        return finish(terminal, converse(voice, terminal, input, system=system))
    finally:
        voice.close()
