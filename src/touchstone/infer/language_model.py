"""A model as people use it: text in, text and measured confidence out, whatever kind of network is behind it.

This is the only place that applies a calibration stored with the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from touchstone.calibrate.drift import DriftCheck
from touchstone.errors import ConfigError, NoTokenizer, Unsupported
from touchstone.infer.answer_set import AnswerSet
from touchstone.infer.calibration import (
    Calibrated,
    CalibratedAnswers,
    CalibratedClasses,
    NotCalibrated,
    answer_calibration,
    class_calibration,
    next_token_calibration,
)
from touchstone.infer.engine import Engine
from touchstone.infer.finding import FilledMask, SpanAnswer, answer_question, fill_masks
from touchstone.infer.generation_config import generation_defaults
from touchstone.infer.labelling import Classification, Tagging, Text, classify_rows, encode_text, tag_texts
from touchstone.infer.logits import MAX_TOKENS
from touchstone.infer.packed_body import can_pack
from touchstone.infer.pairs import encode_pair, encode_source_pair
from touchstone.infer.reading import Row, check_whole, read_hidden, reading_length, several, several_texts
from touchstone.infer.request import Completion, Confidence, Request, Sampling, TokenEvent
from touchstone.infer.runner import LanguageCore
from touchstone.infer.score import (
    LogLikelihood,
    Rolling,
    loglikelihood,
    rolling_token_logprobs,
)
from touchstone.infer.speculative import Drafter, DraftModel, PromptLookup
from touchstone.infer.watch import Watch
from touchstone.models.card import Card
from touchstone.models.checkpoint import FolderNotes
from touchstone.models.heads import ClassifyHead, MaskedLmHead, SpanHead, TagHead, pool
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.quantized import numeric_scheme
from touchstone.models.spec import ModelSpec
from touchstone.models.transformer import Decoder
from touchstone.models.weights import weights_hash
from touchstone.nn.steady import make_steady
from touchstone.runtime import Runtime
from touchstone.text.tokenizer import Tokenizer

__all__ = ["ABILITIES", "LanguageModel", "Prompt"]

ABILITIES = ("generate", "loglikelihood", "rolling", "encode", "classify", "tag", "span", "fill_mask")

_OF_DECODERS = ("generate", "loglikelihood", "rolling")
_HEADS: dict[str, tuple[type, str]] = {
    "classify": (ClassifyHead, "classification head"),
    "tag": (TagHead, "tagging head"),
    "span": (SpanHead, "span head"),
    "fill_mask": (MaskedLmHead, "masked language model's head"),
}

Prompt = str | Sequence[int] | Request
TokenIds = Sequence[int]


class LanguageModel:
    """A network or n-gram model with its tokenizer, its card and its sampling defaults.

    tokenizer: None = calls with token ids work, calls with text raise NoTokenizer.
    generation_config: contents of the model's `generation_config.json`; `unused_settings` lists what in it has no effect, and why.
    runtime: device and number type as they were chosen, with the reasons; None = wherever the network is.
    notes: what the folder it was loaded from left out, and why.
    invariant: what a request gets is the same to the last bit whatever runs beside it; raises Unsupported where that cannot be had.
    draft: guesses ahead while completions are written, which changes no token: a smaller model of the same tokens, or "prompt-lookup".
    """

    def __init__(
        self,
        net: LanguageCore,
        *,
        tokenizer: Tokenizer | None = None,
        card: Card | None = None,
        generation_config: Mapping[str, Any] | None = None,
        runtime: Runtime | None = None,
        notes: FolderNotes | None = None,
        invariant: bool = False,
        draft: "LanguageModel | str | None" = None,
    ) -> None:
        self.net = net
        self.invariant = invariant
        self._drafter = _drafter(draft, net)
        if invariant and isinstance(net, LanguageNet):
            make_steady(net)
        self.tokenizer = tokenizer
        self.card = card if card is not None else Card()
        self.generation_config = dict(generation_config or {})
        self.runtime = runtime
        self.notes = notes
        self._defaults = generation_defaults(self.generation_config, self.spec.vocab_size, is_encoder_decoder=self._reads_sources)
        self._engine: Engine | None = None
        self._weights_seen: tuple[tuple[int, int], ...] = ()
        self._hashed: tuple[tuple[tuple[int, int], ...], str] | None = None
        self._calibration: Calibrated | NotCalibrated = NotCalibrated("")
        self._watch = Watch()

    @property
    def spec(self) -> ModelSpec | NgramSpec:
        return self.net.spec

    @property
    def can(self) -> frozenset[str]:
        """Which of `ABILITIES` this model has; the others raise Unsupported."""
        return frozenset(ability for ability in ABILITIES if self._lacks(ability) is None)

    def check_can(self, ability: str) -> None:
        """Raise Unsupported, with the reason and what the model can do, where it does not have the ability."""
        reason = self._lacks(ability)
        if reason is not None:
            able = ", ".join(sorted(self.can)) or "give its hidden states (`net`)"
            raise Unsupported(f"This model cannot `{ability}`: {reason}. It can {able}.")

    @property
    def drift(self) -> Mapping[str, DriftCheck]:
        """How live confidences compare with those that a calibration was measured on, by its target and task; empty until some came."""
        return self._watch.checks

    @property
    def unused_settings(self) -> dict[str, str]:
        """Settings of `generation_config.json` that have no effect here, with the reason."""
        return self._defaults.unused

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion: generation_config.json's, else the tokenizer's end token."""
        if self._defaults.eos_ids is not None:
            return self._defaults.eos_ids
        return (self.tokenizer.eos_id,) if self.tokenizer is not None and self.tokenizer.eos_id is not None else ()

    @property
    def prefix_id(self) -> int | None:
        """The token that stands before a text that is scored: the beginning-of-text token, else the end-of-text token."""
        tokenizer_says = (self.tokenizer.bos_id, self.tokenizer.eos_id) if self.tokenizer is not None else ()
        known = [id for id in (*tokenizer_says, self._defaults.bos_id, *self.eos_ids) if id is not None]
        return known[0] if known else None

    @property
    def engine(self) -> Engine:
        """What runs this model's requests; `cancel` is there."""
        self.check_can("generate")
        self._settle_calibration()
        if self._engine is None:
            self._engine = Engine(
                self.net,
                self.tokenizer,
                eos_ids=self.eos_ids,
                defaults=self._defaults.sampling,
                decoder_start_id=self._defaults.decoder_start_id,
                calibrated=self._calibrated,
                drafter=self._drafter,
                invariant=self.invariant,
            )
            self._weights_moved()
        return self._engine

    def generate(self, prompts: Prompt | Sequence[Prompt], **sampling: Any) -> list[Completion]:
        """Continue each prompt: a flat list, `n` choices a prompt, each with its request_index and index.

        prompts: text, token ids, a Request, or a list of these. sampling: fields of `Sampling`; a Request's own settings come first.
        Raises ConfigError for a setting out of range or a prompt that is empty or longer than the context.
        """
        return [self._explained(completion) for completion in self.engine.generate(_requests(prompts, sampling))]

    def stream(self, prompts: Prompt | Sequence[Prompt], **sampling: Any) -> Iterator[TokenEvent]:
        """The same completions token by token; the checks are done when this returns."""
        events = self.engine.stream(_requests(prompts, sampling))
        return (event if event.completion is None else replace(event, completion=self._explained(event.completion)) for event in events)

    def loglikelihood(self, pairs: Sequence[tuple[str | TokenIds, str | TokenIds]]) -> list[LogLikelihood]:
        """How likely each continuation is after its context, or target after its source; both as text or both as token ids."""
        self.check_can("loglikelihood")
        given = several(pairs, "loglikelihood", "pairs", one="(context, continuation)")
        encoded = [self._pair(place, pair) for place, pair in enumerate(given)]
        self._settle_calibration()
        start = self._defaults.decoder_start_id
        results = loglikelihood(
            self.net, encoded, decoder_start_id=start, calibrated=self._calibrated, max_tokens=self._max_scored_together
        )
        return [replace(result, confidence_reason=self._no_confidence) for result in results]

    def choose(self, questions: Sequence[tuple[str | TokenIds, Sequence[str | TokenIds]]], *, task: str | None = None) -> list[AnswerSet]:
        """How the model's belief divides over the legal answers to each question: (context, answers).

        task: whose calibration is applied, if the card has one for these answers. What contexts and answers begin with in common is read
        once. Raises ConfigError for fewer than two answers, or two that are the
        same.
        """
        given = several(questions, "choose", "questions", one="(context, answers)")
        pairs = []
        for place, question in enumerate(given):
            if not isinstance(question, tuple | list) or len(question) != 2 or isinstance(question[1], str) or len(question[1]) < 2:
                raise ConfigError(f"Question {place}: give (context, answers) with two answers or more.")
            pairs.append([(question[0], answer) for answer in question[1]])
        found = iter(self.loglikelihood([pair for of_question in pairs for pair in of_question]))
        sets: list[AnswerSet] = []
        settled: dict[
            tuple[str, ...], CalibratedAnswers | NotCalibrated
        ] = {}  # a calibration is settled once for the same answers: the weights are hashed for it
        for place, of_question in enumerate(pairs):
            whole = [[*context, *continuation] for context, continuation in (self._pair(place, pair) for pair in of_question)]
            try:
                answer_set = AnswerSet.of([answer for _, answer in of_question], whole, [next(found) for _ in of_question])
                sets.append(answer_set if task is None else self._with_answer_confidence(answer_set, task, settled))
            except ConfigError as error:
                raise ConfigError(f"Question {place}: {error}") from None
        return sets

    def rolling(self, texts: Sequence[str | TokenIds], stride: int | None = None) -> list[Rolling]:
        """How likely each whole text is, of any length, every token counted once.

        stride: None = disjoint windows of the model's context; a number = so many new tokens a window, each with at least
        window - stride tokens before it. Recurrent and n-gram models carry their state through and see all that came before.
        """
        self.check_can("rolling")
        texts = several(texts, "rolling", "texts")
        prefix_id = self.prefix_id
        if prefix_id is None:
            raise ConfigError("Scoring a whole text needs a beginning- or end-of-text token before it, and this model has neither.")
        ids = [self._encoded(text, place) for place, text in enumerate(texts)]
        n_bytes = [len(text.encode()) if isinstance(text, str) else None for text in texts]
        logprobs = rolling_token_logprobs(self.net, ids, prefix_id=prefix_id, stride=stride, max_tokens=self._max_scored_together)
        return [Rolling(float(values.sum()), tuple(values.tolist()), n) for values, n in zip(logprobs, n_bytes, strict=True)]

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> Float[np.ndarray, "N D"]:
        """One vector a text: its hidden states pooled as the card says (the mean of all where it says nothing), normalised if it says so.

        truncate: leave out what is longer than the model reads; else such a text is an error.
        """
        net = self._need("encode")
        settings, tokenizer = self.card.pooling, self.need_tokenizer()
        longest = _shorter(reading_length(net), settings.max_seq_len if settings else None)
        rows = [Row.of(encode_text(tokenizer, text, longest if truncate else None), net) for text in several_texts(texts, "encode")]
        if (long := [n for n, row in enumerate(rows) if longest is not None and len(row.token_ids) > longest]) and longest is not None:
            raise ConfigError(
                f"Text {long[0]} has {len(rows[long[0]].token_ids)} tokens and {longest} are read; shorten it or give `truncate=True`."
            )
        vectors = [pool(hidden[None], None, settings.mode if settings else "mean")[0] for hidden in read_hidden(net, rows)]
        if settings is not None and settings.normalise:
            vectors = [torch.nn.functional.normalize(vector, dim=0) for vector in vectors]
        return torch.stack(vectors).cpu().numpy() if vectors else np.zeros((0, net.spec.d_hidden), dtype=np.float32)

    def classify(self, texts: Sequence[Text], *, truncate: bool = False) -> list[Classification]:
        """The likeliest label of each text, or pair of texts, with the probability of every label.

        truncate: leave out what is longer than the model reads, of a pair from the longer text; else such a text is an error.
        """
        net, tokenizer = self._need("classify"), self.need_tokenizer()
        given, longest = several_texts(texts, "classify", "texts or pairs"), reading_length(net) if truncate else None
        encoded = [encode_text(tokenizer, text, longest) for text in given]
        found = classify_rows(net, [Row.of(each, net) for each in encoded], self.labels, [each.n_cut for each in encoded])
        calibration = class_calibration(self.card.calibration, lambda: self.weights_hash, self.numeric_scheme, self.labels)
        return [self._with_confidence(each, calibration) for each in found]

    def tag(self, texts: Sequence[str], *, stride: int = 64) -> list[Tagging]:
        """The words of each text with their labels, and the entities they make; a text of any length.

        stride: tokens in common of the windows in which a text is read that is longer than the model reads at once.
        """
        net = self._need("tag")
        check_whole("stride", stride, 0)
        return tag_texts(net, self.need_tokenizer(), several_texts(texts, "tag"), self.labels, stride)

    def span(self, pairs: Sequence[tuple[str, str]], *, n_best: int = 1, max_tokens: int = 30, stride: int = 128) -> list[list[SpanAnswer]]:
        """For each (question, context) the n_best stretches of the context that answer it, best first; a context of any length.

        max_tokens: of the longest answer. stride: tokens in common of the windows in which a long context is read.
        """
        net, tokenizer = self._need("span"), self.need_tokenizer()
        given = several_texts(pairs, "span", "pairs")
        settings = {"n_best": n_best, "max_tokens": max_tokens, "stride": stride}
        for name, value in settings.items():
            check_whole(name, value, 0 if name == "stride" else 1)
        return [answer_question(net, tokenizer, question, context, **settings) for question, context in given]

    def fill_mask(self, texts: Sequence[str], *, top_k: int = 5) -> list[list[FilledMask]]:
        """For each text the likeliest tokens of every mask in it, such as `[MASK]`, in order."""
        net = self._need("fill_mask")
        check_whole("top_k", top_k, 1)
        return fill_masks(net, self.need_tokenizer(), several_texts(texts, "fill_mask"), top_k, reading_length(net))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a head's labels; LABEL_0 … where the card has none."""
        head = self.spec.head if isinstance(self.spec, ModelSpec) else None
        if not isinstance(head, ClassifyHead | TagHead):
            return ()
        return self.card.labels or tuple(f"LABEL_{number}" for number in range(head.n_labels))

    @property
    def _reads_sources(self) -> bool:
        """Whether it is an encoder-decoder: a prompt is a source, and what is written a target."""
        return isinstance(self.spec, ModelSpec) and self.spec.encoder is not None and self.spec.decoder is not None

    @property
    def _calibrated(self) -> Calibrated | None:
        return self._calibration if isinstance(self._calibration, Calibrated) else None

    @property
    def _no_confidence(self) -> str | None:
        return self._calibration.reason if isinstance(self._calibration, NotCalibrated) else None

    def _settle_calibration(self) -> None:
        """Decide anew which calibration holds, if the weights were changed in place since the last time."""
        seen = self._state()
        if self._engine is not None and seen == self._weights_seen:
            return
        self._weights_seen, self._engine = seen, None
        self._calibration = next_token_calibration(self.card.calibration, lambda: self.weights_hash, self.numeric_scheme)

    def _weights_moved(self) -> None:
        """Take note that the engine laid weights out side by side, which changes no bit of them."""
        before, self._weights_seen = self._weights_seen, self._state()
        if self._hashed is not None and self._hashed[0] == before:
            self._hashed = self._weights_seen, self._hashed[1]

    @property
    def weights_hash(self) -> str:
        """Changes with any bit of any weight; a calibration holds for one hash."""
        if isinstance(self.net, NgramModel):
            return weights_hash({name: torch.from_numpy(array) for name, array in self.net.to_arrays().items()})
        state = self._state()
        if self._hashed is None or self._hashed[0] != state:  # reading all weights for every call would cost more than the call
            self._hashed = state, weights_hash(self.net.state_dict())
        return self._hashed[1]

    def _state(self) -> tuple[tuple[int, int], ...]:
        """Where the weights lie and how often each was written to in place: other weights have another state."""
        if isinstance(self.net, NgramModel):
            return ()
        return tuple((each.data_ptr(), 0 if each.is_inference() else each._version) for each in self.net.state_dict().values())

    @property
    def _max_scored_together(self) -> int:
        return 0 if self.invariant else MAX_TOKENS

    @property
    def numeric_scheme(self) -> str:
        """In what numbers the model runs; a calibration holds for one scheme."""
        return "float64" if isinstance(self.net, NgramModel) else numeric_scheme(self.net)

    def _explained(self, completion: Completion) -> Completion:
        return replace(completion, confidence_reason=self._no_confidence)

    def _pair(self, place: int, pair: tuple[str | TokenIds, str | TokenIds]) -> tuple[TokenIds, TokenIds]:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(f"Pair {place}: give (context, continuation), not a {type(pair).__name__}.")
        context, continuation = pair
        if isinstance(context, str) != isinstance(continuation, str):
            raise ConfigError(f"Pair {place}: give context and continuation both as text or both as token ids.")
        if not isinstance(context, str):
            return self._encoded(context, place), self._encoded(continuation, place)
        assert isinstance(continuation, str)
        tokenizer = self.need_tokenizer()
        try:
            if self._reads_sources:
                return encode_source_pair(tokenizer, context, continuation)
            return encode_pair(tokenizer, context, continuation, self.prefix_id)
        except ConfigError as error:
            raise ConfigError(f"Pair {place}: {error}") from None

    def _encoded(self, text: str | TokenIds, place: int) -> TokenIds:
        if isinstance(text, bytes) or not isinstance(text, Sequence):
            raise ConfigError(f"Text {place} is a {type(text).__name__}; give text or a list of token ids.")
        if isinstance(text, str):
            return self.need_tokenizer().encode(text)
        wrong = next((id for id in text if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < self.spec.vocab_size), None)
        if wrong is not None:
            raise ConfigError(f"Text {place} holds {wrong!r}; the model's token ids are 0 to {self.spec.vocab_size - 1}.")
        return text

    def need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise NoTokenizer("This model has no tokenizer, so text cannot be read; give token ids.")
        return self.tokenizer

    def _need(self, ability: str) -> LanguageNet:
        """The network, if it has the ability."""
        self.check_can(ability)
        assert isinstance(self.net, LanguageNet)
        return self.net

    def _lacks(self, ability: str) -> str | None:
        """Why the model does not have the ability; None if it has it."""
        spec = self.spec
        if isinstance(spec, NgramSpec):
            return None if ability in _OF_DECODERS else "it counts tokens and has no hidden states"
        if ability in _OF_DECODERS:
            if not spec.predicts_tokens:
                return "it reads texts whole and predicts no next token"
            return "it scores a target given a source, and a whole text has none" if ability == "rolling" and spec.encoder else None
        if ability == "encode":
            is_decoder = spec.predicts_tokens and spec.encoder is None and self.card.pooling is None
            return "it predicts next tokens; text vectors come from an encoder" if is_decoder else None
        if ability == "fill_mask" and spec.encoder is None:
            return "it looks back only; filling a mask needs an encoder that looks both ways"
        kind, words = _HEADS[ability]
        return None if isinstance(spec.head, kind) else f"it has no {words}"

    def _with_answer_confidence(
        self, found: AnswerSet, task: str, settled: dict[tuple[str, ...], CalibratedAnswers | NotCalibrated]
    ) -> AnswerSet:
        answers = tuple(answer if isinstance(answer, str) else str(answer) for answer in found.answers)
        if answers not in settled:
            records = self.card.calibration
            settled[answers] = answer_calibration(records, lambda: self.weights_hash, self.numeric_scheme, answers, task)
        calibration = settled[answers]
        if isinstance(calibration, NotCalibrated):
            return replace(found, confidence_reason=calibration.reason)
        values = tuple(np.exp(calibration.logprobs(np.array(found.shares))).tolist())
        self._watch.observe(calibration.record, [min(1.0, max(values))])
        return replace(found, confidence=Confidence(values, calibration.method, calibration.target))

    def _with_confidence(self, found: Classification, calibration: CalibratedClasses | NotCalibrated) -> Classification:
        if isinstance(calibration, NotCalibrated):
            return replace(found, confidence_reason=calibration.reason)
        if found.label is None or len(found.labels) != 1:
            return replace(found, confidence_reason="The stored calibration is for labels that exclude each other.")
        value = calibration.confidence(np.array(found.logits), self.labels.index(found.label))
        self._watch.observe(calibration.record, [min(1.0, value)])
        return replace(found, confidence=Confidence((value,), calibration.method, calibration.target))


def _requests(prompts: Prompt | Sequence[Prompt], sampling: Mapping[str, Any]) -> list[Request]:
    settings = Sampling(**sampling)
    is_one = isinstance(prompts, (str, Request)) or _is_token_ids(prompts)
    items = [cast(Prompt, prompts)] if is_one else several(prompts, "generate", "prompts")
    requests = [item if isinstance(item, Request) else Request(cast(str | TokenIds, item)) for item in items]
    return [replace(request, sampling=request.sampling.over(settings)) for request in requests]


def _shorter(a: int | None, b: int | None) -> int | None:
    known = [length for length in (a, b) if length is not None]
    return min(known) if known else None


def _is_token_ids(prompts: Any) -> bool:
    return isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], int)


def _drafter(draft: "LanguageModel | str | None", net: LanguageCore) -> Drafter | None:
    if draft is None:
        return None
    if isinstance(draft, str):
        if draft != "prompt-lookup":
            raise ConfigError(f"`draft` must be a model or 'prompt-lookup', not {draft!r}.")
        return PromptLookup()
    if not isinstance(draft.net, Decoder) or not can_pack(draft.net):
        raise Unsupported("The draft model must be a decoder: only that guesses token after token.")
    return DraftModel(draft.net, net.spec.vocab_size)
