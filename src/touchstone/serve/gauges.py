"""What `/metrics` tells, for Prometheus. The names end as vLLM's do, so that boards made for it serve with another prefix.

No label holds anything that a client sent: sets of labels that grow without end have filled servers' memory (PYSEC-2026-4325).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["CONTENT_TYPE", "ENDPOINTS", "Gauges"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
ENDPOINTS = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
    "/v1/embeddings": "embeddings",
    "/v1/score": "score",
    "/v1/classify": "classify",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
"""What each path that is posted to is called."""
_REASONS = ("stop", "length", "tool_calls", "error", "cancelled")

_ENGINE_GAUGES = {
    "running": ("num_requests_running", "Choices that are being decoded, and readings."),
    "waiting": ("num_requests_waiting", "Choices that wait for room."),
    "cache_used": ("kv_cache_usage_perc", "Share of the cache's blocks in use, 1 = full."),
}
_ENGINE_COUNTERS = {
    "prefix_queries": ("prefix_cache_queries", "Blocks of prompts that were looked for in the cache."),
    "prefix_hits": ("prefix_cache_hits", "Blocks of prompts that were found in the cache."),
    "preemptions": ("num_preemptions", "Choices that gave up their room and were read again later."),
    "steps": ("engine_steps", "Steps of the batch."),
}

_DRIFT_GAUGES = {
    "n_live": ("calibration_live_answers", "Answers whose confidence was held against those that the calibration was measured on."),
    "distance": ("calibration_drift_distance", "How far the two distributions differ, 0 to 1 (Kolmogorov-Smirnov)."),
    "evidence": ("calibration_drift_evidence", "How strongly that speaks against chance; at 1 it counts as drift."),
}


class Gauges:
    """The figures of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._engine: Mapping[str, Any] = {}
        self._registry.register(self)
        make: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("touchstone:requests", "Requests, by where and how they ended.", ["endpoint", "status"], **make)
        self._finished = Counter("touchstone:request_success", "Choices that were finished, by why.", ["finished_reason"], **make)
        self._prompt_tokens = Counter("touchstone:prompt_tokens", "Tokens of prompts.", **make)
        self._new_tokens = Counter("touchstone:generation_tokens", "Tokens that were generated.", **make)
        self._starts = Gauge("touchstone:engine_starts", "How often the engine process was started.", **make)
        self._is_up = Gauge("touchstone:engine_up", "1 while the engine answers.", **make)
        self.first_token = Histogram("touchstone:time_to_first_token_seconds", "From request to first token.", buckets=_LONG, **make)
        self.next_token = Histogram("touchstone:inter_token_latency_seconds", "Between tokens of a choice.", buckets=_SECONDS, **make)
        self.whole = Histogram("touchstone:e2e_request_latency_seconds", "Whole requests.", buckets=_LONG, **make)
        self.queued = Histogram("touchstone:request_queue_time_seconds", "Until the first choice got room.", buckets=_LONG, **make)
        for endpoint in ENDPOINTS.values():
            self._requests.labels(endpoint, "2xx")
        for reason in _REASONS:
            self._finished.labels(reason)

    def ended(self, endpoint: str, status: int, seconds: float) -> None:
        """A request is over. endpoint: one of ours, never what the client wrote."""
        self._requests.labels(endpoint, f"{status // 100}xx").inc()
        self.whole.observe(seconds)

    def refused(self, path: str, status: int) -> None:
        """A request was not taken; any path that is not posted to counts as `other`."""
        self._requests.labels(ENDPOINTS.get(path, "other"), f"{status // 100}xx").inc()

    def wrote(self, finish_reasons: list[str], prompt_tokens: int, new_tokens: int) -> None:
        """An answer was generated."""
        for reason in finish_reasons:
            self._finished.labels(reason if reason in _REASONS else "error").inc()
        self._prompt_tokens.inc(prompt_tokens)
        self._new_tokens.inc(new_tokens)

    def text(self, engine: Mapping[str, Any] | None, n_starts: int) -> bytes:
        """All figures; engine: what the engine process tells of itself, None while there is none."""
        self._engine = engine or {}
        self._is_up.set(engine is not None)
        self._starts.set(n_starts)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry: the engine's own figures as they were last told."""
        for key, (name, about) in _ENGINE_GAUGES.items():
            yield GaugeMetricFamily(f"touchstone:{name}", about, value=self._engine.get(key, 0))
        for key, (name, about) in _ENGINE_COUNTERS.items():
            yield CounterMetricFamily(f"touchstone:{name}", about, value=self._engine.get(key, 0))
        for key, (name, about) in _DRIFT_GAUGES.items():
            family = GaugeMetricFamily(f"touchstone:{name}", about, labels=["calibration"])  # a name from the model's card
            for calibration, told in self._engine.get("drift", {}).items():
                family.add_metric([calibration], told[key])
            yield family
