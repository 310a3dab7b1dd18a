"""A model class of lm-evaluation-harness, so that any of its tasks runs on our engine, offline.

    import lm_eval
    from touchstone.evaluate.harness import TouchstoneLM

    lm_eval.simple_evaluate(TouchstoneLM("runs/mine"), tasks=["piqa"])

The class subclasses the harness's own, so it is made when it is first asked for; that also registers it there under `touchstone`
(`lm_eval --model touchstone --model_args pretrained=runs/mine` after this module was imported).
Contract: `lm_eval.api.model.LM` of 0.4.13. A context that does not fit loses its oldest tokens, as in the harness's own classes.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError, MissingPackage
from touchstone.evaluate.ask import GenerateRequest, Request, answer_requests
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.loading import load
from touchstone.infer.request import Sampling
from touchstone.infer.runner import bound_of

__all__ = ["TouchstoneLM", "harness_class", "sampling_of"]

TouchstoneLM: Any
"""The class of `harness_class`, made when it is first asked for."""

REQUESTS = 64
"""Requests of one call of the engine where `batch_size` does not say."""

MAX_GEN_TOKS = 256
"""New tokens where a task does not say; as in the harness's own class."""

_SAME = {"temperature": float, "top_p": float, "top_k": int, "min_p": float, "num_beams": int, "repetition_penalty": float, "seed": int}
"""Settings of generation that go by the same name on both sides."""


def __getattr__(name: str) -> Any:
    if name == "TouchstoneLM":
        return harness_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """What a task's `generation_kwargs` ask of the engine; without `do_sample` or a temperature, the likeliest tokens.

    Raises ConfigError for a setting that has no counterpart: to leave it out would be another task.
    """
    known = {"until", "max_gen_toks", "do_sample", *_SAME}
    foreign = sorted(set(settings) - known)
    if foreign:
        raise ConfigError(
            f"The task's `generation_kwargs` hold `{foreign[0]}`, which is not understood; there are: {', '.join(sorted(known))}."
        )
    until = settings.get("until") or ()
    stops = tuple(stop for stop in ((until,) if isinstance(until, str) else until) if stop)
    wanted = {name: kind(settings[name]) for name, kind in _SAME.items() if settings.get(name) is not None}
    temperature = wanted.pop("temperature", None)
    draws = bool(settings.get("do_sample", temperature))
    if draws and temperature is None:
        temperature = 1.0
    if not draws:
        temperature = 0.0
        wanted = {name: value for name, value in wanted.items() if name not in ("top_p", "top_k", "min_p")}  # nothing is drawn
    return Sampling(max_new_tokens=int(settings.get("max_gen_toks", MAX_GEN_TOKS)), temperature=temperature, stop=stops, **wanted)


@functools.cache
def harness_class() -> type:
    """The class, on top of the installed harness; MissingPackage with the pip line where there is none."""
    try:
        from lm_eval.api.model import TemplateLM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise MissingPackage(f"The harness's tasks need lm-evaluation-harness: pip install lm-eval==0.4.13 ({error}).") from None

    class TouchstoneLM(TemplateLM):
        """One model: a folder, or a `LanguageModel` that is open. batch_size: requests of one call of the engine; "auto" = 64."""

        def __init__(
            self,
            pretrained: str | os.PathLike[str] | LanguageModel,
            batch_size: int | str = "auto",
            device: str | None = None,
            dtype: str = "auto",
            invariant: bool = False,
        ) -> None:
            super().__init__()
            if isinstance(pretrained, LanguageModel):
                self.touchstone = pretrained
            else:
                self.touchstone = load(Path(pretrained), device=device or "auto", dtype=dtype, invariant=invariant)
            self.tokenizer = self.touchstone.need_tokenizer()
            self.batch_size = REQUESTS if str(batch_size).startswith("auto") else int(batch_size)

        @property
        def eot_token_id(self) -> int | None:
            ids = self.touchstone.eos_ids
            return ids[0] if ids else None

        @property
        def prefix_token_id(self) -> int | None:
            return self.touchstone.prefix_id

        @property
        def max_length(self) -> int | None:
            return bound_of(self.touchstone.net)

        @property
        def max_gen_toks(self) -> int:
            return MAX_GEN_TOKS

        @property
        def tokenizer_name(self) -> str:
            return str(self.tokenizer.fingerprint)

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            if chat_template:
                raise ConfigError("Chat templates are not rendered here; run the task without `--apply_chat_template`.")
            return None

        def tok_encode(self, string: str, **settings: Any) -> list[int]:
            if settings:
                raise ConfigError(f"`tok_encode` takes the text alone, not {', '.join(settings)}.")
            return list(self.tokenizer.encode(string))

        def tok_decode(self, tokens: Sequence[int]) -> str:
            return str(self.tokenizer.decode(tokens))

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = []
            for asked in _parts([request.args for request in requests], self.batch_size):
                found += [(one.logprob, one.is_greedy) for one in self.touchstone.loglikelihood(asked)]
            self._keep("loglikelihood", requests, found)
            return found

        def _loglikelihood_tokens(self, requests: Sequence[Any], **settings: Any) -> list[tuple[float, bool]]:
            pairs = [(tuple(context), tuple(continuation)) for _, context, continuation in requests]
            return [(one.logprob, one.is_greedy) for one in self.touchstone.loglikelihood(pairs)]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            found: list[float] = []
            for texts in _parts([request.args[0] for request in requests], self.batch_size):
                found += [one.logprob for one in self.touchstone.rolling(texts)]
            self._keep("loglikelihood_rolling", requests, found)
            return found

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            found: list[str] = []
            for asked in _parts([request.args for request in requests], self.batch_size):
                prompts: list[Request] = [GenerateRequest(prompt, sampling_of(settings)) for prompt, settings in asked]
                answers: list[Any] = answer_requests(self.touchstone, prompts, cut=True)
                found += [str(completions[0].text) for completions in answers]
            self._keep("generate_until", requests, found)
            return found

        def _keep(self, kind: str, requests: Sequence[Any], answers: Sequence[Any]) -> None:
            """Tell the harness's cache, where one is used."""
            for request, answer in zip(requests, answers, strict=True):
                self.cache_hook.add_partial(kind, request.args, answer)

    register_model("touchstone")(TouchstoneLM)
    return TouchstoneLM


def _parts(items: Sequence[Any], n: int) -> list[list[Any]]:
    return [list(items[start : start + n]) for start in range(0, len(items), n)]
