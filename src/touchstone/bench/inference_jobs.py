"""What the inference benchmark runs: models of real shapes, engines, and jobs, all as data.

Every round of a job has tokens of its own, the same for all engines, so that no cache of prefixes answers for a computation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

__all__ = ["ENGINES", "JOBS", "MODELS", "REFERENCE", "TINY", "EncodeJob", "EngineForm", "GenerateJob", "Job", "ModelShape"]

Unit = Literal["tokens/s", "sentences/s", "s"]

_ENDS = {"bos_token_id": 1, "eos_token_id": 1}
_N_FIRST = 2  # tokens 0 and 1 are the unknown and the end token, and never in a prompt


@dataclass(frozen=True)
class ModelShape:
    """A Hugging Face model type with its config; the weights are random, drawn from `seed`."""

    kind: Literal["gpt2", "llama", "bert", "marian"]
    config: Mapping[str, Any]
    seed: int = 0

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    def resized(self, **sizes: int) -> "ModelShape":
        return replace(self, config={**self.config, **sizes})


def _marian(vocab_size: int, **sizes: Any) -> ModelShape:
    pad = vocab_size - 1
    config = {
        "vocab_size": vocab_size,
        "max_position_embeddings": 512,
        "activation_function": "swish",
        "scale_embedding": True,
        "eos_token_id": 1,
        "forced_eos_token_id": None,
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items() if name != "d_model"},
    }
    return ModelShape("marian", {**config, "d_model": sizes["d_model"]})


MODELS = {
    "gpt2-124m": ModelShape("gpt2", {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, **_ENDS}),
    "llama-110m": ModelShape(
        "llama",
        {
            "vocab_size": 32000,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "intermediate_size": 2048,
            "max_position_embeddings": 1024,
            **_ENDS,
        },
    ),
    "bert-base": ModelShape(
        "bert",
        {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "marian-base": _marian(58101, d_model=512, layers=6, attention_heads=8, ffn_dim=2048),
}
"""GPT-2's smallest; llama2.c's 110M with grouped keys and values; BERT-base uncased; the transformer-base of opus-mt-en-de."""

TINY = {
    "gpt2-124m": MODELS["gpt2-124m"].resized(vocab_size=997, n_embd=64, n_layer=2, n_head=4),
    "llama-110m": MODELS["llama-110m"].resized(
        vocab_size=997, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128
    ),
    "bert-base": MODELS["bert-base"].resized(
        vocab_size=997, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    ),
    "marian-base": _marian(997, d_model=64, layers=2, attention_heads=4, ffn_dim=128),
}
"""The same names in two layers of 64, to see that all engines run."""


@dataclass(frozen=True)
class EngineForm:
    """One engine with its numbers: what takes a turn."""

    peer: Literal["touchstone", "transformers", "ctranslate2", "onnxruntime", "llama-cpp"]
    form: str

    @property
    def name(self) -> str:
        return f"{self.peer} {self.form}"

    @property
    def is_exact(self) -> bool:
        """Whether it computes in fp32, and so as the reference does but for rounding."""
        return self.form.split()[0] in ("float32", "f32")

    def runs(self, shape: ModelShape, job: "Job") -> bool:
        if self.form.endswith("continuous"):
            return isinstance(job, GenerateJob) and job.is_ragged
        kinds = {"onnxruntime": ("bert",), "llama-cpp": ("gpt2", "llama")}.get(self.peer, (shape.kind,))
        return shape.kind in kinds


REFERENCE = EngineForm("transformers", "float32")
"""What the others are checked against."""

ENGINES = (
    EngineForm("touchstone", "float32"),
    EngineForm("touchstone", "int8"),
    REFERENCE,
    EngineForm("transformers", "bfloat16"),
    EngineForm("transformers", "float32 continuous"),
    EngineForm("ctranslate2", "float32"),
    EngineForm("ctranslate2", "int8"),
    EngineForm("onnxruntime", "float32"),
    EngineForm("onnxruntime", "int8"),
    EngineForm("llama-cpp", "f32"),
    EngineForm("llama-cpp", "q8_0"),
)


@dataclass(frozen=True)
class GenerateJob:
    """Greedy or beam search from prompts of these lengths, each with so many new tokens, all requests at once.

    counts: what is divided by the time; "s" = nothing, the time itself counts, of a process that starts with this request.
    """

    kinds: tuple[str, ...]
    prompt_lengths: tuple[int, ...]
    new_lengths: tuple[int, ...]
    num_beams: int = 1
    counts: Literal["new tokens", "prompt tokens", "s"] = "new tokens"

    @property
    def is_ragged(self) -> bool:
        return len(set(self.new_lengths)) > 1

    @property
    def is_cold(self) -> bool:
        return self.counts == "s"

    @property
    def unit(self) -> Unit:
        return "s" if self.is_cold else "tokens/s"

    @property
    def n_units(self) -> int:
        return {"new tokens": sum(self.new_lengths), "prompt tokens": sum(self.prompt_lengths), "s": 1}[self.counts]

    def request(self, vocab_size: int, round_number: int) -> dict[str, Any]:
        prompts = _rows(self.prompt_lengths, vocab_size, round_number)
        return {"work": "generate", "prompts": prompts, "n_new": list(self.new_lengths), "num_beams": self.num_beams}

    def shortened(self) -> "GenerateJob":
        return replace(
            self,
            prompt_lengths=tuple(min(n, 16) for n in self.prompt_lengths),
            new_lengths=tuple(2 + n % 3 if self.is_ragged else min(n, 4) for n in self.new_lengths),
        )


@dataclass(frozen=True)
class EncodeJob:
    """One vector a sentence, the mean of its last hidden states, for sentences of these lengths in this order.

    per_call: sentences of one call; None = as the engine likes, which is all at once where it sees to lengths itself, else 16.
    """

    lengths: tuple[int, ...]
    per_call: int | None
    kinds: tuple[str, ...] = ("bert",)
    is_cold: bool = False
    unit: Unit = "sentences/s"

    @property
    def n_units(self) -> int:
        return len(self.lengths)

    def request(self, vocab_size: int, round_number: int) -> dict[str, Any]:
        return {"work": "encode", "rows": _rows(self.lengths, vocab_size, round_number), "per_call": self.per_call}

    def shortened(self) -> "EncodeJob":
        return replace(self, lengths=tuple(min(n, 16) for n in self.lengths))


Job = GenerateJob | EncodeJob

_DECODERS, _TRANSLATORS = ("gpt2", "llama"), ("marian",)


def _ragged(seed: int, n: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(length) for length in np.random.default_rng(seed).integers(low, high + 1, n))


def _rows(lengths: Sequence[int], vocab_size: int, round_number: int) -> list[list[int]]:
    """Random tokens; the last one of the vocabulary, which is Marian's padding, stays out."""
    rng = np.random.default_rng(round_number)
    return [rng.integers(_N_FIRST, vocab_size - 1, length).tolist() for length in lengths]


_SENTENCES = _ragged(2, 64, 8, 128)

JOBS: dict[str, Job] = {
    "decode-1": GenerateJob(_DECODERS, (64,), (128,)),
    "decode-8": GenerateJob(_DECODERS, (64,) * 8, (96,) * 8),
    "decode-16": GenerateJob(_DECODERS, (64,) * 16, (96,) * 16),
    "prefill-512": GenerateJob(_DECODERS, (512,), (1,), counts="prompt tokens"),
    "ragged-16": GenerateJob(_DECODERS, _ragged(0, 16, 16, 128), _ragged(1, 16, 16, 128)),
    "first-token": GenerateJob(_DECODERS, (64,), (1,), counts="s"),
    "encode-1": EncodeJob((128,) * 8, per_call=1),
    "encode-16": EncodeJob((128,) * 32, per_call=16),
    "encode-ragged": EncodeJob(_SENTENCES, per_call=None),
    "encode-sorted": EncodeJob(tuple(sorted(_SENTENCES)), per_call=None),
    "translate-1": GenerateJob(_TRANSLATORS, (32,), (64,)),
    "translate-1-beam4": GenerateJob(_TRANSLATORS, (32,), (64,), num_beams=4),
    "translate-16": GenerateJob(_TRANSLATORS, (32,) * 16, (64,) * 16),
    "translate-16-beam4": GenerateJob(_TRANSLATORS, (32,) * 16, (64,) * 16, num_beams=4),
}
"""In the order in which they run; `first-token` is a cold process: start, imports, load, one token."""
