"""The text of one choice while it grows: decoding token by token, and ending before a stop string.

Text that may still turn out to be the beginning of a stop string is held back, so what was released is never taken back and the
released pieces join to the final text. Where several stop strings fit, the one that is complete first wins, whatever the tokens'
borders are.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from touchstone.text.tokenizer import Tokenizer

__all__ = ["CompletionText"]

_N_BEFORE = 8  # tokens of the prompt that the decoder sees first; whether a space follows depends on the last one


class CompletionText:
    """A rule that changes no logits: it turns accepted tokens into text and must stop at a stop string.

    prompt: what stands before; where tokens are words, the text of the first one depends on it (its leading space).
    n_free_tokens: in the text of the first so many tokens no stop string is looked for (`min_new_tokens`).
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), stops: Sequence[str] = (), n_free_tokens: int = 0) -> None:
        self._tokenizer = tokenizer
        self._before = () if tokenizer.is_byte_level else tuple(prompt[-_N_BEFORE:])
        self._stops = tuple(stops)
        self._n_free_tokens = n_free_tokens
        self._begin()

    def _begin(self) -> None:
        self._decoder = self._tokenizer.stream_decoder()
        for token_id in self._before:
            self._decoder.push(token_id)
        self._accepted: list[int] = []
        self._taken: list[str] = []
        self._ready: list[str] = []  # certain, but not handed out yet
        self._held = ""
        self.must_stop = False

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        return logits

    def accept(self, token_id: int) -> None:
        self._accepted.append(token_id)
        self._receive(self._decoder.push(token_id))

    def finish(self) -> None:
        """No token follows: what was held back is released, an incomplete character included."""
        if not self.must_stop:
            self._receive(self._decoder.finish())
        self._release(self._held)
        self._held = ""

    def rollback(self, n: int) -> None:
        """The accepted tokens that remain are decoded again; text that was taken must not be touched."""
        kept, n_taken = self._accepted[: len(self._accepted) - n], len("".join(self._taken))
        self._begin()
        for token_id in kept:
            self.accept(token_id)
        text = self.text
        assert len(text) >= n_taken, "text that was handed out cannot be taken back"
        self._taken, self._ready = [text[:n_taken]], [text[n_taken:]]

    @property
    def text(self) -> str:
        """All that is certain."""
        return "".join(self._taken + self._ready)

    def take(self) -> str:
        """What became certain since the last call."""
        piece = "".join(self._ready)
        self._taken.append(piece)
        self._ready.clear()
        return piece

    def _receive(self, text: str) -> None:
        if self.must_stop:
            return
        if not self._stops or len(self._accepted) <= self._n_free_tokens:
            self._release(text)
            return
        self._held += text
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            self._release(self._held[: min(found)[1]])
            self._held = ""
            self.must_stop = True
        else:
            n_certain = len(self._held) - self._n_possible()
            self._release(self._held[:n_certain])
            self._held = self._held[n_certain:]

    def _n_possible(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = min(max(map(len, self._stops)) - 1, len(self._held))
        ends = (self._held[-n:] for n in range(longest, 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self._stops)), 0)

    def _release(self, text: str) -> None:
        if text:
            self._ready.append(text)
