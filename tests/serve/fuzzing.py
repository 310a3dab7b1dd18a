"""Requests made from /openapi.json by schemathesis: such as it describes, and such as break it in every place."""

import collections
import json
from dataclasses import dataclass, field

import schemathesis
from schemathesis.engine import events, from_schema

PATIENCE_S = 60
LARGEST_ID = 39  # that all the models of these tests have
RESTRICTED = {"model", "stream_options", "best_of", "min_tokens", "response_format", "regex", "grammar", "choice"}
RESTRICTED |= {"tools", "tool_choice", "tool_calls", "task"}


@dataclass
class Findings:
    """statuses: how often each was answered, by operation. failures: what no request may bring about, with the request."""

    statuses: dict[str, collections.Counter] = field(default_factory=lambda: collections.defaultdict(collections.Counter))
    failures: list[str] = field(default_factory=list)

    @property
    def n_requests(self):
        return sum(counts.total() for counts in self.statuses.values())

    @property
    def answers(self):
        """How often each status was answered."""
        return sum(self.statuses.values(), collections.Counter())


def fuzz(server, n_examples, *, seed, headers=None, requires_key=False):
    """n_examples a route and phase: the ends of every field (coverage), then drawn ones; half of them by the narrowed description.

    What took PATIENCE_S, or was no HTTP, is a failure, and so is an answer that the description does not foresee.
    """
    names = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
    names += ["ignored_auth"] if requires_key else []
    config = {
        "seed": seed,
        "base-url": server.address,
        "headers": headers or {},
        "request-timeout": PATIENCE_S,
        "continue-on-failure": True,
        "workers": 1,
        "generation": {"mode": "all", "max-examples": max(1, n_examples // 2), "allow-x00": True, "no-shrink": True},
        "phases": {"stateful": {"enabled": False}, "examples": {"enabled": False}},
        "checks": {"enabled": False, **{name: {"enabled": True} for name in names}},
    }
    found = Findings()
    document = json.loads(server.ask("GET", "/openapi.json", headers=headers)[2])
    for each in (document, narrowed(document)):
        schema = schemathesis.openapi.from_dict(each, config=schemathesis.Config.from_dict(config))
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                _note(event.recorder, found)
            elif isinstance(event, events.NonFatalError):
                found.failures.append(f"{event.label}: {event.value!r}")
            elif isinstance(event, events.FatalError):
                raise event.exception
    return found


def narrowed(document):
    """The same without the fields that exclude each other or name what is not there, so that more requests reach the model."""
    document = json.loads(json.dumps(document).replace(str(2**31 - 1), str(LARGEST_ID)))
    text, turn = {"type": "string", "minLength": 1}, {"enum": ["system", "user", "assistant"]}
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}, "minItems": 1, "maxItems": 9}
    wanted = {
        "CompletionRequest": {"prompt": {"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": 3}, ids]}},
        "ChatMessage": {"content": text, "role": turn},
        "ScoreRequest": {"context": text, "continuations": {"type": "array", "items": text, "minItems": 2, "maxItems": 5}},
        "TokenizeRequest": {"content": text},
        "EmbeddingRequest": {"input": text},
        "ClassifyRequest": {"input": text},
    }
    biases = {"type": "object", "propertyNames": {"enum": ["0", "7", str(LARGEST_ID)]}, "additionalProperties": {"type": "integer"}}
    for name, schema in document["components"]["schemas"].items():
        properties = schema.get("properties", {})
        for each in RESTRICTED & set(properties):
            del properties[each]
        if "logit_bias" in properties:
            properties["logit_bias"] = biases
        if name in wanted:
            properties |= wanted[name]
            schema["required"] = sorted({*schema.get("required", ()), *wanted[name]})
    del document["components"]["schemas"]["TokenizeRequest"]["properties"]["prompt"]
    return document


def _note(recorder, found):
    for case_id, interaction in recorder.interactions.items():
        if interaction.response is None:
            found.failures.append(f"{recorder.label}: no answer to {interaction.request.body!r:.300}")
            continue
        found.statuses[recorder.label][interaction.response.status_code] += 1
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                request = interaction.request
                told = f"{check.name}: {check.failure_info.failure}"
                found.failures.append(f"{recorder.label}: {told} | {request.method} {request.uri} {request.body!r:.300}")
