"""The tensors of decoding: prompts go in, next-token logits come out, one step at a time, for any kind of model.

A `Runner` starts a batch; the `Rows` it returns hold the decoding state of that batch. Networks with a cache, encoder-decoders and the
n-gram model stand behind the same two protocols, so the engine knows none of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from touchstone.errors import ConfigError, Unsupported
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel
from touchstone.nn.cache import DecodingState

__all__ = [
    "LanguageCore",
    "NetRunner",
    "NgramRunner",
    "Rows",
    "Runner",
    "Seq2SeqRunner",
    "at_least_fp32",
    "bound_of",
    "checked_start",
    "evaluating",
    "padded_sources",
    "reads_source",
    "runner_of",
]

LanguageCore = LanguageNet | NgramModel  # what can be asked for the next token

MAX_STATIC_TOKENS = 2**15  # rows x room of a cache allocated ahead; a longer one grows as it is filled


class Rows(Protocol):
    """A batch that is being decoded."""

    @property
    def logits(self) -> Float[Tensor, "B V"]:
        """Scores of the next token of each row, in at least fp32."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; a row may be named more than once."""
        ...

    def step(self, token_ids: Sequence[int]) -> None:
        """Append one token to each row."""
        ...


class Runner(Protocol):
    """A model ready to decode."""

    vocab_size: int

    @property
    def start(self) -> tuple[int, ...] | None:
        """What its decoder begins with, the prompt being its source; None = it goes on from the prompt."""
        ...

    @property
    def max_source_len(self) -> int | None:
        """The longest prompt of a model that reads it as its source; None = any length."""
        ...

    @property
    def device(self) -> torch.device: ...

    def running(self) -> AbstractContextManager[None]:
        """Held while requests run, so that what every step would switch on and off is switched once."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """Read the prompts, of any lengths from 1; no row of the decoder will be longer than `room` tokens, all it reads included."""
        ...


def runner_of(core: LanguageCore, *, decoder_start_id: int | None = None, prefill_tokens: int = 2048) -> Runner:
    """The runner for a model.

    decoder_start_id: what the decoder of an encoder-decoder begins with.
    prefill_tokens: bounds the tokens of one forward pass while prompts are read; an encoder reads its sources at once.
    Raises ConfigError for an encoder-decoder without `decoder_start_id`, or with one that is no token; Unsupported for a network that
    predicts no tokens.
    """
    if isinstance(core, NgramModel):
        return NgramRunner(core)
    if not core.spec.predicts_tokens:
        raise Unsupported("This model predicts no tokens: completions need a decoder with scores over the vocabulary.")
    if reads_source(core):
        return Seq2SeqRunner(core, checked_start(core, decoder_start_id))
    return NetRunner(core, prefill_tokens=prefill_tokens)


def reads_source(core: LanguageCore) -> TypeGuard[LanguageNet]:
    """Whether the model is an encoder-decoder: its prompt goes to the encoder, and its decoder begins anew."""
    return not isinstance(core, NgramModel) and core.spec.encoder is not None and core.spec.decoder is not None


def checked_start(net: LanguageNet, decoder_start_id: int | None) -> int:
    """The token that the decoder of an encoder-decoder begins with; raises ConfigError if it is not known or no token."""
    if decoder_start_id is None:
        raise ConfigError(
            "The decoder of an encoder-decoder needs a token to begin with; give `decoder_start_token_id` (or `bos_token_id`)"
            " in generation_config.json."
        )
    if not 0 <= decoder_start_id < net.spec.vocab_size:
        raise ConfigError(f"`decoder_start_token_id` ({decoder_start_id}) must be a token: 0 to {net.spec.vocab_size - 1}.")
    return decoder_start_id


class NetRunner:
    """Runs a network with its cache."""

    start = None
    max_source_len = None

    def __init__(self, net: LanguageNet, *, prefill_tokens: int = 2048) -> None:
        self.net = net
        self.vocab_size = net.spec.vocab_size
        self._prefill_tokens = prefill_tokens

    @property
    def device(self) -> torch.device:
        return self.net.embed.weight.device

    def running(self) -> AbstractContextManager[None]:
        return evaluating(self.net)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> "NetRows":
        n_rows, longest = len(prompts), max(map(len, prompts))
        token_ids = torch.zeros(n_rows, longest, dtype=torch.long)
        mask = torch.zeros(n_rows, longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):  # right-aligned, so that every row's last token stands in the last column
            token_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = True
        token_ids, mask = token_ids.to(self.device), mask.to(self.device)
        static = n_rows * room <= MAX_STATIC_TOKENS
        cache = self.net.new_cache(n_rows, kind="static" if static else "growing", max_seq_len=room if static else None)
        width = max(1, self._prefill_tokens // n_rows)
        ragged = any(len(prompt) < longest for prompt in prompts)
        with evaluating(self.net):
            for start in range(0, longest, width):
                columns = slice(start, start + width)
                hidden = self.net.body(token_ids[:, columns], mask=mask[:, columns] if ragged else None, cache=cache).hidden
            return NetRows(self.net, cache, at_least_fp32(self.net.head(hidden[:, -1])))


class Seq2SeqRunner:
    """Runs an encoder-decoder: the encoder reads each prompt once, and the decoder's rows begin with the start token."""

    def __init__(self, net: LanguageNet, decoder_start_id: int) -> None:
        self.net = net
        self.vocab_size = net.spec.vocab_size
        self.start: tuple[int, ...] = (decoder_start_id,)
        self.max_source_len = net.spec.max_source_len

    @property
    def device(self) -> torch.device:
        return self.net.embed.weight.device

    def running(self) -> AbstractContextManager[None]:
        return evaluating(self.net)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> "NetRows":
        n_rows = len(prompts)
        source_ids, source_mask = padded_sources(prompts, self.device)
        start_ids = torch.tensor([self.start] * n_rows, device=self.device)  # (B, 1)
        static = n_rows * room <= MAX_STATIC_TOKENS
        cache = self.net.new_cache(n_rows, kind="static" if static else "growing", max_seq_len=room if static else None)
        with evaluating(self.net):
            hidden = self.net.body(start_ids, source_ids=source_ids, source_mask=source_mask, cache=cache).hidden
            return NetRows(self.net, cache, at_least_fp32(self.net.head(hidden[:, -1])))


def padded_sources(
    sources: Sequence[Sequence[int] | NDArray[np.integer]], device: torch.device
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"] | None]:
    """Source tokens padded on the right, with the mask that says which count; None where all do."""
    lengths = torch.tensor([len(source) for source in sources])
    longest = int(lengths.max())
    token_ids = torch.zeros(len(sources), longest, dtype=torch.long)
    for row, source in enumerate(sources):
        token_ids[row, : len(source)] = torch.as_tensor(source)
    mask = torch.arange(longest) < lengths[:, None]
    return token_ids.to(device), None if bool(mask.all()) else mask.to(device)


class NetRows:
    """The rows of a network, their cache and their next-token logits."""

    def __init__(self, net: LanguageNet, cache: DecodingState, logits: Float[Tensor, "B V"]) -> None:
        self._net = net
        self._cache = cache
        self.logits = logits

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.logits.device)
        self._cache.keep(index)
        self.logits = self.logits[index]

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> None:
        column = torch.tensor(token_ids, dtype=torch.long, device=self.logits.device)[:, None]  # (B, 1)
        with evaluating(self._net):
            hidden = self._net.body(column, cache=self._cache).hidden
            self.logits = at_least_fp32(self._net.head(hidden[:, -1]))


class NgramRunner:
    """Runs an n-gram model: its decoding state is the end of the text so far."""

    start = None
    max_source_len = None

    def __init__(self, model: NgramModel) -> None:
        self.model = model
        self.vocab_size = model.spec.vocab_size

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> "NgramRows":
        return NgramRows(self.model, prompts)


class NgramRows:
    """The rows of an n-gram model; a log-probability serves as logit."""

    logits: Float[Tensor, "B V"]

    def __init__(self, model: NgramModel, contexts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._contexts = [self._reached(context) for context in contexts]
        self._score()

    def keep(self, rows: Sequence[int]) -> None:
        self._contexts = [self._contexts[row] for row in rows]
        self.logits = self.logits[list(rows)]

    def step(self, token_ids: Sequence[int]) -> None:
        self._contexts = [self._reached([*context, token]) for context, token in zip(self._contexts, token_ids, strict=True)]
        self._score()

    def _reached(self, context: Sequence[int]) -> list[int]:
        """The tokens that the next one depends on."""
        return list(context[max(0, len(context) - self._model.context_length) :])

    def _score(self) -> None:
        self.logits = torch.from_numpy(self._model.next_log_probs_batch(self._contexts))  # (B, V)


def bound_of(core: LanguageCore, max_seq_len: int | None = None) -> int | None:
    """The longest text a model reads at once, or the shorter one asked for; None = any length, the state is carried.

    Raises ConfigError if more is asked for than the model was made for.
    """
    own = None if isinstance(core, NgramModel) else core.spec.max_seq_len
    if max_seq_len is None:
        return own
    if own is None:
        raise ConfigError(f"`max_seq_len` ({max_seq_len}) has no meaning for a model that carries its state over any length; leave it out.")
    if not 1 <= max_seq_len <= own:
        raise ConfigError(f"`max_seq_len` ({max_seq_len}) must be from 1 to the model's {own}.")
    return max_seq_len


def at_least_fp32(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    """Half-precision logits widened, so that log-probabilities are made and summed in fp32; fp64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def evaluating(net: LanguageNet) -> Iterator[None]:
    """Dropout off inside, the training mode as it was outside."""
    was_training = net.training
    if was_training:
        net.eval()
    try:
        yield
    finally:
        if was_training:
            net.train()
