"""A script of its own process: compile grammars and follow them for a few tokens, so that one the compiler cannot bear ends this process.

Run by `trial.py` as `python -I trial_worker.py`; JSON comes and goes, each behind its length in four bytes. Only the standard library and
llguidance are imported. The time is the processor's, so that a busy machine refuses nothing that a quiet one takes.
"""

import contextlib
import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import llguidance

MAX_MEMORY_BYTES = 4 << 30
STACK_BYTES = 4 << 20  # half of what threads have elsewhere: what fits here fits there
N_STEPS = 4


class Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.tokens = [bytes.fromhex(token) for token in told["tokens"]]
        self.special_token_ids = told["special"]
        self.eos_token_id = told["ends"][0]
        self.bos_token_id = told["bos"]
        special = set(told["special"])
        self._by_bytes = {data: id for id, data in enumerate(self.tokens) if data and id not in special}
        self._longest = max(map(len, self._by_bytes), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """Which tokens spell a text matters not to whether a grammar can be compiled."""
        return longest_first(text.encode("utf-8") if isinstance(text, str) else text, self._by_bytes, self._longest)


def longest_first(data: bytes, by_bytes: Mapping[bytes, int], longest: int) -> list[int]:
    """Tokens that spell the bytes, the longest one first at each place; up to the first byte that none spells."""
    found: list[int] = []
    place = 0
    while place < len(data):
        ends = range(min(len(data), place + longest), place, -1)
        end = next((end for end in ends if data[place:end] in by_bytes), None)
        if end is None:
            break
        found.append(by_bytes[data[place:end]])
        place = end
    return found


def main() -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS does not take it
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends this process, whatever it was started from
    told = _heard()
    tokens = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary(told)), eos_token=told["ends"])
    limits = llguidance.LLParserLimits(**told["limits"])
    threading.stack_size(STACK_BYTES)
    _say(b"")
    while (grammar := _heard()) is not None:
        found: list[dict[str, Any]] = []
        signal.setitimer(signal.ITIMER_PROF, told["seconds"])  # its signal ends the process, in the midst of whatever
        thread = threading.Thread(target=lambda text=grammar, found=found: found.append(_tried(text, tokens, limits, told)))
        thread.start()
        thread.join()
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not found:  # it raised
            return
        _say(json.dumps(found[0]).encode())


def _tried(grammar: str, tokens: llguidance.LLTokenizer, limits: llguidance.LLParserLimits, told: Mapping[str, Any]) -> dict[str, Any]:
    """problem: what the compiler, or the parser at its first steps, says against a grammar. is_slow: every one of those steps is."""
    matcher = llguidance.LLMatcher(tokens, grammar, log_level=0, limits=limits)
    seconds: list[float] = []
    for _ in range(N_STEPS):
        if matcher.is_error() or matcher.is_stopped():
            break
        began = time.thread_time()
        mask = matcher.compute_bitmask()
        allowed = (place * 8 + bit for place, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1)
        token_id = next((id for id in allowed if id not in told["ends"]), None)
        if matcher.is_error() or token_id is None:
            break
        matcher.consume_token(token_id)
        seconds.append(time.thread_time() - began)
    problem = matcher.get_error() if matcher.is_error() else None
    return {"problem": problem, "is_slow": min(seconds, default=0.0) > told["step_seconds"]}


def _heard() -> Any:
    """What comes next; None at the end."""
    head = sys.stdin.buffer.read(4)
    return json.loads(sys.stdin.buffer.read(int.from_bytes(head, "big"))) if len(head) == 4 else None


def _say(answer: bytes) -> None:
    sys.stdout.buffer.write(len(answer).to_bytes(4, "big") + answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
