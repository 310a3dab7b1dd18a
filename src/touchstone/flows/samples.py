"""What a model writes: completions of some prompts, with the probability of every token, for logs, terminals and reports."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from touchstone.infer import Completion, Engine, Request, Sampling
from touchstone.infer.runner import LanguageCore
from touchstone.text.document import Document
from touchstone.text.labelled import TextPair
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Sample", "Written", "draw_samples", "openings", "sample_from_record", "write_targets"]


@dataclass(frozen=True)
class Sample:
    """One completion; the texts of `pieces`, joined, are `text`, and each has its probability."""

    prompt: str
    text: str
    pieces: tuple[tuple[str, float], ...]
    finish_reason: str
    seed: int

    @property
    def coloured(self) -> list[tuple[str, float | None]]:
        """For `Page.tokens`: the prompt without a probability, then the pieces."""
        return [(self.prompt, None), *self.pieces]

    def to_record(self) -> dict[str, Any]:
        """Plain data for samples.jsonl and JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Written:
    """What an encoder-decoder wrote of a source, and what was expected."""

    source: str
    text: str
    expected: str

    def to_record(self) -> dict[str, Any]:
        """Plain data for samples.jsonl and JSON."""
        return asdict(self)


def sample_from_record(record: dict[str, Any]) -> Sample:
    """What `to_record` wrote, read back; other keys of the record are left alone."""
    pieces = tuple((str(text), float(probability)) for text, probability in record["pieces"])
    return Sample(record["prompt"], record["text"], pieces, record["finish_reason"], record["seed"])


def draw_samples(
    core: LanguageCore,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    n_new: int,
    temperature: float = 0.8,
    seed: int = 0,
    stop_at_end: bool = True,
) -> list[Sample]:
    """Continue each prompt once, through the engine that serves; the same seed gives the same texts.

    A prompt longer than the context allows keeps its end.
    """
    eos_ids = [tokenizer.eos_id] if tokenizer.eos_id is not None and stop_at_end else []
    engine = Engine(core, tokenizer, eos_ids=eos_ids)
    room = None if engine.max_seq_len is None else max(1, engine.max_seq_len - n_new)
    encoded = [tokenizer.encode(prompt)[-room:] if room else tokenizer.encode(prompt) for prompt in prompts]
    requests = [
        Request(ids, Sampling(max_new_tokens=n_new, temperature=temperature, seed=seed + place)) for place, ids in enumerate(encoded)
    ]
    return [_sample(prompt, completion, tokenizer) for prompt, completion in zip(prompts, engine.generate(requests), strict=True)]


def write_targets(core: LanguageCore, tokenizer: Tokenizer, pairs: Sequence[TextPair], *, start_id: int, context: int) -> list[Written]:
    """The likeliest target of each source, token by token, through the engine that serves; a source is read up to the context."""
    eos_ids = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
    engine = Engine(core, tokenizer, eos_ids=eos_ids, decoder_start_id=start_id)
    requests = [
        Request(tokenizer.encode_special(pair.source).token_ids[:context], Sampling(max_new_tokens=context - 1, temperature=0))
        for pair in pairs
    ]
    written = engine.generate(requests)
    return [Written(pair.source, one.text or "", pair.target) for pair, one in zip(pairs, written, strict=True)]


def openings(documents: Iterable[Document], n: int, *, n_chars: int = 60) -> list[str]:
    """Prompts from held-out text: the beginnings of its first n documents, cut at the end of a line or between words."""
    found = []
    for document in documents:
        text = document.text.lstrip()
        if len(text) > 2 * n_chars:
            found.append(_cut(text, n_chars))
        if len(found) == n:
            break
    return found


def _cut(text: str, n_chars: int) -> str:
    head = text[:n_chars]
    for mark in ("\n", " "):
        place = head.rfind(mark)
        if place > n_chars // 3:
            return head[:place]
    return head


def _sample(prompt: str, completion: Completion, tokenizer: Tokenizer) -> Sample:
    decoder = tokenizer.stream_decoder()
    pieces: list[tuple[str, float]] = []
    held = 1.0  # of tokens whose text is not certain yet: they are shown with the one that completes it
    for token_id, logprob in zip(completion.token_ids, completion.logprobs, strict=True):
        held = min(held, math.exp(logprob))
        if text := decoder.push(token_id):
            pieces.append((text, held))
            held = 1.0
    if text := decoder.finish():
        pieces.append((text, held))
    return Sample(prompt, "".join(text for text, _ in pieces), tuple(pieces), completion.finish_reason, completion.seed)
