"""`touchstone VERB …`: the verbs, and what becomes of errors.

Help must answer at once, so nothing here or in the verb files imports torch, numpy or pydantic at the top. A mistake of the user is one
line on stderr with the remedy, never a traceback; with `--json` it is also a document `{"error": {...}}` on stdout.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from touchstone.cli import begin, change, host, judge, learn, look, slips, talk, use
from touchstone.cli.options import Lang
from touchstone.errors import TouchstoneError

__all__ = ["VERBS", "build_app", "main"]

VERBS: dict[str, Callable[..., int]] = {
    "quickstart": begin.quickstart,
    "doctor": begin.doctor,
    "inspect": look.inspect,
    "prepare": look.prepare,
    "train": learn.train,
    "evaluate": use.evaluate,
    "calibrate": judge.calibrate,
    "assay": judge.assay,
    "generate": use.generate,
    "chat": talk.chat,
    "complete": use.complete,
    "serve": host.serve,
    "convert": change.convert,
}
"""The verbs in the order in which a newcomer meets them."""

_ABOUT = """From plain text to a language model you can trust.

\b
Start here:
  touchstone quickstart                               train, measure and report in minutes, with no data of your own
  touchstone train gpt-small --data my_texts/         a model of your own text
  touchstone generate runs/gpt-small "Once upon a"    use it
"""

# typer carries its own copy of click since 0.20; the root of its errors is found through a public name
_UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if (shown := _help(words)) is not None:
        typer.echo(shown)
        return 0
    try:
        code = build_app()(words, prog_name=slips.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except TouchstoneError as error:
        return _fail(words, type(error).__name__.lstrip("_"), str(error), error.exit_code)
    except _UsageProblem as problem:
        return _usage_problem(words, problem)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to flush at exit
        return 0
    except OSError as error:
        return _fail(words, "OSError", f"{error.filename or 'system'}: {error.strerror or error}.", 2)


def build_app() -> typer.Typer:
    """The command-line application."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
    app.callback(help=_ABOUT, invoke_without_command=True)(_start)
    for name, verb in VERBS.items():
        app.command(name, short_help=(verb.__doc__ or "").splitlines()[0])(_stoppable(verb))
    return app


_RESUMED = (learn.train, begin.quickstart)  # these save on their way, as a benchmark with `--results` does

_SECTIONS = {"text_field": "data", "label_field": "objective", "second_field": "objective", "vocab_size": "tokenizer"}
"""Settings that errors of data name, and where they lie in the settings of a training."""


class _Interrupted(TouchstoneError):
    """Ctrl-C outside of a training, which saves by itself; exit code 128 + SIGINT, as shells have it."""

    exit_code = 130


def _stoppable(verb: Callable[..., int]) -> Callable[..., int]:
    """The verb with Ctrl-C as an error of ours: typer would end the process without a word."""

    @wraps(verb)
    def run(*arguments: Any, **options: Any) -> int:
        try:
            return verb(*arguments, **options)
        except KeyboardInterrupt:
            goes_on = verb in _RESUMED or bool(options.get("results"))
            kept = "what was saved stays, and the same command goes on from there" if goes_on else "the same command begins anew"
            raise _Interrupted(f"Interrupted; {kept}.") from None

    return run


def _start(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"touchstone {installed('touchstone-lm')}")
        raise typer.Exit


def _help(words: Sequence[str]) -> str | None:
    """The help that is asked for; made without parsing the command, for which typer would import pydantic."""
    asked = list(words[: words.index("--")] if "--" in words else words)
    if asked and not {"-h", "--help"} & set(asked):
        return None
    group: Any = typer.main.get_command(build_app())
    context = group.context_class(group, info_name=slips.PROGRAM, **group.context_settings)
    verb = next((word for word in asked if not word.startswith("-")), None)
    if verb is None:
        return str(group.get_help(context))
    if verb not in VERBS:
        return None
    command = group.commands[verb]
    return str(command.get_help(command.context_class(command, info_name=verb, parent=context)))


def _usage_problem(words: Sequence[str], problem: Any) -> int:
    """One line for a command that cannot be read, with the command that was probably meant."""
    message = slips.plain(" ".join(str(problem.format_message()).split()))
    verb = next((word for word in words if not word.startswith("-")), "")
    if verb not in VERBS:
        mended = slips.mended_verb(words, VERBS)
        known = f"No verb `{verb}`. All: {', '.join(VERBS)}." if verb else message
        return _fail(words, "UsageError", known + slips.did_you_mean(mended), 2)
    options = _options_of(verb)
    mended = None
    if name := getattr(problem, "option_name", None):
        if not message.startswith("No such option"):
            return _fail(words, "UsageError", _with_help(message, verb), 2)
        message = f"`touchstone {verb}` has no option `{name}`."
        mended = slips.mended_option(words, name, options)
    elif "unexpected extra argument" in message and "--data" in options:
        stray = [word for word in words[1:] if f"{word}" in message and slips.looks_like_path(word)]
        mended = slips.with_data(words, stray) if stray else None
    told = f"{message.rstrip('.')}.{slips.did_you_mean(mended)}" if mended else _with_help(message, verb)
    return _fail(words, "UsageError", told, 2)


def _with_help(message: str, verb: str) -> str:
    return f"{message.rstrip('.')}. See `touchstone {verb} --help`."


def _options_of(verb: str) -> list[str]:
    group: Any = typer.main.get_command(build_app())
    return [name for parameter in group.commands[verb].params for name in parameter.opts]


def _spelled(words: Sequence[str], message: str) -> str:
    """The message with its settings as this verb takes them: `label_field` is `--label-field`, or `data.label_field` of a training."""
    verb = next((word for word in words if word in VERBS), "")
    options = _options_of(verb) if verb else []

    def as_typed(found: re.Match[str]) -> str:
        name, value = found.groups()
        option = f"--{name.replace('_', '-')}"
        if option in options:
            return f"`{option}{value.replace('=', ' ')}`"
        return f"`{_SECTIONS[name]}.{name}{value}`" if verb == "train" and name in _SECTIONS else found.group()

    return re.sub(r"`([a-z][a-z_]*)((?:=[^`]*)?)`", as_typed, message)


def _fail(words: Sequence[str], kind: str, message: str, exit_code: int) -> int:
    from touchstone.report.terminal import escaped_json, visible

    message = _spelled(words, _told(words, message))
    if "--json" in words:
        document = escaped_json({"error": {"kind": kind, "message": message, "exit_code": exit_code}})
        sys.stdout.flush()
        typer.echo(document.encode())
    typer.echo(f"touchstone: {visible(message)}", err=True)
    return exit_code


def _told(words: Sequence[str], message: str) -> str:
    """The message in the language that the command asks for, without the name of a class of ours before it."""
    from touchstone.report.words import words as speaking

    if message.startswith("Sampling: "):
        message = message.removeprefix("Sampling: ").rstrip(".") + "."
    return speaking(_language(words)).told(message)


def _language(words: Sequence[str]) -> str:
    """The language that a command asks for, though it may be one that cannot be read."""
    given = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word == "--lang"]
    given += [word.partition("=")[2] for word in words if word.startswith("--lang=")]
    return given[-1] if given and given[-1] in list(Lang) else Lang.en


if __name__ == "__main__":
    sys.exit(main())
