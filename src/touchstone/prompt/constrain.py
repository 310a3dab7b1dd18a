"""Constrained generation: answers that fit a JSON Schema, a regular expression, a Lark grammar or a list of choices.

A constraint is a rule of sampling (`Sampling.constraint`): at every step it bans the tokens after which the text could no longer fit. So
a completion that ends with "stop" fits; one that ends with "length" is the beginning of a text that fits. What llguidance does not
support is refused, never ignored. JSON is written compactly, without spaces or newlines, so that a model cannot fill its tokens with them;
properties come in the order of the schema.
Source: llguidance (Microsoft, MIT); its parser follows Earley 1970 over lexemes with derivatives of regular expressions (Brzozowski 1964).
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
import torch
from jaxtyping import Float
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor

from touchstone.errors import ConfigError, TouchstoneError, Unsupported
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.request import Request, RuleFactory
from touchstone.prompt.formats import rewritten
from touchstone.prompt.schema import check_schema, place_of
from touchstone.prompt.trial import STEP_S, Trial
from touchstone.prompt.trial_worker import longest_first
from touchstone.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

__all__ = ["Constrainer", "GrammarRule"]

MAX_CHARS = 500_000  # of a schema or grammar
MAX_NESTING = 200  # brackets inside brackets, in any of them
MAX_CHOICES = 10_000
MAX_COMPILED = 64  # grammars that are kept for the next request
MAX_COMPILED_CHARS = 500_000  # of all that are kept: compiled, a character can take a hundred bytes and more
MAX_TOKEN_IDS = 2**24

# What the steps of one constraint may take of the processor, over all its completions: measured are 0.1 ms a step and less, and 4 ms
# with a vocabulary of 150,000. A step may take what the cheapest that `Trial` follows may; what is saved up does not grow without end.
GRACE_S = 1.0  # for each completion

# llguidance's own budgets, for what `Trial` has let through: a step costs milliseconds
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 2_000_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 100_000,
    "max_items_in_row": 12_000,  # more than MAX_CHOICES
    "max_lexer_states": 100_000,
    "max_grammar_size": 500_000,
}
# Where only one text can follow it is not followed to its end at once: that takes long for a long one, and for ever where it has no end
_STEPWISE = '%llguidance {"no_forcing": true}'
_PLAIN = " ,;:'!%@=_"  # these mean themselves in a regular expression
_COMPACT: "JsonCompileOptions" = {"lenient": False, "coerce_one_of": False, "whitespace_flexible": False}


class Constrainer:
    """Makes constraints for the models that write with one tokenizer.

    eos_ids: the tokens that end a completion; allowed exactly where the grammar may end. vocab_size: rows of the model's scores, those that
    no token belongs to included.
    Raises Unsupported for a tokenizer whose tokens do not join to the text as they are (WordPiece).
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int], vocab_size: int) -> None:
        if not tokenizer.joins_bytes:
            raise Unsupported("This tokenizer sets spaces between its tokens as it decodes, so a grammar cannot tell what a token writes.")
        vocabulary = _Vocabulary(tokenizer, eos_ids, vocab_size)
        self._tokens = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary), eos_token=vocabulary.ends)
        self._trial = Trial(_LIMITS, vocabulary.tokens, vocabulary.special_token_ids, vocabulary.ends, vocabulary.bos_token_id)
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, model: LanguageModel) -> "Constrainer":
        """For one model; raises NoTokenizer if it has none."""
        return cls(model.need_tokenizer(), model.eos_ids, model.spec.vocab_size)

    def tokens_of(self, text: str) -> list[int]:
        """Tokens that spell the text, the longest first: all that a grammar reads can be spelt so."""
        return list(self._tokens.greedy_tokenize(text))

    def json_schema(self, schema: str | Mapping[str, Any] | bool) -> RuleFactory:
        """A JSON value that the schema (draft 2020-12, as text or read) accepts.

        Raises ConfigError for what is no schema, cannot be met or is too large, naming the place; Unsupported for a keyword or a form of
        one that cannot be guaranteed.
        """
        read = check_schema(schema, max_chars=MAX_CHARS, max_nesting=MAX_NESTING)
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(rewritten(read)), overrides=_COMPACT)
        return self._factory(grammar, "The schema", read)

    def json_object(self) -> RuleFactory:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> RuleFactory:
        """A text that matches the whole pattern (Rust's syntax: no look-around, no references back)."""
        _check_text(pattern, "pattern")
        return self._factory(llguidance.LLMatcher.grammar_from_regex(pattern), "The pattern")

    def grammar(self, lark: str) -> RuleFactory:
        """A text of the language of a Lark grammar, whose first rule is `start`."""
        _check_text(lark, "grammar")
        if lark.lstrip().startswith("{"):  # llguidance takes its own JSON form there, with settings of its own
            raise ConfigError("The grammar must be Lark, whose first rule is `start: …`, not JSON.")
        return self._factory(llguidance.LLMatcher.grammar_from_lark(lark), "The grammar")

    def choice(self, choices: Sequence[str]) -> RuleFactory:
        """One of these texts."""
        if isinstance(choices, str) or not choices or not all(isinstance(choice, str) and choice for choice in choices):
            raise ConfigError("`choice` takes one text or more, none of them empty.")
        if len(choices) > MAX_CHOICES:
            raise ConfigError(f"`choice` takes at most {MAX_CHOICES} texts, not {len(choices)}.")
        if (n_chars := sum(map(len, choices))) > MAX_CHARS:
            raise ConfigError(f"The choices have {n_chars:,} characters; at most {MAX_CHARS:,} are read.")
        for choice in choices:
            _check_characters(choice, "list of choices")
        pattern = "|".join(map(_as_pattern, dict.fromkeys(choices)))
        return self._factory(llguidance.LLMatcher.grammar_from_regex(pattern), "The list of choices")

    def _factory(self, grammar: str, name: str, schema: Any = None) -> RuleFactory:
        with self._lock:
            compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compile(_stepwise(grammar), name, schema)
        with self._lock:
            if len(grammar) <= MAX_COMPILED_CHARS:  # a longer one would drive out all others, and itself
                self._compiled[grammar] = compiled
                self._compiled.move_to_end(grammar)
            while len(self._compiled) > MAX_COMPILED or sum(map(len, self._compiled)) > MAX_COMPILED_CHARS:
                self._compiled.popitem(last=False)
        budget = _Budget()

        def rule(request: Request) -> GrammarRule:
            budget.add_completion()
            return GrammarRule(compiled.deep_copy(), self._tokens.vocab_size, budget)

        return rule

    def _compile(self, grammar: str, name: str, schema: Any) -> llguidance.LLMatcher:
        if (problem := self._trial.problem(grammar)) is not None:
            raise _refusal(problem, name, schema)
        compiled = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=llguidance.LLParserLimits(**_LIMITS))
        if compiled.is_error():
            raise _refusal(compiled.get_error(), name, schema)
        bits = allocate_token_bitmask(1, self._tokens.vocab_size)
        fill_next_token_bitmask(compiled, bits)
        if compiled.is_error():
            raise _refusal(compiled.get_error(), name, schema)
        if not bits.any():
            raise ConfigError(f"{name} accepts nothing: no token can be its first.")
        return compiled


class _Budget:
    """The processor's time that the steps of one constraint may take, in all completions that are held to it.

    What a step costs is not known before it is made: some grammars are cheap for a while and costly then, and the batch waits for them.
    """

    def __init__(self) -> None:
        self._left_s = self._most_s = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._left_s -= time.thread_time() - self._began

    def add_completion(self) -> None:
        """One completion more is held to the constraint."""
        self._left_s += GRACE_S
        self._most_s += GRACE_S

    def add_step(self) -> None:
        """One step more is made."""
        self._left_s = min(self._left_s + STEP_S, self._most_s)

    @property
    def is_spent(self) -> bool:
        return self._left_s < 0


class GrammarRule:
    """A sampling rule that bans every token after which the text could not fit the grammar any more.

    Raises ConfigError as it is applied where the text cannot be followed further, or only at too high a price.
    """

    def __init__(self, matcher: llguidance.LLMatcher, n_tokens: int, budget: _Budget) -> None:
        self._matcher = matcher
        self._budget = budget
        self._bits = allocate_token_bitmask(1, n_tokens)

    @property
    def must_stop(self) -> bool:
        """Whether the text is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def may_stop(self) -> bool:
        """Whether the text as it is fits."""
        return bool(self._matcher.is_accepting())

    def n_taken(self, token_ids: Sequence[int]) -> int:
        """Accept tokens as far as they fit; how many did."""
        with self._budget:
            return int(self._matcher.try_consume_tokens(list(token_ids)))

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        self._budget.add_step()
        with self._budget:
            fill_next_token_bitmask(self._matcher, self._bits)
        self._check()
        if self._budget.is_spent:
            raise ConfigError("The constraint cannot be followed further: each token takes it too long; make it smaller.")
        allowed = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little", count=len(logits)).view(bool)
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)

    def accept(self, token_id: int) -> None:
        with self._budget:
            self._matcher.consume_token(token_id)
        self._check()

    def rollback(self, n: int) -> None:
        self._matcher.rollback(n)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConfigError(f"The constraint cannot be followed further: {_first_line(self._matcher.get_error())}")


class _Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of every token; rows without a token have none, and are never allowed."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int], vocab_size: int) -> None:
        ends = sorted(set(eos_ids))
        special = {*tokenizer.special_ids, *ends}
        rows = range(min(vocab_size, MAX_TOKEN_IDS))
        self.tokens = [_marked(id) if id in special else tokenizer.token_bytes(id) for id in rows]
        if not ends:  # llguidance needs an end: a row more, which no model can choose
            ends = [len(self.tokens)]
            self.tokens.append(_marked(ends[0]))
        self.special_token_ids = sorted({id for id in special if id < len(self.tokens)} | set(ends))
        self.ends = ends
        self.eos_token_id = ends[0]
        self.bos_token_id = tokenizer.bos_id
        self._encode = tokenizer.encode
        self._by_bytes = {data: id for id, data in enumerate(self.tokens) if data and id not in special}
        self._longest = max(map(len, self._by_bytes), default=1)

    def __call__(self, text: str) -> list[int]:
        """Tokens that spell the text and nothing more: where the tokenizer sets a space before it, the longest ones first."""
        token_ids, data = self._encode(text), text.encode("utf-8")
        if b"".join(self.tokens[id] for id in token_ids) == data:
            return token_ids
        return longest_first(data, self._by_bytes, self._longest)  # llguidance checks what it gets against the text


def _marked(token_id: int) -> bytes:
    """Bytes that no text has, for a token that is no text."""
    return b"\xff<%d>" % token_id


def _stepwise(grammar: str) -> str:
    """A grammar, as llguidance puts it, that is followed one token after another."""
    if not grammar.startswith("{"):
        return f"{grammar}\n{_STEPWISE}\n"
    inner = json.loads(grammar)["grammars"][0]
    return json.dumps({"grammars": [{"lark_grammar": f"start: @answer\n{_STEPWISE}\n"}, {**inner, "name": "answer"}]})


def _as_pattern(text: str) -> str:
    """A regular expression for a text as it is."""
    return "".join(char if char.isalnum() or not char.isascii() or char in _PLAIN else f"\\x{{{ord(char):x}}}" for char in text)


def _check_text(text: str, name: str) -> None:
    if not isinstance(text, str) or not text:
        raise ConfigError(f"The {name} must be text, and not empty.")
    if len(text) > MAX_CHARS:
        raise ConfigError(f"The {name} has {len(text):,} characters; at most {MAX_CHARS:,} are read.")
    _check_characters(text, name)
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise ConfigError(f"The {name} has brackets {deepest} deep; at most {MAX_NESTING} are read.")


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"The {name} holds {text[error.start]!r}, which is half of a character or a byte that is no UTF-8.") from None


def _refusal(message: str, name: str, schema: Any) -> TouchstoneError:
    """What llguidance says, with the place in the schema if it names a keyword."""
    line = _first_line(message)
    unsupported = "Unimplemented keys" in message or "not supported" in message or "Unknown format" in message
    where = place_of(line, schema) if schema is not None else None
    kind: type[TouchstoneError] = Unsupported if unsupported else ConfigError
    return kind(f"{name} cannot be used{f' (at {where})' if where else ''}: {line}")


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[0] if lines else "no reason given"
    if text.endswith(":") and len(lines) > 1:  # a regular expression's error tells what is wrong in its last line
        text = f"{text} {lines[-1]}"
    return text if len(text) < 300 else text[:297] + "…"
