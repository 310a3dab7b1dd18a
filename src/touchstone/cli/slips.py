"""From a mistyped command to the right one: a wrong verb, a wrong option, a path where `--data PATH` belongs.

Works on the words that were typed, so a suggestion is the user's own command with the slip mended, ready to be pasted.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["SETTINGS", "command", "did_you_mean", "looks_like_path", "mended_option", "mended_verb", "plain", "with_data"]

PROGRAM = "touchstone"

SETTINGS = {".yaml", ".yml", ".toml", ".json"}
"""Endings of files that hold settings."""

_PLAIN = [
    (r"Value error, ", ""),
    (r"Input should be greater than or equal to (\S+)", r"must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"must be at most \1"),
    (r"Input should be a valid integer\b.*", "must be a whole number."),
    (r"Input should be a valid number\b.*", "must be a number."),
    (r"unexpected extra argument\(s\)", "unexpected extra arguments"),
]
"""Words of the libraries that read the options, and ours."""


def plain(message: str) -> str:
    """What is wrong with an option or argument, in plain words."""
    for theirs, ours in _PLAIN:
        message = re.sub(theirs, ours, message)
    return message


def did_you_mean(words: Sequence[str] | None) -> str:
    """The closing question of an error message; empty without a suggestion."""
    return f" Did you mean `{command(words)}`?" if words else ""


def command(words: Iterable[str]) -> str:
    """The words as one line that a shell reads back to them."""
    return shlex.join([PROGRAM, *words])


def mended_verb(words: Sequence[str], verbs: Iterable[str]) -> list[str] | None:
    """The command with its unknown first word mended: the nearest verb, or the verb that takes such a path."""
    place = _first_plain(words)
    if place is None:
        return None
    typed, rest = words[place], list(words[place + 1 :])
    near = difflib.get_close_matches(typed.lower(), list(verbs), n=1, cutoff=0.6)
    if near:
        return [*words[:place], near[0], *rest]
    if Path(typed).suffix in SETTINGS and Path(typed).is_file():
        return ["train", typed, *rest]
    if _is_model(Path(typed)):
        return ["inspect", typed]
    return ["train", "gpt-small", "--data", typed, *rest] if looks_like_path(typed) else None


def mended_option(words: Sequence[str], typed: str, options: Iterable[str]) -> list[str] | None:
    """The command with an unknown option replaced by the nearest one, or written as the override that it seems to be."""
    place = next((i for i, word in enumerate(words) if word == typed or word.startswith(typed + "=")), None)
    if place is None:
        return None
    name, equals, value = words[place].partition("=")
    if "." in name and equals:
        return [*words[:place], f"{name.lstrip('-')}={value}", *words[place + 1 :]]
    wanted = "--" + name.lstrip("-")
    candidates = [option for option in options if option.startswith("--")]
    near = [option for option in candidates if option.startswith(wanted)] or difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.6)
    return [*words[:place], near[0] + equals + value, *words[place + 1 :]] if near else None


def with_data(words: Sequence[str], stray: Iterable[str]) -> list[str]:
    """The command with its stray words as values of `--data`."""
    mended: list[str] = []
    strays = set(stray)
    for word in words:
        is_stray = word in strays and mended[-1:] != ["--data"]
        mended += ["--data", word] if is_stray else [word]
    return mended


def looks_like_path(word: str) -> bool:
    """Whether a word seems to name a file or folder: it is there, has a slash, or ends like a file."""
    return "=" not in word and (Path(word).exists() or "/" in word or 1 < len(Path(word).suffix) <= 6)


def _first_plain(words: Sequence[str]) -> int | None:
    return next((i for i, word in enumerate(words) if not word.startswith("-")), None)


def _is_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.json", "config.yaml", "model/config.json"))
