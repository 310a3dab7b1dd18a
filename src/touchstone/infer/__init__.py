"""Running a model: requests, sampling, the engine, scoring of given text, and `LanguageModel`, which ties them together."""

from touchstone.infer.engine import Engine
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.loading import load, save
from touchstone.infer.logits import LogitsChunk
from touchstone.infer.request import Completion, Confidence, Request, Sampling, TokenEvent, TokenLogprob
from touchstone.infer.rules import Rule
from touchstone.infer.score import LogLikelihood, Rolling, rolling_logits, rolling_token_logprobs

__all__ = [
    "Completion",
    "Confidence",
    "Engine",
    "LanguageModel",
    "LogLikelihood",
    "LogitsChunk",
    "Request",
    "Rolling",
    "Rule",
    "Sampling",
    "TokenEvent",
    "TokenLogprob",
    "load",
    "rolling_logits",
    "rolling_token_logprobs",
    "save",
]
