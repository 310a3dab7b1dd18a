"""The part of an assay on speed and memory, and the reading speed that a plan is timed by: short runs, good for this machine alone."""

from collections.abc import Callable
from typing import Any

import numpy as np

from touchstone.evaluate.probes import load_probes
from touchstone.flows.assay_parts import Clock, Subject
from touchstone.infer import LanguageModel
from touchstone.models.ngram import NgramModel
from touchstone.runtime import environment, resident_bytes

__all__ = ["Speed", "reading_speed"]

_READ_TOKENS, _READ_TEXTS, _WRITTEN_TOKENS, _ROUNDS = 1024, 64, 32, 3  # some seconds for a hundred million parameters


class Speed:
    """How fast it reads and writes on this machine, and what it takes of its memory: medians of three short runs."""

    name = "speed"

    def lacks(self, subject: Subject) -> str | None:
        if "loglikelihood" in subject.model.can:
            return None
        if not {"classify", "encode"} & subject.model.can:
            return "no_reading"
        return "no_tokenizer" if subject.model.tokenizer is None else None

    def amount(self, subject: Subject) -> dict[str, int]:
        return {"tokens": (_ROUNDS + 1) * _READ_TOKENS}

    def measure(self, subject: Subject) -> dict[str, Any]:
        model, machine = subject.model, environment()
        written = _rate(_writer(model), subject.clock, _ROUNDS) if "generate" in model.can else None
        return {
            "reading_tokens_per_s": reading_speed(model, subject.clock),
            "writing_tokens_per_s": written,
            "rounds": _ROUNDS,
            "weights_bytes": _weights_bytes(model),
            "resident_bytes": resident_bytes(),
            "cpu": machine["cpu"],
            "cuda": machine["cuda"],
            "n_threads": machine["n_threads"],
            "numeric_scheme": model.numeric_scheme,
        }


def reading_speed(model: LanguageModel, clock: Clock, *, rounds: int = _ROUNDS) -> float:
    """Tokens a second that it reads: the median of some short runs."""
    return _rate(_reader(model), clock, rounds)


def _weights_bytes(model: LanguageModel) -> int:
    if isinstance(model.net, NgramModel):
        return model.net.nbytes
    return sum(tensor.numel() * tensor.element_size() for tensor in model.net.state_dict().values())


def _rate(work: Callable[[], int], clock: Clock, rounds: int) -> float:
    """Tokens a second: the median of some runs after one that warms up."""
    work()
    rates = []
    for _ in range(rounds):
        began = clock()
        n_tokens = work()
        rates.append(n_tokens / (clock() - began))
    return float(np.median(rates))


def _reader(model: LanguageModel) -> Callable[[], int]:
    """Reads once, and says how many tokens that were."""
    if "loglikelihood" not in model.can:
        assert model.tokenizer is not None
        texts = [probe.context for probe in load_probes(language="en")][:_READ_TEXTS]
        n_tokens = sum(map(len, model.tokenizer.encode_batch(texts)))
        read = model.classify if "classify" in model.can else model.encode

        def read_texts() -> int:
            read(texts, truncate=True)
            return n_tokens

        return read_texts
    length = min(256, getattr(model.spec, "max_seq_len", None) or 256) - 1
    ids = _some_ids(model, length)
    rows = [ids[start:] + ids[:start] for start in range(max(1, _READ_TOKENS // length))]  # no two begin alike

    def read_rows() -> int:
        model.loglikelihood([(row, row[:1]) for row in rows])
        return len(rows) * length

    return read_rows


def _writer(model: LanguageModel) -> Callable[[], int]:
    longest = getattr(model.spec, "max_seq_len", None) or 256
    prompt = _some_ids(model, max(1, min(16, longest // 2)))
    n = max(1, min(_WRITTEN_TOKENS, longest - len(prompt) - 1))

    def write() -> int:
        done = model.generate([prompt], max_new_tokens=n, min_new_tokens=n, ignore_eos=True, temperature=0.0, n=1, num_beams=1)
        return len(done[0].token_ids)

    return write


def _some_ids(model: LanguageModel, n: int) -> list[int]:
    """Token ids of English text, or any where there is no tokenizer; the same for the same model."""
    if model.tokenizer is None:
        return [7 * place % model.spec.vocab_size for place in range(n)]
    ids = model.tokenizer.encode("\n".join(probe.context for probe in load_probes(language="en")))
    return (ids * (n // len(ids) + 1))[:n]
