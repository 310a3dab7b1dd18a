"""A model of this machine as one who answers in a chat."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from touchstone.errors import ConfigError
from touchstone.flows.chat_voice import Ended, TooLong
from touchstone.infer import LanguageModel, Request, Sampling
from touchstone.text.conversation import ChatFormat
from touchstone.text.document import Message

__all__ = ["LocalVoice"]

Limit = Literal["max_new_tokens", "context"]

MAX_ANSWER = 1024  # tokens, where nobody says: answers end by themselves; this is for a model that never does
_SHARE_KEPT = 4  # a quarter of the context is kept for the answer, or less if less is asked for


class LocalVoice:
    """Writes with a loaded model. sampling: fields of `Sampling`, without `n`.

    Raises ConfigError for a model without a chat template and Unsupported for one that cannot generate.
    """

    def __init__(self, model: LanguageModel, name: str, sampling: Mapping[str, Any]) -> None:
        model.check_can("generate")
        self.name = name
        self._model = model
        self._sampling = Sampling(**sampling)
        try:
            self._chat = ChatFormat.of(model.card.chat_template, model.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"{error} `touchstone complete` and `touchstone generate` do.") from None

    def answer(self, messages: Sequence[Message], *, n_retries: int = 0) -> Iterator[str | Ended]:
        """As `Voice.answer`; Ctrl-C ends it between two tokens, a second one at once."""
        prompt = self._chat.prompt(messages)
        settings, limit = self._settings(len(prompt), n_retries)
        request = Request(prompt, settings, end_ids=self._chat.end_ids)
        with _interruptible() as is_interrupted:
            for event in self._model.stream(request):
                if event.text:
                    yield event.text
                if event.completion is not None:
                    done = event.completion
                    if done.finish_reason == "error":
                        raise ConfigError(f"The answer failed: {done.error}")
                    n = len(done.logprobs)
                    mean = math.exp(sum(done.logprobs) / n) if n else None
                    yield Ended(done.finish_reason, len(prompt), n, done.seed, mean, limit if done.finish_reason == "length" else None)
                elif is_interrupted():
                    self._model.engine.cancel(request.id)

    def close(self) -> None:
        """End the process that renders the template."""
        self._chat.close()

    def _settings(self, n_prompt: int, n_retries: int) -> tuple[Sampling, Limit]:
        """How an answer is drawn, and what will have ended it if it reaches its greatest length."""
        longest = self._model.engine.max_seq_len
        wanted = self._sampling.max_new_tokens or MAX_ANSWER
        limit: Limit = "max_new_tokens"
        if longest is not None:
            room = longest - n_prompt
            if room < max(1, min(wanted, longest // _SHARE_KEPT)):
                raise TooLong(f"The conversation has {n_prompt} tokens and the context holds {longest}; too few are left for an answer.")
            if room < wanted:
                wanted, limit = room, "context"
        changes: dict[str, Any] = {"max_new_tokens": wanted}
        if self._sampling.seed is not None:
            changes["seed"] = self._sampling.seed + n_retries
        return self._sampling.model_copy(update=changes), limit


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is only noted, so that no step of the engine is broken off; the second is KeyboardInterrupt."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield noted.is_set
        return

    def note(number: int, frame: Any) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
