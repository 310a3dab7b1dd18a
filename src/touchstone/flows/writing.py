"""Letting a model write: the verbs `generate` and `complete`."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError, DataError, NoTokenizer
from touchstone.flows.opening import Opening
from touchstone.infer import Completion, LanguageModel
from touchstone.infer.request import RuleFactory
from touchstone.infer.stop import CompletionText
from touchstone.prompt.constrain import Constrainer
from touchstone.report.terminal import Terminal

__all__ = ["Alternative", "Form", "alternatives", "offer", "write"]


@dataclass(frozen=True)
class Form:
    """What a text must fit: one of a JSON Schema (as text), a regular expression, a Lark grammar (as text) and a list of choices."""

    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    choices: Sequence[str] = ()

    def constraint(self, model: LanguageModel) -> RuleFactory:
        """For one model. Raises ConfigError unless exactly one is given, and what `Constrainer` raises."""
        n_given = sum(part is not None for part in (self.json_schema, self.regex, self.grammar)) + bool(self.choices)
        if n_given != 1:
            raise ConfigError("Give one of `--json-schema`, `--regex`, `--grammar` and `--choice`; a text can be held to one form.")
        constrainer = Constrainer.of(model)
        if self.json_schema is not None:
            return constrainer.json_schema(self.json_schema)
        if self.regex is not None:
            return constrainer.regex(self.regex)
        return constrainer.grammar(self.grammar) if self.grammar is not None else constrainer.choice(self.choices)


def write(
    folder: Path | str,
    prompts: Sequence[str],
    sampling: Mapping[str, Any],
    terminal: Terminal,
    *,
    stream: bool = False,
    form: Form | None = None,
    opening: Opening = Opening(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Continue each prompt and show the texts; fields of `sampling` that are None are left to the model.

    stream: show text as it comes; one prompt with one completion only. form: what the texts must fit.
    """
    model = opening.load(folder)
    given = {name: value for name, value in sampling.items() if value is not None}
    if form is not None:
        given["constraint"] = form.constraint(model)
    if stream and (len(prompts) > 1 or (given.get("n") or 1) > 1):
        raise ConfigError("`--stream` shows one text as it comes; give one PROMPT and leave `--n` out.")
    if stream and not terminal.silent:
        completions = [_streamed(model, prompts[0], given, terminal)]
    else:
        completions = model.generate(list(prompts), **given)
        for completion in completions:
            _show(prompts[completion.request_index], completion, terminal)
    failed = [completion.error for completion in completions if completion.finish_reason == "error"]
    if failed:
        raise ConfigError(f"A completion failed: {failed[0]}")
    return {
        "status": "ok",
        "model": os.fspath(folder),
        "completions": [{"prompt": prompts[c.request_index], **_plain(c)} for c in completions],
    }


@dataclass(frozen=True)
class Alternative:
    """One way to go on. probability: of all its tokens; first_probability: of the first, by which alternatives are ordered."""

    text: str
    probability: float
    first_probability: float
    token_ids: tuple[int, ...]
    is_end: bool  # the model would end the text here


def alternatives(model: LanguageModel, text: str, *, n: int, max_new_tokens: int, n_lines: int = 1) -> tuple[list[Alternative], int]:
    """The n likeliest next tokens, each followed by its likeliest continuation to the end of the line; and how many old tokens did not fit.

    Raises NoTokenizer for a model without one, and DataError for an empty text.
    """
    if model.tokenizer is None:
        raise NoTokenizer("Completing text needs a tokenizer, and this model has none.")
    prompt = model.tokenizer.encode(text)
    if not prompt:
        raise DataError("There is no text to complete; give some, as an argument or on stdin.")
    prefix = list(model.tokenizer.prefix_ids)
    room = None if model.engine.max_seq_len is None else model.engine.max_seq_len - len(prefix)
    kept = prompt if room is None else prompt[-max(1, room - max_new_tokens) :]
    max_new_tokens = max_new_tokens if room is None else min(max_new_tokens, room - len(kept))
    before = [*prefix, *kept]
    first = model.generate([before], max_new_tokens=1, temperature=0.0, top_logprobs=n)[0]
    assert first.top_logprobs is not None
    heads = first.top_logprobs[0][:n]
    going = [head for head in heads if head.token_id not in model.eos_ids]
    rest: dict[int, Completion] = {}
    if going and max_new_tokens > 1:
        longer = model.generate([[*before, head.token_id] for head in going], max_new_tokens=max_new_tokens - 1, temperature=0.0)
        rest = {head.token_id: completion for head, completion in zip(going, longer, strict=True)}
    found = []
    for head in heads:
        completion = rest.get(head.token_id)
        ids = (head.token_id, *(completion.token_ids if completion else ()))
        logprobs = (head.logprob, *(completion.logprobs if completion else ()))
        found.append(_cut(CompletionText(model.tokenizer, before), ids, logprobs, n_lines, frozenset(model.eos_ids)))
    return found, len(prompt) - len(kept)


def offer(
    folder: Path | str,
    text: str,
    terminal: Terminal,
    *,
    n_alternatives: int = 3,
    max_new_tokens: int = 24,
    n_lines: int = 1,
    opening: Opening = Opening(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Show the likeliest ways to go on with a text."""
    words = terminal.words
    model = opening.load(folder)
    found, n_left_out = alternatives(model, text, n=n_alternatives, max_new_tokens=max_new_tokens, n_lines=n_lines)
    if n_left_out:
        terminal.say(words("complete.left_out", n=n_left_out), style="dim")
    rows = [(_percent(a.first_probability), _percent(a.probability), _one_line(a, words("complete.end"))) for a in found]
    terminal.table([words("complete.first"), words("complete.whole"), words("complete.text")], rows)
    return {"status": "ok", "model": os.fspath(folder), "n_tokens_left_out": n_left_out, "alternatives": [asdict(a) for a in found]}


def _cut(
    decoded: CompletionText, token_ids: Sequence[int], logprobs: Sequence[float], n_lines: int, eos_ids: frozenset[int]
) -> Alternative:
    """The tokens up to the end of the n-th line that shows something, or to the end of the text."""
    total, n_kept, is_end = 0.0, 0, False
    for token_id, logprob in zip(token_ids, logprobs, strict=True):
        total += logprob
        n_kept += 1
        if token_id in eos_ids:
            is_end = True
            break
        decoded.accept(token_id)
        if _n_lines_ended(decoded.text) >= n_lines:
            break
    else:
        decoded.finish()
    text = _first_lines(decoded.text, n_lines)
    return Alternative(text, math.exp(total), math.exp(logprobs[0]), tuple(token_ids[:n_kept]), is_end)


def _n_lines_ended(text: str) -> int:
    """Line ends behind the first visible character."""
    return text.lstrip().count("\n")


def _first_lines(text: str, n_lines: int) -> str:
    """Up to the n-th line end behind the first visible character, without it; the whole text where there are fewer."""
    place = len(text) - len(text.lstrip())
    for _ in range(n_lines):
        end = text.find("\n", place)
        if end < 0:
            return text
        place = end + 1
    return text[: place - 1]


def _one_line(alternative: Alternative, end: str) -> str:
    shown = alternative.text.replace("\n", "⏎")
    return f"{shown}{end}" if alternative.is_end else shown


def _streamed(model: LanguageModel, prompt: str, given: Mapping[str, Any], terminal: Terminal) -> Completion:
    terminal.piece(prompt, style="dim")
    finished = None
    for event in model.stream(prompt, **given):
        terminal.piece(event.text)
        finished = event.completion or finished
    terminal.say()
    assert finished is not None, "a stream ends with its completion"
    _tell(finished, terminal)
    return finished


def _show(prompt: str, completion: Completion, terminal: Terminal) -> None:
    terminal.piece(prompt, style="dim")
    terminal.piece(completion.text or "")
    terminal.say()
    _tell(completion, terminal)


def _tell(completion: Completion, terminal: Terminal) -> None:
    words = terminal.words
    n = len(completion.logprobs)
    mean = math.exp(sum(completion.logprobs) / n) if n else 0.0
    ended = words(f"generate.{completion.finish_reason}")
    terminal.say(words("generate.told", n=n, ended=ended, seed=completion.seed, probability=_percent(mean)), style="dim")
    terminal.say()


def _plain(completion: Completion) -> dict[str, Any]:
    data = asdict(completion)
    if completion.top_logprobs is not None:
        data["top_logprobs"] = [[entry._asdict() for entry in step] for step in completion.top_logprobs]
    return data


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %" if probability >= 0.001 else f"{100 * probability:.1g} %"
