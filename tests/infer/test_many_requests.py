"""Ten thousand requests through one engine: nothing of them stays, and the cache never holds more than it may."""

import gc
import random
import resource
import sys
from pathlib import Path

import pytest
import torch

from conftest import sharpened
from touchstone.errors import ConfigError
from touchstone.infer.engine import Engine
from touchstone.infer.request import Request, Sampling
from touchstone.infer.scheduler import Limits
from touchstone.models import decoder_spec

N_REQUESTS = 10_000
GROUP = 100
MAX_TOKENS = 512
N_SETTLING = 2000  # requests after which caches are full
MAX_GROWTH = 8 * 2**20  # bytes over 8000 requests: allocators wander by some megabytes, the objects of one request kept are 5 kB and more

SPEC = decoder_spec(vocab_size=31, d_model=32, n_layers=2, n_heads=2, max_seq_len=128)


def resident():
    gc.collect()
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def group_of(rng):
    """Prompts of which some begin alike, with settings of many kinds; some are cancelled, some fail, some choose several times."""
    shared = [rng.randrange(1, 31) for _ in range(40)]
    for _ in range(GROUP):
        prompt = [*shared[: rng.choice((0, 0, 33))], *(rng.randrange(1, 31) for _ in range(rng.randrange(1, 8)))]
        yield Request(
            prompt, Sampling(max_new_tokens=rng.randrange(1, 4), seed=rng.randrange(10**6), n=rng.choice((1, 1, 1, 2)), top_logprobs=1)
        )


@pytest.mark.slow
def test_ten_thousand_requests_leave_no_growth_and_keep_the_budget():
    engine = Engine(sharpened(SPEC), max_cached_tokens=MAX_TOKENS, limits=Limits(max_texts=24))
    pool, rng = engine.batch.scheduler.pool, random.Random(0)
    most_used, n_done, before = 0, 0, None
    while n_done < N_REQUESTS:
        requests = list(group_of(rng))
        stream = engine.stream(requests)
        for number, event in enumerate(stream):
            most_used = max(most_used, pool.n_used)
            if number == 50:
                engine.cancel(requests[-1].id)
            if number == 150 and rng.random() < 0.2:
                stream.close()  # a client that went away
                break
            assert event.request_index < GROUP
        n_done += GROUP
        assert (pool.n_used, len(engine._running), len(engine._cancelled), len(engine.batch._lives)) == (0, 0, 0, 0)
        assert not engine.batch.scheduler.running
        assert not engine.batch.scheduler.waiting
        if before is None and n_done >= N_SETTLING:
            before, n_objects = resident(), len(gc.get_objects())
    assert most_used * pool.block_size <= MAX_TOKENS
    assert most_used * pool.block_size > MAX_TOKENS // 2  # the budget was what held requests back
    assert len(gc.get_objects()) < n_objects * 1.01 + 1000
    assert resident() - before < MAX_GROWTH
    assert len(pool._published) <= pool.n_blocks


def test_a_request_that_can_never_fit_is_refused_at_once_with_both_numbers():
    engine = Engine(sharpened(SPEC), max_cached_tokens=64)
    with pytest.raises(ConfigError, match=r"\b100\b.*\b64\b"):
        engine.stream(Request([1] * 90, Sampling(max_new_tokens=10)))
    assert len(engine.generate([Request([1] * 50, Sampling(max_new_tokens=10))])) == 1


@pytest.mark.slow
def test_the_numbers_of_a_request_do_not_depend_on_what_ran_before():
    asked = Request([5, 6, 7], Sampling(max_new_tokens=6, seed=3, temperature=1.0))
    engine = Engine(sharpened(SPEC), max_cached_tokens=MAX_TOKENS, limits=Limits(max_texts=24))
    [first] = engine.generate([asked])
    rng = random.Random(1)
    for _ in range(5):
        engine.generate(list(group_of(rng)))
    [again] = engine.generate([asked])
    assert again.token_ids == first.token_ids
    assert torch.allclose(torch.tensor(again.logprobs), torch.tensor(first.logprobs), atol=1e-4)
