"""What the engine process is asked, as work for the driver: prompts become tokens, settings become rules, and everything is checked.

This is done on threads of its own, so that a long text or grammar does not hold up those who write.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from touchstone.errors import ConfigError, TouchstoneError, Unavailable, Unsupported
from touchstone.infer import LanguageModel, Request, Sampling, TokenEvent, TokenLogprob, rolling_logits
from touchstone.infer.request import RuleFactory
from touchstone.prompt.constrain import Constrainer
from touchstone.prompt.tools import CallReader, ToolFormat
from touchstone.serve.driver import Generation, Reading
from touchstone.serve.tokens import told, told_tops
from touchstone.text.conversation import ChatFormat
from touchstone.text.document import Message, ToolCall
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Jobs"]

_PAIRS_A_PIECE = 8
_TEXTS_A_PIECE = 8

Prompt = str | list[int]


class Jobs:
    """Makes work for one model; any thread may call."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._chat: ChatFormat | None = None
        self._constrainer: Constrainer | None = None
        self._lock = threading.Lock()
        self._longest = model.engine.max_seq_len if "generate" in model.can else None
        self._calls: ToolFormat | None = None
        self.chat_problem: str | None = None
        self.tools_problem = "This model has no chat template, so it knows no tools."
        if model.tokenizer is not None:
            try:
                self._chat = ChatFormat.of(model.card.chat_template, model.tokenizer)
                self._calls = ToolFormat.of(self._chat)
            except Unavailable:  # what the model can was not found out: the next start tries again
                raise
            except TouchstoneError as error:
                if self._chat is None:
                    self.chat_problem = str(error)
                self.tools_problem = str(error)

    def facts(self) -> dict[str, Any]:
        """What the other process must know of the model."""
        model = self._model
        return {
            "can": sorted(model.can),
            "chat": self._chat is not None,
            "tools": self._calls is not None,
            "max_seq_len": self._longest,
            "invariant": model.invariant,
            "calibrated": bool(model.card.calibration),
            "has_tokenizer": model.tokenizer is not None,
        }

    def drift(self) -> dict[str, dict[str, Any]]:
        """How live confidences compare with those that each calibration was measured on."""
        return {name: check.to_dict() for name, check in self._model.drift.items()}

    def close(self) -> None:
        """End the process that renders conversations."""
        if self._chat is not None:
            self._chat.close()

    def made(self, message: dict[str, Any]) -> Generation | Reading | dict[str, Any]:
        """The work that a message asks for, or the answer if there is no work; raises TouchstoneError for what cannot be done."""
        make = {
            "generate": self._generation,
            "score": self._scoring,
            "embed": self._embedding,
            "classify": self._classifying,
            "tokenize": self._tokenized,
            "detokenize": self._detokenized,
        }[message["do"]]
        return make(message)

    def _generation(self, message: dict[str, Any]) -> Generation | Reading:
        self._model.check_can("generate")
        prompts = self._prompts(message)
        wanted = dict(message["sampling"])
        if "logit_bias" in wanted:
            wanted["logit_bias"] = {int(token_id): bias for token_id, bias in wanted["logit_bias"].items()}
        is_silent = wanted.get("max_new_tokens") == 0
        if is_silent:  # only the prompt is told
            del wanted["max_new_tokens"]
        sampling = Sampling.model_validate(wanted)
        if message.get("constraint") is not None:
            sampling = sampling.model_copy(update={"constraint": self._constraint(message["constraint"])})
        tools = self._tools(message)
        is_forced = bool(tools) and message["tool_choice"]["mode"] != "auto"
        if is_forced:
            sampling = sampling.model_copy(update={"constraint": self._forced_call(tools, message["tool_choice"])})
        end_ids = frozenset() if message.get("messages") is None else self._need_chat().end_ids
        requests = [Request(prompt, sampling, salt=message.get("salt", ""), end_ids=end_ids) for prompt in prompts]
        names = [tool["function"]["name"] for tool in tools]
        reader = None if not tools or self._calls is None else functools.partial(self._calls.reader, names, only_calls=is_forced)
        teller = _Teller(self._model.tokenizer, has_logprobs=sampling.top_logprobs is not None, reader=reader)
        job = Generation(message["id"], requests, teller)
        if not message.get("echo") and not is_silent:
            return job
        counts = [self._checked_length(prompt, n_new=0 if is_silent else 1) for prompt in prompts]
        given = message["prompts"] if message.get("messages") is None else prompts
        pieces = self._echoes(message, given, prompts) if message.get("echo") else iter(())
        return Reading(
            message["id"],
            _with_silence(message["id"], pieces, counts, sampling.n or 1) if is_silent else pieces,
            None if is_silent else job,
        )

    def _prompts(self, message: dict[str, Any]) -> list[Prompt | tuple[int, ...]]:
        if message.get("messages") is not None:
            chat = self._need_chat()
            messages = [_message(each) for each in message["messages"]]
            self._of_bearable_length("".join(each.content for each in messages))
            return [chat.prompt(messages, self._tools(message))]
        prompts: list[Prompt] = message["prompts"]
        tokenizer = self._model.tokenizer
        if tokenizer is None or self._reads_sources:
            return list(prompts)
        return [
            [*tokenizer.prefix_ids, *tokenizer.encode(self._of_bearable_length(each))] if isinstance(each, str) else each
            for each in prompts
        ]

    @property
    def _reads_sources(self) -> bool:
        return getattr(self._model.spec, "encoder", None) is not None

    def _of_bearable_length(self, text: str) -> str:
        """The text; refused before it is cut into tokens where it could not fit by far."""
        longest = self._longest
        if longest is not None and self._model.need_tokenizer().joins_bytes and len(text) > longest * self._longest_token:
            raise ConfigError(f"The text has {len(text)} characters, which cannot fit the context of {longest} tokens; shorten it.")
        return text

    @functools.cached_property
    def _longest_token(self) -> int:
        tokenizer = self._model.need_tokenizer()
        return max(1, *(len(tokenizer.token_text(token_id)) for token_id in range(tokenizer.vocab_size)))

    def _need_chat(self) -> ChatFormat:
        if self._chat is None:
            self._model.need_tokenizer()
            raise ConfigError(self.chat_problem or "This model has no chat template; give it a plain prompt at /v1/completions.")
        return self._chat

    def _tools(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """The tools that the model is shown; Unsupported where it cannot call any."""
        tools: list[dict[str, Any]] = message.get("tools") or []
        if tools and self._calls is None:
            raise Unsupported(f"`tools` cannot be used: {self.tools_problem}")
        return [] if tools and message["tool_choice"]["mode"] == "none" else tools

    def _forced_call(self, tools: list[dict[str, Any]], wanted: dict[str, Any]) -> RuleFactory:
        assert self._calls is not None
        return self._calls.rule(self._need_constrainer(), tools, name=wanted["name"], parallel=wanted["parallel"])

    def _constraint(self, wanted: dict[str, Any]) -> RuleFactory:
        make = getattr(self._need_constrainer(), wanted["kind"])  # what was compiled is kept for the next request
        factory: RuleFactory = make() if wanted["kind"] == "json_object" else make(wanted["value"])
        return factory

    def _need_constrainer(self) -> Constrainer:
        with self._lock:
            if self._constrainer is None:
                self._constrainer = Constrainer.of(self._model)
            return self._constrainer

    def _echoes(self, message: dict[str, Any], given: Sequence[Any], prompts: Sequence[Any]) -> Iterator[dict[str, Any]]:
        if self._reads_sources:
            raise ConfigError("`echo` gives back what a model goes on from; an encoder-decoder writes a text of its own.")
        return self._echo_pieces(message, given, prompts)

    def _echo_pieces(self, message: dict[str, Any], given: Sequence[Any], prompts: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """The prompts as they came, with the likelihood of each token if it is asked for."""
        tokenizer, n_top = self._model.tokenizer, message["sampling"].get("top_logprobs")
        for place, (raw, ids) in enumerate(zip(given, prompts, strict=True)):
            if isinstance(raw, str):
                text = raw
            else:
                text = self._model.need_tokenizer().decode(ids, skip_special=False)
            echo: dict[str, Any] = {"i": place, "text": text}
            if n_top is not None:
                skipped = len(tokenizer.prefix_ids) if tokenizer is not None and isinstance(raw, str) else 0
                echo["tokens"] = self._prompt_tokens(list(ids), n_top)[skipped:]
            yield {"id": message["id"], "echo": echo}

    def _prompt_tokens(self, ids: list[int], n_top: int) -> list[dict[str, Any]]:
        entries = [told(self._model.tokenizer, ids[0], None)]
        found: list[dict[str, Any]] = [{} for _ in ids[1:]]
        for chunk in rolling_logits(self._model.net, [ids[1:]], prefix_id=ids[0]) if len(ids) > 1 else ():
            logprobs = chunk.logits - chunk.logits.logsumexp(dim=-1, keepdim=True)  # to the bit what `loglikelihood` gives
            best = logprobs.topk(min(n_top, logprobs.shape[-1]), dim=-1)
            own = logprobs.gather(1, chunk.targets[:, None]).squeeze(1).tolist()
            rows = zip(chunk.places.tolist(), own, best.indices.tolist(), best.values.tolist(), strict=True)
            for place, logprob, top_ids, top_values in rows:
                tops = [TokenLogprob(id, value) for id, value in zip(top_ids, top_values, strict=True)]
                if ids[place + 1] not in top_ids:
                    tops.append(TokenLogprob(ids[place + 1], logprob))
                found[place] = {**told(self._model.tokenizer, ids[place + 1], logprob), "top": told_tops(self._model.tokenizer, tops)}
        return entries + found

    def _checked_length(self, prompt: Prompt | tuple[int, ...], n_new: int) -> int:
        """How many tokens a prompt has; ConfigError for one that cannot be read, or that leaves no room for n_new tokens more."""
        ids = prompt if not isinstance(prompt, str) else self._model.need_tokenizer().encode_special(prompt).token_ids
        size, longest = self._model.spec.vocab_size, self._longest
        if self._reads_sources:
            longest, n_new = getattr(self._model.spec, "max_source_len", None), 0
        wrong = next((token_id for token_id in ids if not 0 <= token_id < size), None)
        if wrong is not None:
            raise ConfigError(f"`prompt` holds token {wrong}; the model's tokens are 0 to {size - 1}.")
        if not ids:
            raise ConfigError("`prompt` is empty; give at least one token.")
        if longest is not None and len(ids) + n_new > longest:
            beside = ", at least one of them new" if n_new else ""
            raise ConfigError(f"The prompt has {len(ids)} tokens and the context holds {longest}{beside}; shorten it.")
        return len(ids)

    def _scoring(self, message: dict[str, Any]) -> Reading:
        self._model.check_can("loglikelihood")
        for text in (message["context"], *message["continuations"]):
            if isinstance(text, str) and not self._reads_sources:  # each pair is cut into tokens, the context again and again
                self._of_bearable_length(text)
        pairs = [(message["context"], each) for each in message["continuations"]]
        if message["closed"]:
            return Reading(message["id"], self._chosen(message))
        return Reading(message["id"], self._scores(message["id"], pairs))

    def _chosen(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        found = self._model.choose([(message["context"], message["continuations"])], task=message["task"])[0]
        scores = [
            {"logprob": logprob, "probability": float(probability), "n_tokens": n}
            for logprob, probability, n in zip(found.logprobs, found.probabilities, found.n_tokens, strict=True)
        ]
        facts: dict[str, Any] = {"best": found.best, "n_truncated": found.n_truncated}
        if found.confidence is not None:
            facts["confidence"] = _confidence(found.confidence)
        elif message["task"] is not None:
            facts["confidence_reason"] = found.confidence_reason
        yield {"id": message["id"], "scores": scores, "facts": facts}

    def _scores(self, job_id: int, pairs: Sequence[tuple[Any, Any]]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(pairs), _PAIRS_A_PIECE):
            scores = []
            for found in self._model.loglikelihood(pairs[start : start + _PAIRS_A_PIECE]):
                score = {"logprob": found.logprob, "token_logprobs": found.token_logprobs, "n_tokens": len(found.token_logprobs)}
                score |= {"is_greedy": found.is_greedy, "n_truncated": found.n_truncated}
                if found.confidence is not None:
                    score["confidence"] = _confidence(found.confidence)
                scores.append(score)
            yield {"id": job_id, "scores": scores}

    def _embedding(self, message: dict[str, Any]) -> Reading:
        self._model.check_can("encode")
        return Reading(message["id"], self._vectors(message["id"], *self._texts(message)))

    def _vectors(self, job_id: int, texts: Sequence[str], n_tokens: Sequence[int]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(texts), _TEXTS_A_PIECE):
            vectors = self._model.encode(texts[start : start + _TEXTS_A_PIECE]).astype(np.float64)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            unit = vectors / np.where(lengths > 0, lengths, 1.0)  # clients of this API compare by the dot product alone
            yield {"id": job_id, "vectors": unit.tolist(), "n_tokens": sum(n_tokens[start : start + _TEXTS_A_PIECE])}

    def _classifying(self, message: dict[str, Any]) -> Reading:
        self._model.check_can("classify")
        return Reading(message["id"], self._labels(message["id"], *self._texts(message)))

    def _labels(self, job_id: int, texts: Sequence[str], n_tokens: Sequence[int]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(texts), _TEXTS_A_PIECE):
            answers = []
            for found in self._model.classify(texts[start : start + _TEXTS_A_PIECE]):
                answer: dict[str, Any] = {"label": found.label, "labels": found.labels, "probabilities": found.probabilities}
                if found.value is not None:
                    answer["value"] = found.value
                if found.confidence is not None:
                    answer["confidence"] = _confidence(found.confidence)
                answers.append(answer)
            yield {"id": job_id, "answers": answers, "n_tokens": sum(n_tokens[start : start + _TEXTS_A_PIECE])}

    def _texts(self, message: dict[str, Any]) -> tuple[list[str], list[int]]:
        """Texts to read, and how many tokens each has; token ids must be how this tokenizer cuts a text."""
        tokenizer = self._model.need_tokenizer()
        texts = []
        for place, given in enumerate(message["texts"]):
            text = given if isinstance(given, str) else tokenizer.decode(given)
            if not isinstance(given, str) and tokenizer.encode(text) != given:
                raise ConfigError(f"`input` {place}: these token ids are not how this model's tokenizer cuts a text; send the text.")
            texts.append(text)
        counts = [len(tokenizer.encode_special(text).token_ids) for text in texts]
        longest = getattr(self._model.spec, "max_source_len", None) or getattr(self._model.spec, "max_seq_len", None)
        settings = self._model.card.pooling
        if settings is not None and settings.max_seq_len is not None:
            longest = min(settings.max_seq_len, longest or settings.max_seq_len)
        long = next((place for place, n in enumerate(counts) if longest is not None and n > longest), None)
        if long is not None:
            raise ConfigError(f"`input` {long} is too large: it has {counts[long]} tokens, and the model reads {longest}; shorten it.")
        return texts, counts

    def _tokenized(self, message: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self._model.need_tokenizer()
        text, adds = message["text"], message["add_special"]
        ids = list(tokenizer.encode_special(text).token_ids) if adds else tokenizer.encode(text)
        pieces = [told(tokenizer, token_id, None) for token_id in ids] if message["with_pieces"] else None
        return {"ids": ids, "pieces": pieces}

    def _detokenized(self, message: dict[str, Any]) -> dict[str, Any]:
        size = self._model.spec.vocab_size
        wrong = next((token_id for token_id in message["ids"] if not 0 <= token_id < size), None)
        if wrong is not None:
            raise ConfigError(f"`tokens` holds {wrong}; the model's tokens are 0 to {size - 1}.")
        return {"text": self._model.need_tokenizer().decode(message["ids"], skip_special=False)}


class _Teller:
    """Puts events for the other process; what a token looks like only where somebody asks.

    reader: makes what finds the calls of a choice, if there may be any.
    """

    def __init__(self, tokenizer: Tokenizer | None, *, has_logprobs: bool, reader: Callable[[], CallReader] | None = None) -> None:
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs
        self._reader = reader
        self._readers: dict[int, CallReader] = {}

    def __call__(self, event: TokenEvent) -> dict[str, Any]:
        message: dict[str, Any] = {"i": event.request_index, "j": event.index, "t": event.text}
        if self._reader is not None:
            message |= self._told_apart(event, self._readers.setdefault(event.index, self._reader()))
        if event.token_id is not None:
            message["k"] = event.token_id
            if self._has_logprobs:
                tops = told_tops(self._tokenizer, event.top_logprobs or ())
                message["token"] = {**told(self._tokenizer, event.token_id, event.logprob), "top": tops}
                if self._tokenizer is not None and event.token_id in self._tokenizer.special_ids:
                    message["token"]["is_silent"] = True  # it is not in the text
        if event.completion is not None:
            done = event.completion
            message |= {"f": event.finish_reason, "n": len(done.token_ids), "n_prompt": len(done.prompt_token_ids), "seed": done.seed}
            if done.error is not None:
                message |= {"problem": done.error, "fault": done.fault}
            if done.confidence is not None:
                message["confidence"] = _confidence(done.confidence)
        return message

    @staticmethod
    def _told_apart(event: TokenEvent, reader: CallReader) -> dict[str, Any]:
        said = reader.push(event.text)
        if event.finish_reason is None:
            return {"t": said}
        rest, calls = reader.finish(is_cut=event.finish_reason != "stop")
        told_calls = [{"id": call.id, "name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)} for call in calls]
        return {"t": said + rest, "calls": told_calls}


def _message(told: dict[str, Any]) -> Message:
    """A turn as the other process sent it."""
    calls = tuple(ToolCall(call["name"], call["arguments"], call["id"]) for call in told.get("tool_calls", ()))
    return Message(told["role"], told["content"], calls, told.get("name"), told.get("tool_call_id"))


def _with_silence(job_id: int, pieces: Iterator[dict[str, Any]], lengths: Sequence[int], n: int) -> Iterator[dict[str, Any]]:
    """The pieces, and the ends of completions that are to have no token. lengths: of the prompts."""
    yield from pieces
    ends = [
        {"i": place, "j": index, "t": "", "f": "length", "n": 0, "n_prompt": length}
        for place, length in enumerate(lengths)
        for index in range(n)
    ]
    yield {"id": job_id, "events": ends}


def _confidence(confidence: Any) -> dict[str, Any]:
    return {"value": list(confidence.value), "method": confidence.method, "target": confidence.target}
