"""What an evaluation asks of a model, as typed values, and the answers, all given by `LanguageModel`.

A request says what it needs (`ability`), how it is written down (`plain`: for hashes and for reports) and how many tokens it is, so that
requests can be run in batches of bounded size. What a model cannot take (a text over its context) is known before it is run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from touchstone.errors import ConfigError, TouchstoneError
from touchstone.infer.answer_set import AnswerSet
from touchstone.infer.finding import SpanAnswer
from touchstone.infer.labelling import Classification, Tagging
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.request import DEFAULT_MAX_NEW_TOKENS, Completion, Sampling
from touchstone.infer.request import Request as EngineRequest
from touchstone.infer.runner import bound_of
from touchstone.infer.score import LogLikelihood, Rolling

__all__ = [
    "ChoiceRequest",
    "ClassifyRequest",
    "EncodeRequest",
    "GenerateRequest",
    "LoglikelihoodRequest",
    "Output",
    "Request",
    "RollingRequest",
    "Size",
    "SpanRequest",
    "TagRequest",
    "answer_requests",
    "plain",
    "size_of",
    "told",
]


@dataclass(frozen=True, slots=True)
class LoglikelihoodRequest:
    """How likely a continuation is; answered by a `LogLikelihood`."""

    context: str
    continuation: str
    ability: ClassVar[str] = "loglikelihood"


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """How the belief divides over closed answers, which follow the context as they stand; answered by an `AnswerSet`."""

    context: str
    answers: tuple[str, ...]
    ability: ClassVar[str] = "loglikelihood"


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What is written after a prompt; answered by a tuple of `n` completions."""

    prompt: str
    sampling: Sampling = field(default_factory=Sampling)
    ability: ClassVar[str] = "generate"


@dataclass(frozen=True, slots=True)
class RollingRequest:
    """How likely a whole text is, of any length; answered by a `Rolling`. stride: as of `LanguageModel.rolling`."""

    text: str
    stride: int | None = None
    ability: ClassVar[str] = "rolling"


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """The label that a classification head gives a text, or a pair; answered by a `Classification`."""

    text: str
    second: str | None = None
    ability: ClassVar[str] = "classify"


@dataclass(frozen=True, slots=True)
class TagRequest:
    """The labels of a text's words, of any length; answered by a `Tagging`."""

    text: str
    ability: ClassVar[str] = "tag"


@dataclass(frozen=True, slots=True)
class SpanRequest:
    """Where a context, of any length, answers a question; answered by the likeliest `SpanAnswer`."""

    question: str
    context: str
    ability: ClassVar[str] = "span"


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """The vector of a text, (D,)."""

    text: str
    ability: ClassVar[str] = "encode"


Request = (
    LoglikelihoodRequest | ChoiceRequest | GenerateRequest | RollingRequest | ClassifyRequest | TagRequest | SpanRequest | EncodeRequest
)
Output = LogLikelihood | AnswerSet | tuple[Completion, ...] | Rolling | Classification | Tagging | SpanAnswer | Float[np.ndarray, " D"]


@dataclass(frozen=True, slots=True)
class Size:
    """n_tokens: that are read and written for a request. too_long: why the model cannot take it whole; None = it can.

    can_cut: whether it can be taken with its oldest tokens (of a head's input: its last) left out.
    """

    n_tokens: int
    too_long: str | None = None
    can_cut: bool = True


def plain(request: Request) -> dict[str, Any]:
    """The request as data for JSON."""
    if isinstance(request, GenerateRequest):
        asked: dict[str, Any] = {"prompt": request.prompt, "sampling": request.sampling.model_dump(mode="json", exclude_none=True)}
    else:
        asked = asdict(request)
    return {"kind": type(request).__name__, **{name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}}


def size_of(model: LanguageModel, request: Request) -> Size:
    """How large a request is for a model, and whether it fits."""
    return _SIZES[type(request)](model, request)


def answer_requests(model: LanguageModel, requests: Sequence[Request], *, cut: bool = False) -> list[Output]:
    """The outputs in the order of the requests; those of one kind run together.

    cut: what does not fit the context loses what `Size` says; else it is an error.
    Raises TouchstoneError for a completion that ended in an error: to leave it out would flatter the model.
    """
    outputs: list[Any] = [None] * len(requests)
    for kind, run in _RUNS.items():
        places = [place for place, request in enumerate(requests) if type(request) is kind]
        if places:
            for place, output in zip(places, run(model, [requests[place] for place in places], cut), strict=True):
                outputs[place] = output
    return outputs


def told(output: Output) -> Any:
    """An output as short data for JSON, for a reader who looks at one example."""
    if isinstance(output, LogLikelihood):
        return {"logprob": output.logprob, "is_greedy": output.is_greedy}
    if isinstance(output, AnswerSet):
        return {"best": output.best, "logprobs": list(output.logprobs)}
    if isinstance(output, Rolling):
        return {"logprob": output.logprob, "n_tokens": len(output.token_logprobs)}
    if isinstance(output, Classification):
        return {"label": output.label, "value": output.value, "probability": output.probabilities.get(output.label or "")}
    if isinstance(output, Tagging):
        return [[entity.text, entity.label] for entity in output.entities]
    if isinstance(output, SpanAnswer):
        return output.text
    if isinstance(output, np.ndarray):
        return {"n_dimensions": len(output)}
    return [completion.text for completion in output]


def _loglikelihood(model: LanguageModel, requests: Sequence[LoglikelihoodRequest], cut: bool) -> list[LogLikelihood]:
    return model.loglikelihood([(request.context, request.continuation) for request in requests])


def _choose(model: LanguageModel, requests: Sequence[ChoiceRequest], cut: bool) -> list[AnswerSet]:
    return model.choose([(request.context, request.answers) for request in requests])


def _generate(model: LanguageModel, requests: Sequence[GenerateRequest], cut: bool) -> list[tuple[Completion, ...]]:
    prompts = [EngineRequest(_cut_prompt(model, request) if cut else request.prompt, request.sampling) for request in requests]
    found: list[list[Completion]] = [[] for _ in requests]
    for completion in model.generate(prompts):
        if completion.finish_reason == "error":
            raise TouchstoneError(f"A completion ended in an error, so the model cannot be judged: {completion.error}")
        found[completion.request_index].append(completion)
    return [tuple(of_one) for of_one in found]


def _rolling(model: LanguageModel, requests: Sequence[RollingRequest], cut: bool) -> list[Rolling]:
    by_stride: dict[int | None, list[int]] = {}
    for place, request in enumerate(requests):
        by_stride.setdefault(request.stride, []).append(place)
    outputs: dict[int, Rolling] = {}
    for stride, places in by_stride.items():
        outputs |= dict(zip(places, model.rolling([requests[place].text for place in places], stride), strict=True))
    return [outputs[place] for place in range(len(requests))]


def _classify(model: LanguageModel, requests: Sequence[ClassifyRequest], cut: bool) -> list[Classification]:
    return model.classify([r.text if r.second is None else (r.text, r.second) for r in requests], truncate=cut)


def _tag(model: LanguageModel, requests: Sequence[TagRequest], cut: bool) -> list[Tagging]:
    return model.tag([request.text for request in requests])


def _span(model: LanguageModel, requests: Sequence[SpanRequest], cut: bool) -> list[SpanAnswer]:
    return [best[0] for best in model.span([(request.question, request.context) for request in requests])]


def _encode(model: LanguageModel, requests: Sequence[EncodeRequest], cut: bool) -> list[Float[np.ndarray, " D"]]:
    return list(model.encode([request.text for request in requests], truncate=cut))


_RUNS: Mapping[type, Callable[[LanguageModel, Any, bool], Sequence[Output]]] = {
    LoglikelihoodRequest: _loglikelihood,
    ChoiceRequest: _choose,
    GenerateRequest: _generate,
    RollingRequest: _rolling,
    ClassifyRequest: _classify,
    TagRequest: _tag,
    SpanRequest: _span,
    EncodeRequest: _encode,
}


def _pair_size(model: LanguageModel, request: LoglikelihoodRequest) -> Size:
    return _answers_size(model, request.context, (request.continuation,))


def _choice_size(model: LanguageModel, request: ChoiceRequest) -> Size:
    return _answers_size(model, request.context, request.answers)


def _answers_size(model: LanguageModel, context: str, answers: Sequence[str]) -> Size:
    n_context, n_answers = _count(model, context), [_count(model, answer) for answer in answers]
    n_all, longest = n_context + sum(n_answers), max(n_answers)  # the context is read once for all answers
    bound, source_bound = bound_of(model.net), _source_bound(model)
    if bound is not None and longest > bound:
        return Size(n_all, f"an answer of {longest} tokens where {bound} are read", can_cut=False)
    if source_bound is not None and n_context > source_bound:
        return Size(n_all, f"a source of {n_context} tokens where {source_bound} are read")
    if bound is not None and source_bound is None and n_context + longest > bound + 1:
        return Size(n_all, f"context and answer of {n_context + longest} tokens where {bound} are read")
    return Size(n_all)


def _prompt_size(model: LanguageModel, request: GenerateRequest) -> Size:
    n_prompt, n_new = _n_prompt(model, request), _n_new(request)
    bound = _prompt_bound(model, request)
    n_all = (n_prompt + n_new) * (request.sampling.n or 1)
    if bound is None or n_prompt <= bound:
        return Size(n_all)
    return Size(n_all, f"a prompt of {n_prompt} tokens, where {max(0, bound)} leave room for {n_new} new ones", can_cut=bound > 0)


def _whole_size(model: LanguageModel, request: RollingRequest) -> Size:
    return Size(_count(model, request.text))


def _labelled_size(model: LanguageModel, request: ClassifyRequest) -> Size:
    return _head_size(model, request.text, request.second)


def _encoded_size(model: LanguageModel, request: EncodeRequest) -> Size:
    return _head_size(model, request.text, None)


def _head_size(model: LanguageModel, text: str, second: str | None) -> Size:
    n, longest = len(model.need_tokenizer().encode_special(text, second).token_ids), _reading_bound(model)
    return Size(n, None if longest is None or n <= longest else f"a text of {n} tokens where {longest} are read")


def _words_size(model: LanguageModel, request: TagRequest) -> Size:
    return Size(_count(model, request.text))


def _span_size(model: LanguageModel, request: SpanRequest) -> Size:
    return Size(_count(model, request.question) + _count(model, request.context))


_SIZES: Mapping[type, Callable[[LanguageModel, Any], Size]] = {
    LoglikelihoodRequest: _pair_size,
    ChoiceRequest: _choice_size,
    GenerateRequest: _prompt_size,
    RollingRequest: _whole_size,
    ClassifyRequest: _labelled_size,
    TagRequest: _words_size,
    SpanRequest: _span_size,
    EncodeRequest: _encoded_size,
}


def _count(model: LanguageModel, text: str) -> int:
    return len(model.need_tokenizer().encode(text))


def _n_new(request: GenerateRequest) -> int:
    return request.sampling.max_new_tokens or DEFAULT_MAX_NEW_TOKENS


def _source_bound(model: LanguageModel) -> int | None:
    """The longest source of an encoder-decoder; None for any, and for what reads no source."""
    return getattr(model.spec, "max_source_len", None) if getattr(model.spec, "encoder", None) is not None else None


def _reading_bound(model: LanguageModel) -> int | None:
    """The longest text that is read whole by a head."""
    bounds = [_source_bound(model) if getattr(model.spec, "encoder", None) is not None else bound_of(model.net)]
    if model.card.pooling is not None:
        bounds.append(model.card.pooling.max_seq_len)
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


def _prompt_bound(model: LanguageModel, request: GenerateRequest) -> int | None:
    """The longest prompt that leaves room for all new tokens."""
    if getattr(model.spec, "encoder", None) is not None:
        return _source_bound(model)
    bound = bound_of(model.net)
    return None if bound is None else bound - _n_new(request)


def _cut_prompt(model: LanguageModel, request: GenerateRequest) -> str | list[int]:
    """The prompt, or its last tokens where it is too long, as lm-evaluation-harness cuts it; of a source, its first."""
    bound = _prompt_bound(model, request)
    if bound is None or _n_prompt(model, request) <= bound:
        return request.prompt
    tokenizer = model.need_tokenizer()
    if getattr(model.spec, "encoder", None) is not None:
        return list(tokenizer.encode_special(request.prompt, max_length=bound).token_ids)
    n_kept = bound - len(tokenizer.prefix_ids)
    if n_kept < 1:
        raise ConfigError(f"`max_new_tokens` ({_n_new(request)}) leaves no room for a prompt; lower it.")
    return [*tokenizer.prefix_ids, *tokenizer.encode(request.prompt)[-n_kept:]]


def _n_prompt(model: LanguageModel, request: GenerateRequest) -> int:
    """Tokens of the prompt with what the engine puts around it."""
    tokenizer = model.need_tokenizer()
    if getattr(model.spec, "encoder", None) is not None:
        return len(tokenizer.encode_special(request.prompt).token_ids)
    return len(tokenizer.prefix_ids) + len(tokenizer.encode(request.prompt))
